"""Where pictures and labels come from: one interface over every kind of data set.

A `Source` names its classes and holds up to three `Split`s, 'train', 'validation' and 'test', which
never share an example. A split is read by index, in any order; pictures come out as they are stored
(encoded bytes, or uint8 arrays where that is how they are kept). Nothing here decodes, shuffles,
batches or augments, and nothing imports TensorFlow.
"""

import abc
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from imgclass.errors import UsageError, UserError

ROLES = ("train", "validation", "test")
# Up to here a fingerprint hashes every byte (about a second); past it, names, labels and sizes.
CONTENT_LIMIT = 1 << 30

Indices = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as it is stored.

    Attributes:
      image: encoded picture (bytes), or uint8[h, w] or uint8[h, w, c].
      label: index into the source's `class_names`.
      name: how a message should call it: a path relative to the source, or 'split/index'.
    """

    image: bytes | np.ndarray
    label: int
    name: str


class Split(abc.ABC):
    """Examples that are read by index. Safe to read from many threads."""

    name: str

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """The class of every example, int32[n]."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal digest that changes when the examples, their order or their labels do."""

    @property
    @abc.abstractmethod
    def fingerprint_kind(self) -> str:
        """What `fingerprint` covers: 'content' (every byte) or 'sizes' (names and sizes only)."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, indices: Indices) -> list[Record]:
        """Returns the records at `indices`, in that order.

        Raises:
          IndexError: an index is outside [0, len(self)).
          UserError: an example cannot be read; the message names it.
        """

    @abc.abstractmethod
    def example_names(self, indices: Indices) -> list[str]:
        """Returns the names the records at `indices` carry, without reading them."""


def checked_indices(indices: Indices, length: int) -> np.ndarray:
    """Returns `indices` as int64[k].

    Raises:
      IndexError: an index is negative or at least `length`. Negative ones do not count from the
        end: here they are always a mistake.
    """
    positions = np.asarray(indices, dtype=np.int64).reshape(-1)
    wrong = (positions < 0) | (positions >= length)
    if wrong.any():
        raise IndexError(f"example {positions[wrong][0]} is outside [0, {length})")
    return positions


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set ready for use.

    Attributes:
      name: what it was opened as.
      kind: 'digits', 'tfds', 'folder', 'table' or 'arrays'.
      class_names: one name a label, in label order.
      splits: keys among 'train', 'validation' and 'test'; 'train' is always there.
      notes: remarks for the user, such as files that were ignored.
    """

    name: str
    kind: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Native:
    """A data set as it lies on disk, before `data.*_split` gives its splits their roles.

    Attributes:
      kind: as in `Source`.
      class_names: one name a label, in label order.
      splits: the data set's own splits by their own names.
      flat: true if it comes without any split, so that a test split has to be carved too.
      notes: as in `Source`.
    """

    kind: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    flat: bool = False
    notes: tuple[str, ...] = ()


def open_source(data: ml_collections.ConfigDict) -> Source:
    """Opens the data set that `data.name` names and gives its splits their roles.

    'digits' is the embedded set. A name that exists as a path, looks like one (it starts with
    '/', './', '../' or '~'), or ends in .csv, .tsv or .npz is a path. Anything else is the name of
    a TensorFlow Datasets set, such as 'cifar10' or 'cats_vs_dogs:4.0.1'.

    Args:
      data: the `data` section of a config.

    Returns:
      The source, with every label checked.

    Raises:
      UsageError: the config asks for something that is not there.
      UserError: the data are there, and damaged or unreadable.
    """
    # The backends are imported where they are used: a folder should not pay for tfds.
    from imgclass.data import roles

    native = _open_native(data)
    notes = list(native.notes)
    if native.kind != "tfds":
        ignored = [key for key in ("data_dir", "image_key", "label_key") if data[key]]
        notes += [f"data.{key} is for tfds sets; ignored here" for key in ignored]
    if len(native.class_names) < 2:
        found = ", ".join(repr(name) for name in native.class_names) or "none"
        raise UsageError(f"{data.name}: at least two classes are needed; found {found}")
    by_role, role_notes = roles.assign_roles(native, data)
    return Source(data.name, native.kind, native.class_names, dict(by_role), (*notes, *role_notes))


def _open_native(data: ml_collections.ConfigDict) -> Native:
    if not data.name:
        raise UsageError("data.name is empty: give 'digits', a tfds name, or the path of a folder")
    if data.name == "digits":
        from imgclass.data import digits

        return digits.open_digits()
    path = pathlib.Path(os.path.expanduser(data.name))
    looks_like_path = data.name.startswith(("/", "./", "../", "~")) or data.name in (".", "..")
    is_file_name = data.name.lower().endswith((".csv", ".tsv", ".npz"))
    try:
        if os.path.exists(path):
            return _open_path(path, data)
    except PermissionError as error:
        raise UserError(f"{error.filename or path}: permission denied") from error
    if looks_like_path or is_file_name:
        raise UsageError(f"no such file or folder: {data.name} (data.name)")
    from imgclass.data import tfds_source

    return tfds_source.open_tfds(data)


def _open_path(path: pathlib.Path, data: ml_collections.ConfigDict) -> Native:
    if path.is_dir():
        if (path / "dataset_info.json").is_file():
            from imgclass.data import tfds_source

            return tfds_source.open_directory(path, data)
        from imgclass.data import folder

        return folder.open_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        from imgclass.data import table

        return table.open_table(path)
    if suffix == ".npz":
        from imgclass.data import arrays

        return arrays.open_arrays(path)
    raise UsageError(
        f"{path} is a file that cannot be read as a data set: data.name wants a folder of "
        "pictures, or a .csv, .tsv or .npz file"
    )
