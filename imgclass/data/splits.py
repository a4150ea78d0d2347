"""Naming examples: subsets of splits, and the tfds slicing language that selects them.

'train[:90%]' or 'train[10%:20%]+test' means here, for every kind of data set, what it means to
TensorFlow Datasets. Nothing here reads a picture or decides which split serves what (`roles.py`).
"""

import difflib
import hashlib
import re
import types
from collections.abc import Mapping, Sequence

import numpy as np

from imgclass.data.source import Indices, Record, Split, checked_indices
from imgclass.errors import UsageError

VALIDATION_NAMES = ("validation", "valid", "val")


class Subset(Split):
    """Chosen examples of one or more splits, in a chosen order."""

    def __init__(self, name: str, parts: Sequence[tuple[Split, np.ndarray]]):
        """Joins parts.

        Args:
          name: what this split is called.
          parts: splits, each with the int64[k] positions to take from it.
        """
        self.name = name
        self.parts = tuple(
            (parent, checked_indices(chosen, len(parent))) for parent, chosen in parts
        )
        self._starts = np.cumsum([0, *(len(chosen) for _, chosen in self.parts)])
        self._labels: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """The class of every example, int32[n]."""
        if self._labels is None:
            pieces = [parent.labels[chosen] for parent, chosen in self.parts]
            self._labels = np.concatenate(pieces).astype(np.int32) if pieces else np.zeros(0, "i4")
        return self._labels

    @property
    def fingerprint(self) -> str:
        """The parent's own fingerprint where all of one parent is taken in order."""
        if len(self.parts) == 1:
            parent, chosen = self.parts[0]
            if np.array_equal(chosen, np.arange(len(parent))):
                return parent.fingerprint
        digest = hashlib.blake2b(digest_size=16)
        for parent, chosen in self.parts:
            digest.update(f"{parent.fingerprint} {len(chosen)} ".encode())
            digest.update(chosen.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def fingerprint_kind(self) -> str:
        """'content' only if it is so for every parent."""
        kinds = {parent.fingerprint_kind for parent, _ in self.parts}
        return "sizes" if "sizes" in kinds else "content"

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, positions: np.ndarray, name: str) -> "Subset":
        """Returns the examples at `positions` (int64[k] into this subset) as a subset."""
        places = checked_indices(positions, len(self))
        owner = np.searchsorted(self._starts, places, side="right") - 1
        parts = []
        for part, (parent, chosen) in enumerate(self.parts):
            mine = places[owner == part] - self._starts[part]
            if len(mine):
                parts.append((parent, chosen[mine]))
        return Subset(name, parts)

    def read(self, indices: Indices) -> list[Record]:
        """Returns the records at `indices`, in that order; see `Split.read`."""
        return self._gather(indices, "read")

    def example_names(self, indices: Indices) -> list[str]:
        """Returns the parents' names of the examples at `indices`."""
        return self._gather(indices, "example_names")

    def _gather(self, indices: Indices, method: str) -> list:
        places = checked_indices(indices, len(self))
        owner = np.searchsorted(self._starts, places, side="right") - 1
        found: list = [None] * len(places)
        for part in np.unique(owner):
            parent, chosen = self.parts[part]
            rows = np.flatnonzero(owner == part)
            # One call a parent: backends are fastest when asked for many examples at once.
            items = getattr(parent, method)(chosen[places[rows] - self._starts[part]])
            for row, item in zip(rows, items, strict=True):
                found[row] = item
        return found


def select(spec: str, splits: Mapping[str, Split], key: str, name: str) -> Subset:
    """Returns the examples that a split specification names.

    Args:
      spec: the tfds slicing language: split names with an optional [from:to] in examples or
        percent (rounded to the nearest example, negative from the end), joined by '+'.
      splits: the data set's own splits. 'val', 'valid' and 'validation' mean the same.
      key: the config key that `spec` came from, for messages.
      name: name of the result.

    Raises:
      UsageError: a name is not there, a slice is malformed or reaches outside its split, no
        example is selected, or one is selected twice.
    """
    asked = [re.split(r"[\[\s]", part.strip(), maxsplit=1)[0] for part in spec.split("+")]
    resolved = {word: _resolve(word, splits, f"{key}={spec!r}") for word in asked}
    if "[" in spec or "+" in spec:
        ranges = _slices(spec, {word: len(splits[own]) for word, own in resolved.items()}, key)
    else:
        ranges = [(asked[0], 0, len(splits[resolved[asked[0]]]))]
    parts = [(splits[resolved[word]], np.arange(start, stop)) for word, start, stop in ranges]
    subset = Subset(name, parts)
    if not len(subset):
        raise UsageError(f"{key}={spec!r} selects no examples")
    repeated = sum(len(np.unique(chosen)) for chosen in by_parent(subset).values())
    if repeated < len(subset):
        raise UsageError(f"{key}={spec!r} names {len(subset) - repeated} examples twice")
    return subset


def by_parent(subset: Subset) -> dict[int, np.ndarray]:
    """Returns which positions of each parent a subset holds, by the parent's identity."""
    positions: dict[int, list[np.ndarray]] = {}
    for parent, chosen in subset.parts:
        positions.setdefault(id(parent), []).append(chosen)
    return {parent: np.concatenate(pieces) for parent, pieces in positions.items()}


def _resolve(word: str, splits: Mapping[str, Split], asked: str) -> str:
    if word in splits:
        return word
    if word in VALIDATION_NAMES:
        same = [name for name in VALIDATION_NAMES if name in splits]
        if same:
            return same[0]
    near = difflib.get_close_matches(word, splits, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"{asked}: no split {word!r} here, only {', '.join(splits)}{hint}")


def _slices(spec: str, lengths: Mapping[str, int], key: str) -> list[tuple[str, int, int]]:
    """Returns (split, start, stop) for each term, as tfds understands it."""
    import tensorflow_datasets as tfds

    infos = {
        word: types.SimpleNamespace(num_examples=length, shard_lengths=[length])
        for word, length in lengths.items()
    }
    try:
        terms = tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
    except (ValueError, NotImplementedError) as error:
        if "incompatible with" in str(error):
            sizes = ", ".join(f"{word} has {length}" for word, length in lengths.items())
            reason = f"reaches outside its split: {sizes} examples"
        else:
            reason = "cannot be read: write it like 'train', 'train[:90%]' or 'train[100:]+test'"
        raise UsageError(f"{key}={spec!r} {reason}") from error
    ranges = []
    for term in terms:
        length = lengths[term.splitname]
        start = 0 if term.from_ is None else term.from_
        stop = length if term.to is None else term.to
        ranges.append((term.splitname, start, max(start, stop)))
    return ranges
