"""Writing files: never half done for a crash or a reader; errors in one line; figures."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from imgclass.errors import UserError


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old one or the new, never a part.

    Raises:
      OSError: it cannot be written; its `filename` is `path`, whatever failed.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def writing(path: str | pathlib.Path) -> Iterator[None]:
    """Makes a UserError that names `path` of what keeps a file from being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def save_figure(figure: Any, path: pathlib.Path, dpi: int = 100) -> None:
    """Writes a matplotlib figure in the format of the name's ending, equal figures as equal bytes.

    Raises:
      UserError: it cannot be written, or the ending is none that matplotlib knows.
    """
    import matplotlib as mpl

    undated = {"Date": None} if path.suffix == ".svg" else None
    try:
        with writing(path), mpl.rc_context({"svg.hashsalt": "imgclass"}):
            figure.savefig(path, dpi=dpi, metadata=undated)
    except ValueError as error:
        raise UserError(f"{path}: cannot be drawn ({error})") from None
