"""`imgclass data`: reads every picture of a data set once, and measures what there is.

`findings.py` judges the measurements and `sheet.py` shows them. Nothing is written here, and a
picture that cannot be read is a measurement, not an error.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
from collections import Counter

import ml_collections
import numpy as np

from imgclass.data import decode, load, preprocess
from imgclass.data.dataset import BadFile, read_each
from imgclass.data.source import Source, Split
from imgclass.data.splits import Subset, by_parent
from imgclass.errors import UserError

CHUNK = 64  # encoded pictures that a thread holds at once; decoded ones it holds one by one
FORMATS = ("jpeg", "png", "webp", "bmp", "gif", "array")
SHOWN = 3  # groups of duplicates, and sizes, given as examples
MEMBERS = 4  # examples named of a group: one of each split, and one of another label, fit


@dataclasses.dataclass(frozen=True)
class Example:
    """An example's name, and the split and class it stands under."""

    split: str
    name: str
    label: str


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Pictures of identical pixels, within one split or between two.

    Attributes:
      splits: one split's name, or two; every picture counted is there twice, or in both.
      pictures: distinct pictures.
      examples: examples in these splits that show one of them.
      labels_differ: how many of the pictures carry more than one label there.
      shown: the first few pictures, each with its first few examples.
    """

    splits: tuple[str, ...]
    pictures: int = 0
    examples: int = 0
    labels_differ: int = 0
    shown: tuple[tuple[Example, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class SplitSurvey:
    """One split, bad files included in `examples` and `class_counts` and in nothing else.

    Attributes:
      examples: how many.
      class_counts: examples of each class, in label order.
      bytes: of the pictures as they are stored, encoded or not.
      heights: least, median and largest, in pixels; () without a good picture.
      widths: likewise.
      sizes: the commonest (height, width, count), commonest first.
      distinct_sizes: how many (height, width) occur.
      formats: count by format; 'array' is a picture stored as pixels.
      colours: count of 'gray' (red, green and blue equal everywhere) and 'colour' pictures.
      bad_files: pictures that cannot be read, in order.
      fingerprint: as the source gives it; None if a tfds shard cannot be read.
    """

    examples: int
    class_counts: tuple[int, ...]
    bytes: int
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    sizes: tuple[tuple[int, int, int], ...]
    distinct_sizes: int
    formats: dict[str, int]
    colours: dict[str, int]
    bad_files: tuple[BadFile, ...]
    fingerprint: str | None


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found in a data set.

    Attributes:
      name: what it was opened as.
      kind: 'folder', 'tfds', ...; see `Source`.
      class_names: in label order.
      splits: by role.
      carved: roles that were held out of the training examples, not given by the data set.
      duplicates: for every split and every pair of splits that has any.
      conflicts: pictures that carry more than one label, anywhere in the data set.
      notes: the source's own.
    """

    name: str
    kind: str
    class_names: tuple[str, ...]
    splits: dict[str, SplitSurvey]
    carved: tuple[str, ...]
    duplicates: tuple[Duplicates, ...]
    conflicts: Duplicates
    notes: tuple[str, ...]

    @property
    def imbalance(self) -> float:
        """Largest over smallest training class, of those that have examples."""
        counts = [count for count in self.splits["train"].class_counts if count]
        return max(counts) / min(counts) if counts else 1.0


class _Measures:
    """Per example of a split, filled in by threads, each its own rows."""

    def __init__(self, count: int):
        self.digests = np.zeros((count, 2), np.uint64)
        self.sizes = np.zeros((count, 2), np.int32)
        self.bytes = np.zeros(count, np.int64)
        self.formats = np.zeros(count, np.uint8)
        self.gray = np.zeros(count, bool)
        self.good = np.zeros(count, bool)

    def put(self, row: int, image: bytes | np.ndarray, max_pixels: int) -> None:
        """Measures one picture. Raises BadImage."""
        if isinstance(image, np.ndarray):
            kind = "array"
            pixels = preprocess.Preprocess(image.shape[:2]).load(image)
        else:
            kind = decode.image_format(image)
            pixels = decode.decode(image, 3, max_pixels)
        digest = hashlib.blake2b(f"{pixels.shape[0]}x{pixels.shape[1]} ".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels).data)
        self.digests[row] = np.frombuffer(digest.digest(), np.uint64)
        self.sizes[row] = pixels.shape[:2]
        self.bytes[row] = image.nbytes if isinstance(image, np.ndarray) else len(image)
        self.formats[row] = FORMATS.index(kind)
        self.gray[row] = _is_gray(pixels[0]) and _is_gray(pixels)
        self.good[row] = True


def survey(source: Source, data: ml_collections.ConfigDict) -> Survey:
    """Reads every picture of every split once.

    Memory is bounded by a chunk of encoded pictures a thread, and some 50 bytes an example.

    Args:
      source: an open data set.
      data: the config's `data` section; reads `threads`, `max_pixels` and `*_split`.
    """
    measures: dict[str, _Measures] = {}
    surveys: dict[str, SplitSurvey] = {}
    for role, split in source.splits.items():
        measured, bad = _measure(split, data.max_pixels, load.thread_count(data.threads))
        measures[role] = measured
        surveys[role] = _summary(split, measured, bad, len(source.class_names))
    pieces, conflicts = _duplicates(source, measures)
    carved = tuple(role for role in source.splits if _is_carved(source, role, data))
    return Survey(
        source.name, source.kind, source.class_names, surveys, carved, pieces, conflicts,
        source.notes,
    )  # fmt: skip


def _measure(split: Split, max_pixels: int, threads: int) -> tuple[_Measures, tuple[BadFile, ...]]:
    measured = _Measures(len(split))

    def chunk(start: int) -> list[BadFile]:
        bad = []
        indices = range(start, min(start + CHUNK, len(split)))
        for index, record in zip(indices, read_each(split, indices), strict=True):
            try:
                if isinstance(record, UserError):
                    raise decode.BadImage(str(record))
                measured.put(index, record.image, max_pixels)
            except decode.BadImage as error:
                bad.append(BadFile(index, split.example_names([index])[0], str(error)))
        return bad

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(chunk, range(0, len(split), CHUNK)))
    return measured, tuple(itertools.chain.from_iterable(parts))


def _is_gray(pixels: np.ndarray) -> bool:
    return bool((pixels[..., :1] == pixels).all())


def _summary(
    split: Split, measured: _Measures, bad: tuple[BadFile, ...], classes: int
) -> SplitSurvey:
    good = measured.good
    heights, widths = measured.sizes[good].T
    pairs = Counter(zip(heights.tolist(), widths.tolist(), strict=True))
    common = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    formats = np.bincount(measured.formats[good], minlength=len(FORMATS)).tolist()
    gray = int(measured.gray[good].sum())
    colours = {"gray": gray, "colour": int(good.sum()) - gray}
    try:
        fingerprint = split.fingerprint
    except UserError:  # an unreadable shard, whose pictures are among the bad ones
        fingerprint = None
    return SplitSurvey(
        examples=len(split),
        class_counts=tuple(np.bincount(split.labels, minlength=classes).tolist()),
        bytes=int(measured.bytes.sum()),
        heights=_spread(heights),
        widths=_spread(widths),
        sizes=tuple((height, width, count) for (height, width), count in common),
        distinct_sizes=len(pairs),
        formats={name: n for name, n in zip(FORMATS, formats, strict=True) if n},
        colours={name: n for name, n in colours.items() if n},
        bad_files=bad,
        fingerprint=fingerprint,
    )


def _spread(sides: np.ndarray) -> tuple[int, ...]:
    return (int(sides.min()), int(np.median(sides)), int(sides.max())) if len(sides) else ()


def _is_carved(source: Source, role: str, data: ml_collections.ConfigDict) -> bool:
    train, split = source.splits["train"], source.splits[role]
    if role == "train" or data[f"{role}_split"] != "auto":
        return False
    if not isinstance(train, Subset) or not isinstance(split, Subset):
        return False
    return bool(by_parent(train).keys() & by_parent(split).keys())


def _duplicates(
    source: Source, measures: dict[str, _Measures]
) -> tuple[tuple[Duplicates, ...], Duplicates]:
    """Returns the duplicates by split and by pair of splits, and those with several labels."""
    roles = list(source.splits)
    starts = np.cumsum([0, *(len(split) for split in source.splits.values())])
    labels = np.concatenate([split.labels for split in source.splits.values()])
    owners = np.repeat(np.arange(len(roles)), np.diff(starts))

    def example(place: int) -> Example:
        role = roles[owners[place]]
        (name,) = source.splits[role].example_names([place - int(starts[owners[place]])])
        return Example(role, name, source.class_names[labels[place]])

    def count(found: Duplicates, places: np.ndarray) -> Duplicates:
        shown = found.shown
        if len(shown) < SHOWN:
            first = np.unique(owners[places], return_index=True)[1]
            other = np.flatnonzero(labels[places] != labels[places[0]])[:1]
            picks = list(dict.fromkeys([*first, *other, *range(min(len(places), MEMBERS))]))
            chosen = places[sorted(picks[:MEMBERS])]
            shown += (tuple(example(place) for place in chosen.tolist()),)
        return dataclasses.replace(
            found,
            pictures=found.pictures + 1,
            examples=found.examples + len(places),
            labels_differ=found.labels_differ + (len(set(labels[places].tolist())) > 1),
            shown=shown,
        )

    found: dict[tuple[int, ...], Duplicates] = {}
    conflicts = Duplicates(tuple(roles))
    for places in _groups(measures):
        present = np.unique(owners[places]).tolist()
        for key in [(a,) for a in present] + list(itertools.combinations(present, 2)):
            inside = places[np.isin(owners[places], key)]
            if len(inside) > 1:
                empty = Duplicates(tuple(roles[a] for a in key))
                found[key] = count(found.get(key, empty), inside)
        if len(set(labels[places].tolist())) > 1:
            conflicts = count(conflicts, places)
    return tuple(found[key] for key in sorted(found, key=lambda k: (len(k), k))), conflicts


def _groups(measures: dict[str, _Measures]) -> list[np.ndarray]:
    """Returns the ascending positions, all splits in a row, of each picture that is there twice."""
    digests = np.concatenate([measured.digests for measured in measures.values()])
    good = np.concatenate([measured.good for measured in measures.values()])
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable
    order = order[good[order]]
    if not len(order):
        return []
    ordered = digests[order]
    edges = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    bounds = np.array([0, *edges, len(order)])
    repeated = np.flatnonzero(np.diff(bounds) > 1)
    groups = [order[bounds[i] : bounds[i + 1]] for i in repeated]
    return sorted(groups, key=lambda places: int(places[0]))
