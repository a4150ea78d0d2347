"""What a model said of every example of a split: collected once, and every figure follows from it.

`of_split` is how a verb gets it. `write` and `read` keep the part by which runs are compared, some
24 bytes an example, in the run folder. No figure is computed here (see `measures`), and nothing is
scored unasked.
"""

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from imgclass import feeds, files, looks, parallel
from imgclass.data import dataset
from imgclass.errors import UsageError, UserError
from imgclass.evaluate.restore import Restored
from imgclass.step import EvalStep


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What a model said of every example of a split, in the feed's order.

    Attributes:
      probabilities: f32[n, classes].
      labels: i32[n], the true ones.
      index: i64[n], the example's position in its split.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """i32[n], the likeliest label; of equally likely ones the lowest."""
        return np.argmax(self.probabilities, axis=1).astype(np.int32)

    @property
    def confidence(self) -> np.ndarray:
        """f32[n], the probability of the likeliest label."""
        return np.max(self.probabilities, axis=1)

    @property
    def right(self) -> np.ndarray:
        """bool[n], whether the likeliest label is the true one; never where it is NaN."""
        return (self.predicted == self.labels) & ~np.isnan(self.confidence)


@dataclasses.dataclass(frozen=True)
class Stored:
    """What `write` keeps of a split's outcomes.

    Attributes:
      step: updates behind the weights.
      index: i64[n], the example's position in its split.
      label: i32[n], the true one.
      predicted: i32[n], the likeliest.
      confidence: f32[n], the probability of the likeliest label.
      probability: f32[n], that of the true label.
    """

    step: int
    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool[n], as `Outcomes.right`."""
        return (self.predicted == self.label) & ~np.isnan(self.confidence)


ARRAYS = {
    "index": np.int64,
    "label": np.int32,
    "predicted": np.int32,
    "confidence": np.float32,
    "probability": np.float32,
}


def collect(eval_step: EvalStep, variables: Any, batches: Iterable[dict]) -> Outcomes:
    """Scores batches, on any number of devices; rows whose mask is false are left out.

    Args:
      eval_step: compiled, from `build.Task.jitted_eval_step`.
      variables: {'params', 'batch_stats'}.
      batches: global batches (`data.feed.EvalFeed`), at least one.
    """
    parts: list[list[np.ndarray]] = []
    for batch in batches:
        found = (eval_step(variables, batch)[1], batch["label"], batch["index"], batch["mask"])
        *rows, mask = map(np.asarray, parallel.fetch(found))
        parts.append([row[mask] for row in rows])
    said, labels, index = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Outcomes(said, labels.astype(np.int32), index.astype(np.int64))


def open_data(found: Restored) -> dataset.Dataset:
    """Opens a run's data, which has to be what the run began with.

    Raises:
      UsageError: it is not, or the run was imported without data.
      UserError: it cannot be opened.
    """
    if found.data["kind"] == "none":
        raise UsageError(
            f"{found.folder}: imported without data; import it with --config.data.name=DATA"
        )
    return dataset.open_dataset(found.task.config, found.data)


def of_split(
    found: Restored,
    data: dataset.Dataset,
    split: str,
    tta: str = "none",
    verb: str = "evaluate",
) -> Outcomes:
    """Scores a run on one of its splits, every example once; of 'test' the look is recorded.

    Args:
      found: the run and its weights.
      data: the run's data, from `open_data`.
      split: 'train', 'validation' or 'test'.
      tta: views to average the logits over, a value of eval.tta.
      verb: who looks, for the record.

    Raises:
      UsageError: the data has no such split.
      UserError: a picture cannot be read, or a look at test cannot be recorded.
    """
    feed = feeds.eval_feed(found.task, data, split)
    if feed is None:
        have = ", ".join(role for role, part in data.splits.items() if len(part))
        raise UsageError(f"{found.folder}: its data has no {split} split; it has {have}")
    outcomes = collect(found.task.jitted_eval_step(tta), found.variables, feed)
    if split == "test":
        looks.record(found.folder, verb, found.step)
    return outcomes


def path_of(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Returns where `write` puts a split's outcomes."""
    return pathlib.Path(folder) / f"predictions-{split}.npz"


def kept(step: int, outcomes: Outcomes) -> Stored:
    """Returns what `write` keeps of the outcomes of weights after `step` updates."""
    rows = np.arange(len(outcomes))
    return Stored(
        step=step,
        index=outcomes.index,
        label=outcomes.labels,
        predicted=outcomes.predicted,
        confidence=outcomes.confidence,
        probability=outcomes.probabilities[rows, outcomes.labels],
    )


def write(folder: pathlib.Path, split: str, step: int, outcomes: Outcomes) -> None:
    """Writes <run>/predictions-<split>.npz, what `Stored` holds, in place of an older one.

    Meant for plain predictions: averaged views would make runs look different that are not.

    Raises:
      UserError: it cannot be written.
    """
    path, stored = path_of(folder, split), kept(step, outcomes)
    arrays: dict[str, Any] = {
        name: np.asarray(getattr(stored, name), kind) for name, kind in ARRAYS.items()
    }
    content = io.BytesIO()
    np.savez_compressed(content, step=np.int64(step), **arrays)
    with files.writing(path):
        files.write_atomically(path, content.getvalue())


def read(folder: pathlib.Path, split: str) -> Stored | None:
    """Returns what `write` kept, None if it kept nothing.

    Raises:
      UserError: the file is damaged, or is no such file.
    """
    path = path_of(folder, split)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
            step = int(file["step"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it, and score again") from None
    shapes = {array.shape for array in arrays.values()}
    kinds = {name: array.dtype for name, array in arrays.items()}
    if len(shapes) != 1 or len(*shapes) != 1 or kinds != ARRAYS:
        raise UserError(f"{path} does not hold predictions; remove it, and score again")
    return Stored(step=step, **arrays)
