"""Predicts new pictures with a run's weights and a run's own preprocessing."""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

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

    def is_below(self, threshold: float | None) -> bool:
        """Returns whether the likeliest class has less than a probability; None is no threshold.

        As float32, so that a threshold from `measures.threshold_for_error` keeps its own example,
        printed with nine digits or more.
        """
        assert self.probabilities is not None
        return threshold is not None and not self.probabilities.max() >= np.float32(threshold)


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


def content(path: str) -> bytes:
    """Reads a file. A pipe or a device is refused: reading one may never end."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise decode.BadImage("not a regular file")
    if about.st_size > folder.LARGEST_FILE:
        raise decode.BadImage(
            f"{about.st_size:,} bytes; a picture has {folder.LARGEST_FILE:,} at most"
        )
    return pathlib.Path(path).read_bytes()


def predict(restored: Restored, paths: Sequence[str], batch_size: int = 64) -> Iterator[Prediction]:
    """Yields a prediction for every path, in order; a file that cannot be read has its error.

    The probabilities are those `evaluate` scores: same preprocessing, same step, same weights.
    """
    task = restored.task
    devices = task.mesh.devices.size
    rows = -(-min(batch_size, len(paths)) // devices) * devices
    eval_step = task.jitted_eval_step()
    chunk: list[str] = []

    def flush() -> Iterator[Prediction]:
        images = np.zeros((rows, *task.prepare.image_size, task.prepare.channels), np.uint8)
        errors: dict[int, str] = {}
        for row, path in enumerate(chunk):
            try:
                images[row] = task.prepare.load(content(path))
            except decode.BadImage as error:
                errors[row] = str(error)
            except OSError as error:
                errors[row] = error.strerror or str(error)
        batch: dict[str, Any] = {
            "image": images,
            "label": np.zeros(rows, np.int32),
            "index": np.zeros(rows, np.int32),
            "mask": np.zeros(rows, bool),
        }
        probabilities = np.asarray(eval_step(restored.variables, batch)[1])
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
