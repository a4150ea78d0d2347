"""The data of a run: an open source less its bad files, and how its pictures are prepared.

`open_dataset` does once what must be done before the first step: leave out bad files if asked to,
compute mean and deviation if asked to. `describe` is what a run stores of it (data.json), and what
a resumed run is checked against.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
import numpy as np

from imgclass.data import decode, load, preprocess, splits
from imgclass.data.source import Record, Source, Split, open_source
from imgclass.errors import UsageError, UserError

CHUNK = 256


@dataclasses.dataclass(frozen=True)
class BadFile:
    """A picture that cannot be decoded: its place in its split, its name, and why."""

    index: int
    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a run trains and evaluates on.

    Attributes:
      source: as opened, bad files included.
      splits: by role, bad files left out.
      bad: the files left out, by role.
      prepare: the preprocessing, mean and deviation filled in.
    """

    source: Source
    splits: dict[str, Split]
    bad: dict[str, list[BadFile]]
    prepare: preprocess.Preprocess


def train_size(data: ml_collections.ConfigDict) -> tuple[int, int]:
    """Returns height and width of training pictures on the wire."""
    height, width = data.load_size or data.image_size
    return height, width


def open_dataset(config: ml_collections.ConfigDict, stored: dict | None = None) -> Dataset:
    """Opens the data of a config.

    Args:
      config: resolved and checked.
      stored: what `describe` returned when the run began, if it did; saves the work done then.

    Raises:
      UsageError: if the data is not what it was then.
      UserError: if it cannot be opened or read.
    """
    data = config.data
    source = open_source(data)
    if "train" not in source.splits or not len(source.splits["train"]):
        raise UsageError(f"{data.name}: no training examples")
    if stored is not None:
        _check_unchanged(source, stored)
    prepare = preprocess.from_config(data)
    bad: dict[str, list[BadFile]] = {}
    if data.bad_files == "skip":
        if stored is not None:
            bad = {
                role: [BadFile(**entry) for entry in about["bad_files"]]
                for role, about in stored["splits"].items()
            }
        else:
            bad = {
                role: find_bad(split, prepare, data.threads)
                for role, split in source.splits.items()
            }
    kept = {role: _without(split, bad.get(role, [])) for role, split in source.splits.items()}
    if not len(kept["train"]):
        first = bad["train"][0]
        raise UserError(
            f"{data.name}: no training examples are left, for none can be decoded; the first is "
            f"{first.name}: {first.reason}"
        )
    if data.standardize == "train":
        if stored is not None:
            before = preprocess.Preprocess.from_json(stored["preprocess"])
            prepare = dataclasses.replace(prepare, mean=before.mean, std=before.std)
        else:
            mean, std = mean_and_std(kept["train"], prepare, data.threads)
            prepare = dataclasses.replace(prepare, mean=mean, std=std)
    return Dataset(source, kept, bad, prepare)


def _check_unchanged(source: Source, stored: dict) -> None:
    now = {role: split.fingerprint for role, split in source.splits.items()}
    then = {role: about["fingerprint"] for role, about in stored["splits"].items()}
    changed = sorted(role for role in now.keys() | then.keys() if now.get(role) != then.get(role))
    if changed or list(source.class_names) != stored["class_names"]:
        what = ", ".join(changed) or "the class names"
        raise UsageError(
            f"{source.name}: the data is not what this run began with ({what} changed). Put it "
            "back, or start anew with another --workdir"
        )


def _without(split: Split, bad: list[BadFile]) -> Split:
    if not bad:
        return split
    kept = np.delete(np.arange(len(split)), [entry.index for entry in bad])
    return splits.Subset(split.name, [(split, kept)])


def find_bad(split: Split, prepare: preprocess.Preprocess, threads: int = 0) -> list[BadFile]:
    """Decodes every picture of a split and returns those that cannot be, in order."""

    def check(start: int) -> list[BadFile]:
        found = []
        indices = range(start, min(start + CHUNK, len(split)))
        for index, record in zip(indices, read_each(split, indices), strict=True):
            try:
                if isinstance(record, UserError):
                    raise decode.BadImage(str(record))
                prepare.load(record.image)
            except decode.BadImage as error:
                found.append(BadFile(index, split.example_names([index])[0], str(error)))
        return found

    with concurrent.futures.ThreadPoolExecutor(load.thread_count(threads)) as pool:
        return [bad for part in pool.map(check, range(0, len(split), CHUNK)) for bad in part]


def read_each(split: Split, indices: Sequence[int]) -> Iterator[Record | UserError]:
    """Yields records; one that cannot be read is the error that says so."""
    try:
        yield from split.read(indices)
    except UserError as error:
        if len(indices) == 1:
            yield error
            return
        for index in indices:
            yield from read_each(split, [index])


def mean_and_std(
    split: Split, prepare: preprocess.Preprocess, threads: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns per-channel mean and standard deviation of all pixels, in [0,1] units.

    Sums are of whole numbers, so the result does not depend on threads or order.
    """

    def sums(start: int) -> tuple[np.ndarray, np.ndarray, int]:
        indices = range(start, min(start + CHUNK, len(split)))
        images = load.examples(split, indices, prepare, prepare.image_size)
        total, squares = np.zeros((2, prepare.channels), np.int64)
        for image in images:  # one at a time, for whole numbers take eight times the memory
            pixels = image.reshape(-1, prepare.channels).astype(np.int64)
            total += pixels.sum(0)
            squares += (pixels**2).sum(0)
        return total, squares, images.size // prepare.channels

    with concurrent.futures.ThreadPoolExecutor(load.thread_count(threads)) as pool:
        parts = list(pool.map(sums, range(0, len(split), CHUNK)))
    total, squares, count = (sum(part[i] for part in parts) for i in range(3))
    mean = np.asarray(total, np.float64) / count
    variance = np.asarray(squares, np.float64) / count - mean**2
    std = np.sqrt(np.maximum(variance, 0.0)) / 255
    if (std == 0).any():
        raise UsageError("data.standardize='train': a channel is the same in every picture")
    return tuple((mean / 255).tolist()), tuple(std.tolist())


def describe(dataset: Dataset) -> dict[str, Any]:
    """Returns plain data: sizes, class counts, fingerprints, bad files, preprocessing."""
    source = dataset.source
    names = source.class_names
    return {
        "name": source.name,
        "kind": source.kind,
        "class_names": list(names),
        "splits": {
            role: {
                "examples": len(dataset.splits[role]),
                "class_counts": np.bincount(
                    dataset.splits[role].labels, minlength=len(names)
                ).tolist(),
                "fingerprint": split.fingerprint,
                "fingerprint_kind": split.fingerprint_kind,
                "bad_files": [dataclasses.asdict(bad) for bad in dataset.bad.get(role, [])],
            }
            for role, split in source.splits.items()
        },
        "preprocess": dataset.prepare.to_json(),
    }
