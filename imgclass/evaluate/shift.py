"""A run on pictures from elsewhere: a second data set with the same classes.

Classes are matched by name, and the pictures prepared as the run prepares its own. Nothing is
trained or written.
"""

import copy
import dataclasses
from typing import Any

import numpy as np

from imgclass import feeds
from imgclass.data import dataset, source, splits
from imgclass.errors import UsageError
from imgclass.evaluate import bootstrap, outcomes, robustness
from imgclass.evaluate.restore import Restored


@dataclasses.dataclass(frozen=True)
class Second:
    """Another data set, of which every split is taken.

    Attributes:
      name: as data.name.
      source: it, opened.
      every: all its labelled pictures, bad ones left out if the run left out its own.
    """

    name: str
    source: source.Source
    every: splits.Subset


def second_source(found: Restored, name: str) -> Second:
    """Opens another data set; nothing is scored.

    Args:
      found: the run whose classes it has to have.
      name: as data.name: a folder, a table, an .npz, or the name of a tfds set.

    Raises:
      UsageError: it is not there, has no picture, or has a class that the run does not know.
      UserError: it cannot be read.
    """
    opened = _opened(found, name)
    stored = {split.get("fingerprint") for split in found.data["splits"].values()} - {None}
    if stored & {split.fingerprint for split in opened.splits.values()}:
        raise UsageError(
            f"--against={name}: this is the run's own data, not a second source; --split says "
            "which part of it to score"
        )
    unknown = sorted(set(opened.class_names) - set(found.task.class_names))
    if unknown:
        raise UsageError(
            f"--against={name}: {found.folder} knows no class {', '.join(map(repr, unknown[:5]))}; "
            f"it knows {', '.join(map(repr, found.task.class_names[:5]))}"
            f"{', ...' if len(found.task.class_names) > 5 else ''}"
        )
    parts: list[tuple[source.Split, np.ndarray]] = []
    for split in opened.splits.values():
        kept = np.arange(len(split))
        if found.task.config.data.bad_files == "skip":
            bad = dataset.find_bad(split, found.task.prepare, found.task.config.data.threads)
            kept = np.delete(kept, [entry.index for entry in bad])
        parts.append((split, kept))
    every = splits.Subset("all", parts)
    if not len(every):
        raise UsageError(f"--against={name}: no pictures")
    return Second(name, opened, every)


def _opened(found: Restored, name: str) -> source.Source:
    """Opens it by its 'train' split and whatever is beside that, or else by its 'test' split."""
    refused: UsageError | None = None
    for train, test in (("train", "auto"), ("test", "")):
        data = copy.deepcopy(found.task.config.data)
        data.name, data.train_split, data.validation_split = name, train, "auto"
        data.test_split, data.group_by, data.long_tail = test, "", 1.0
        try:
            return source.open_source(data)
        except UsageError as error:
            refused = refused or error
    assert refused is not None
    raise type(refused)(f"--against: {refused}")


def compared(
    found: Restored, first: np.ndarray, second: Second, examples: int | None, tta: str
) -> dict[str, Any]:
    """Scores a run on a second source.

    Args:
      found: the run.
      first: bool[n], whether it is right on the examples of its own split.
      second: from `second_source`.
      examples: so many of it, by `robustness.chosen`; all if None.
      tta: views to average the logits over.

    Returns:
      'against', 'examples', 'accuracy' with its interval, 'missing_classes' (those of the run that
      the second source lacks), and 'difference' (second less first) with its interval. Intervals
      are of 95%, the pictures of either source resampled by themselves.

    Raises:
      UserError: a picture cannot be read.
    """
    every = second.every
    if examples is not None:
        every = every.take(robustness.chosen(len(every), examples), "all")
    data = dataset.Dataset(second.source, {"all": every}, {}, found.task.prepare)
    feed = feeds.eval_feed(found.task, data, "all")
    assert feed is not None
    said = outcomes.collect(found.task.jitted_eval_step(tta), found.variables, feed)
    ours = np.array([found.task.class_names.index(n) for n in second.source.class_names], np.int32)
    right = outcomes.Outcomes(said.probabilities, ours[said.labels], said.index).right
    low, high = np.quantile(_means(right, 1) - _means(first, 2), [0.025, 0.975])
    return {
        "against": second.name,
        "examples": len(right),
        **robustness.with_interval("accuracy", right),
        "difference": float(right.mean() - first.mean()),
        "difference_interval": [float(low), float(high)],
        "missing_classes": sorted(set(found.task.class_names) - set(second.source.class_names)),
    }


def _means(right: np.ndarray, seed: int) -> np.ndarray:
    """Returns f64[resamples], the mean of bool[n] in each."""
    parts = [counts @ right for counts in bootstrap.resampled(len(right), seed=seed)]
    return np.concatenate(parts) / len(right)
