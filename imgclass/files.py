"""Files: written whole or not at all, errors in one line, figures, digests, the cache folder."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from imgclass.errors import UsageError, UserError


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old one or the new, never a part.

    Raises:
      OSError: it cannot be written; its `filename` is `path`, whatever failed.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # another process has its own
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


def digest(value: Any) -> str:
    """Returns 32 hexadecimal digits of plain data, whatever the order of its keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def cache_folder() -> pathlib.Path:
    """Returns $XDG_CACHE_HOME/imgclass or ~/.cache/imgclass, for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "imgclass"


@contextlib.contextmanager
def writing(path: str | pathlib.Path) -> Iterator[None]:
    """Makes a UserError that names `path` of what keeps a file from being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def check_figure(path: pathlib.Path) -> None:
    """Raises UsageError if the name ends in neither .png nor .svg."""
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot={path}: its name has to end in .png or .svg")


def save_figure(figure: Any, path: pathlib.Path, dpi: int = 100) -> None:
    """Writes a matplotlib figure, equal figures as equal bytes.

    Raises:
      UsageError: the name ends in neither .png nor .svg.
      UserError: it cannot be written.
    """
    import matplotlib as mpl

    check_figure(path)
    undated = {"Date": None} if path.suffix == ".svg" else None
    with writing(path), mpl.rc_context({"svg.hashsalt": "imgclass"}):
        figure.savefig(path, dpi=dpi, metadata=undated)
