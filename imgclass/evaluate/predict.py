"""Predicts new pictures with a run's weights and a run's own preprocessing."""

import contextlib
import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from imgclass import parallel
from imgclass.data import decode, folder
from imgclass.errors import UserError
from imgclass.evaluate.restore import Restored


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One picture's outcome: f32[classes] probabilities, or the reason there are none."""

    path: str
    probabilities: np.ndarray | None
    error: str = ""

    def top(self, count: int) -> list[int]:
        """Returns the `count` likeliest labels, likeliest first; ties by label."""
        assert self.probabilities is not None
        order = np.argsort(-self.probabilities, kind="stable")
        return [int(label) for label in order[:count]]


def find_pictures(paths: Sequence[str]) -> list[str]:
    """Returns files as given, and the pictures below folders, sorted.

    A folder's pictures are those `folder.pictures_below` finds, and links of such a name that lead
    nowhere, which have their error when they are predicted.

    Raises:
      UserError: naming a folder without pictures, or one that cannot be listed. A file that is
        missing is not found out here.
    """
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        below = folder.pictures_below(pathlib.Path(path))
        names = [*below.pictures, *filter(folder.is_picture, below.broken)]
        if not names:
            raise UserError(f"{path}: no pictures ({', '.join(folder.EXTENSIONS)}) in this folder")
        found += [os.path.join(path, name) for name in sorted(names)]
    return found


def predict(restored: Restored, paths: Sequence[str], batch_size: int = 64) -> Iterator[Prediction]:
    """Yields a prediction for every path, in order; a file that cannot be read has its error.

    The probabilities are those `evaluate` scores: same preprocessing, same step, same weights.
    """
    task = restored.task
    devices = task.mesh.devices.size
    rows = -(-min(batch_size, len(paths)) // devices) * devices
    eval_step, put = task.jitted_eval_step(), parallel.put_rows(task.mesh)
    chunk: list[str] = []

    def flush() -> Iterator[Prediction]:
        images = np.zeros((rows, *task.prepare.image_size, task.prepare.channels), np.uint8)
        errors: dict[int, str] = {}
        for row, path in enumerate(chunk):
            try:
                images[row] = task.prepare.load(pathlib.Path(path).read_bytes())
            except decode.BadImage as error:
                errors[row] = str(error)
            except OSError as error:
                errors[row] = error.strerror or str(error)
        batch: dict[str, np.ndarray] = {
            "image": images,
            "label": np.zeros(rows, np.int32),
            "index": np.zeros(rows, np.int32),
            "mask": np.zeros(rows, bool),
        }
        probabilities = jax.device_get(eval_step(restored.variables, put(batch))[1])
        for row, path in enumerate(chunk):
            if row in errors:
                yield Prediction(path, None, errors[row])
            else:
                yield Prediction(path, probabilities[row])

    for path in paths:
        chunk.append(path)
        if len(chunk) == rows:
            yield from flush()
            chunk.clear()
    if chunk:
        yield from flush()


@contextlib.contextmanager
def csv_file(
    path: str, class_names: Sequence[str], top: int
) -> Iterator[Callable[[Prediction], None]]:
    """Opens a table for predictions, a row each, as they come.

    Columns: path, label, probability, label_2, probability_2, ... to `top`, error. The rows go to
    a file beside `path`, which takes its name when the block ends, and is removed if it fails.
    Bytes of a path that are not UTF-8 are written as they are.

    Yields:
      A function that writes the row of one prediction.

    Raises:
      UserError: the file cannot be written.
    """
    top = min(top, len(class_names))
    columns = ["path", "label", "probability"]
    for place in range(2, top + 1):
        columns += [f"label_{place}", f"probability_{place}"]
    target = os.path.realpath(path)
    own = os.path.isfile(target) or not os.path.exists(target)
    partial = f"{target}.{os.getpid()}.partial" if own else target  # a pipe has to be itself
    with _named(path):
        file = open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    writer = csv.writer(file)

    def write(prediction: Prediction) -> None:
        row = [prediction.path]
        if prediction.probabilities is None:
            row += [""] * (len(columns) - 1)
        else:
            for label in prediction.top(top):
                row += [class_names[label], f"{prediction.probabilities[label]:.6f}"]
        with _named(path):
            writer.writerow([*row, prediction.error])

    try:
        with _named(path):
            writer.writerow([*columns, "error"])
        yield write
        with _named(path):
            file.close()
            if own:
                os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        if own:
            pathlib.Path(partial).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
