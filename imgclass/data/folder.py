"""Folders of pictures: root/split/class/* or root/class/*, and the split that reads files.

A picture's class is the name of its class folder; its name is its path relative to the root. Files
are never opened here except to be read or fingerprinted, so a damaged picture shows when decoded.
`pictures_below` says what lies below any folder, for prediction as for training.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from imgclass.data.source import (
    CONTENT_LIMIT,
    Indices,
    Native,
    Record,
    Split,
    checked_indices,
)
from imgclass.errors import UsageError, UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LAYOUT = (
    "expected train/CLASS/*.jpg with optional validation/ and test/ beside train/, or CLASS/*.jpg; "
    f"pictures end in {' '.join(EXTENSIONS)}"
)
UNREADABLE = b"unreadable"  # what stands in a fingerprint for the content of such a file
# No picture of the default data.max_pixels is larger, however it is stored.
LARGEST_FILE = 1 << 30
# Folders reached more than once, through links: two links to the next folder in each of 40 folders
# make 2^40 paths.
MOST_REVISITS = 1000


class FileSplit(Split):
    """Picture files below one root."""

    def __init__(self, name: str, root: pathlib.Path, names: Sequence[str], labels: np.ndarray):
        """Lists files.

        Args:
          name: the split's name.
          root: folder that `names` are relative to.
          names: paths with forward slashes, relative or absolute, in reading order.
          labels: int32[n].
        """
        self.name = name
        self.root = root
        self.names = tuple(names)
        self._labels = labels.astype(np.int32)

    @property
    def labels(self) -> np.ndarray:
        """The class of every example, int32[n]."""
        return self._labels

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Indices) -> list[Record]:
        """Returns the encoded pictures at `indices`; see `Split.read`."""
        places = checked_indices(indices, len(self))
        return [
            Record(self._bytes(self.names[i]), int(self._labels[i]), self.names[i]) for i in places
        ]

    def example_names(self, indices: Indices) -> list[str]:
        """Returns the paths at `indices`, as given."""
        return [self.names[i] for i in checked_indices(indices, len(self))]

    @functools.cached_property
    def _sizes(self) -> list[int]:
        sizes = []
        for name in self.names:
            try:
                sizes.append(os.stat(self.root / name).st_size)
            except OSError:
                sizes.append(-1)  # which no file has
        return sizes

    @property
    def fingerprint_kind(self) -> str:
        """'content' up to 1 GiB of files, else 'sizes'."""
        return "content" if sum(self._sizes) <= CONTENT_LIMIT else "sizes"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest over (name, label, content or size) of every file, in order.

        A file that cannot be read counts too, as such: `data.bad_files` decides what becomes of it.
        """
        digest = hashlib.blake2b(digest_size=16)
        with_content = self.fingerprint_kind == "content"
        for name, label, size in zip(self.names, self._labels, self._sizes, strict=True):
            content = self._content(name) if with_content else b""
            # Lengths before contents, so that no two lists of files run together alike.
            header = f"{len(os.fsencode(name))} {label} {len(content) if content else size} "
            digest.update(header.encode() + os.fsencode(name) + content)
        return digest.hexdigest()

    def _content(self, name: str) -> bytes:
        try:
            return self._bytes(name)
        except UserError:
            return UNREADABLE

    def _bytes(self, name: str) -> bytes:
        path = self.root / name
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > LARGEST_FILE:
                    raise UserError(f"cannot read {path}: {size:,} bytes are too many")
                return file.read()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error


def open_folder(root: pathlib.Path) -> Native:
    """Opens a folder of pictures.

    Hidden files and folders are ignored. Sub-folders of a class belong to it. Class names are those
    of the class folders of all splits, sorted. A picture folder named like a split ('train' beside
    'bus' and 'car') is a class as long as it holds pictures itself.

    Args:
      root: the folder, laid out as root/split/class/* or root/class/*.

    Returns:
      The data set; `flat` if there are no split folders. Its splits are named 'train',
      'validation' and 'test'.

    Raises:
      UsageError: no pictures, one class, or a layout that leaves labels unclear.
    """
    notes: list[str] = []
    split_folders = _split_folders(root, notes)
    if split_folders:
        found = {split: _Scan(root, folder) for split, folder in split_folders.items()}
    else:
        found = {"train": _Scan(root, root)}
    _check_pictures(root, found)
    kept = sorted(
        {label for scan in found.values() for label, names in scan.pictures.items() if names}
    )
    empty = sorted({label for scan in found.values() for label in scan.pictures} - set(kept))
    notes += [f"class folder {label!r} holds no pictures and is not a class" for label in empty]
    notes += _ignored(list(found.values()))
    label_of = {label: number for number, label in enumerate(kept)}
    splits = {}
    for split, scan in found.items():
        pairs = [(name, label_of[c]) for c in kept for name in scan.pictures.get(c, ())]
        if not pairs:
            notes.append(f"split folder '{split}' holds no pictures")
            continue
        names, labels = zip(*pairs, strict=True)
        splits[split] = FileSplit(split, root, names, np.array(labels, np.int32))
    return Native("folder", tuple(kept), splits, flat=not split_folders, notes=tuple(notes))


class _Scan:
    """What lies below one split folder: pictures by class, and what was passed over."""

    def __init__(self, root: pathlib.Path, folder: pathlib.Path):
        self.pictures: dict[str, list[str]] = {}
        self.other: list[str] = []
        self.broken: list[str] = []
        self.outside: list[str] = []
        prefix = "" if folder == root else f"{folder.name}/"
        above = frozenset({_identity(root), _identity(folder)})
        for entry in _entries(folder):
            name = prefix + entry.name
            if _is(entry, "dir"):
                below = pictures_below(pathlib.Path(entry.path), f"{name}/", above)
                self.pictures[entry.name] = list(below.pictures)
                self.other += below.other
                self.broken += below.broken
            elif is_picture(entry.name):
                self.outside.append(name)
            else:
                self.other.append(name)


@dataclasses.dataclass(frozen=True)
class Below:
    """The names of what lies below a folder, relative to it, sorted.

    Attributes:
      pictures: files that end in one of EXTENSIONS.
      other: any other files.
      broken: links that lead nowhere, whatever they are called.
    """

    pictures: tuple[str, ...]
    other: tuple[str, ...]
    broken: tuple[str, ...]


def pictures_below(
    folder: pathlib.Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Below:
    """Looks through a folder and the folders in it.

    Hidden files and folders are ignored. Links are followed, but never into a folder that the
    search is already inside of, and not without end.

    Args:
      folder: where to look.
      prefix: put before every name.
      above: device and inode of folders not to enter.

    Raises:
      UserError: naming a folder that cannot be listed, or that links lead to over and over.
    """
    pictures: list[str] = []
    other: list[str] = []
    broken: list[str] = []
    entered: set[tuple[int, int]] = set()
    revisits = 0
    waiting = [(folder, prefix, above)]  # not recursion: folders may be a thousand deep
    while waiting:
        here, prefix, above = waiting.pop()
        identity = _identity(here)
        if identity in above:
            continue
        revisits += identity in entered
        if revisits > MOST_REVISITS:
            raise UserError(
                f"{folder}: links lead to the same folders again and again, last {prefix}; "
                "remove some of these links"
            )
        entered.add(identity)
        for entry in _entries(here):
            name = prefix + entry.name
            if _is(entry, "dir"):
                waiting.append((pathlib.Path(entry.path), f"{name}/", above | {identity}))
            elif not _is(entry, "file"):
                broken.append(name)
            else:
                (pictures if is_picture(name) else other).append(name)
    return Below(*(tuple(sorted(names)) for names in (pictures, other, broken)))


def _is(entry: os.DirEntry, kind: str) -> bool:
    """Returns whether an entry is, or links to, a 'dir' or a 'file'."""
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:  # a link to itself
        return False


def _identity(folder: pathlib.Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [pathlib.Path(entry.path) for entry in _entries(folder) if _is(entry, "dir")]


def _has_pictures(folder: pathlib.Path) -> bool:
    return any(is_picture(entry.name) and _is(entry, "file") for entry in _entries(folder))


def is_picture(name: str) -> bool:
    """Returns whether a file of this name is taken for a picture."""
    return name.lower().endswith(EXTENSIONS)


def _split_folders(root: pathlib.Path, notes: list[str]) -> dict[str, pathlib.Path]:
    """Returns the folders of root/split/class/* by split; empty for root/class/*.

    Raises:
      UsageError: two folders for one split, or only splits with pictures directly in them.
    """
    folders = _subfolders(root)
    named = [path for path in folders if path.name.lower() in SPLIT_FOLDERS]
    with_classes = [path for path in named if _subfolders(path)]
    others = [path.name for path in folders if path not in named]
    has_train = any(path.name.lower() == "train" for path in with_classes)
    if not with_classes or (others and not has_train):
        if named and not others:
            shown = ", ".join(f"{path.name}/" for path in named)
            raise UsageError(f"{root} has only {shown} without class folders inside: {LAYOUT}")
        return {}
    splits: dict[str, pathlib.Path] = {}
    for path in with_classes:
        split = SPLIT_FOLDERS[path.name.lower()]
        if split in splits:
            raise UsageError(f"{root} has two {split} folders: {splits[split].name}/, {path.name}/")
        splits[split] = path
    for path in named:
        if path not in with_classes and _has_pictures(path):
            notes.append(f"{path.name}/ has pictures but no class folders: no labels, not used")
    if others:
        notes.append(f"folders beside the splits are ignored: {', '.join(sorted(others)[:5])}")
    return splits


def _check_pictures(root: pathlib.Path, found: dict[str, _Scan]) -> None:
    classes = {label for scan in found.values() for label, names in scan.pictures.items() if names}
    if len(classes) > 1:
        return
    if not classes:
        outside = sum(len(scan.outside) for scan in found.values())
        beside = f" ({outside} outside of them)" if outside else ""
        raise UsageError(f"{root}: no pictures in class folders{beside}: {LAYOUT}")
    only = next(iter(classes))
    inside = _subfolders(root / only) if (root / only).is_dir() else []
    if any(path.name.lower() in SPLIT_FOLDERS for path in inside):
        raise UsageError(
            f"{root} holds one folder that has splits in it: did you mean {root / only}?"
        )
    raise UsageError(f"{root}: only one class, {only!r}, and at least two are needed: {LAYOUT}")


def _ignored(scans: list[_Scan]) -> list[str]:
    notes = []
    for names, noun, what in (
        ([name for scan in scans for name in scan.other], "file", " without a picture extension"),
        ([name for scan in scans for name in scan.outside], "picture", " outside a class folder"),
        ([name for scan in scans for name in scan.broken], "broken link or special file", ""),
    ):
        if names:
            plural = "" if len(names) == 1 else "s"
            notes.append(f"{len(names)} {noun}{plural}{what} ignored, first {names[0]}")
    return notes
