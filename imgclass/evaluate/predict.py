"""Predicts new pictures with a run's weights and a run's own preprocessing."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from imgclass import parallel
from imgclass.data import decode
from imgclass.errors import UserError
from imgclass.evaluate.restore import Restored

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


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

    Raises:
      UserError: naming a folder without pictures. A file that is missing is not found out here.
    """
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside = [
            os.path.join(folder, name)
            for folder, folders, names in os.walk(path)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        if not inside:
            raise UserError(f"{path}: no pictures ({', '.join(SUFFIXES)}) in this folder")
        found += sorted(inside)
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


def write_csv(
    path: str, predictions: Iterable[Prediction], class_names: Sequence[str], top: int
) -> int:
    """Writes one row a picture; returns how many could not be predicted.

    Columns: path, label, probability, label_2, probability_2, ... to `top`, error.
    """
    top = min(top, len(class_names))
    columns = ["path", "label", "probability"]
    for place in range(2, top + 1):
        columns += [f"label_{place}", f"probability_{place}"]
    failed = 0
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "error"])
        for prediction in predictions:
            if prediction.probabilities is None:
                failed += 1
                writer.writerow([prediction.path, *[""] * (len(columns) - 1), prediction.error])
                continue
            row: list[str] = [prediction.path]
            for label in prediction.top(top):
                row += [class_names[label], f"{prediction.probabilities[label]:.6f}"]
            writer.writerow([*row, ""])
    return failed
