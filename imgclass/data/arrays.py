"""NumPy archives (.npz) of pictures that fit in memory.

Keys: `x` and `y` (no split), or `x_train`, `y_train` and optionally `x_val` or `x_validation`,
`x_test` with their `y_...`; optionally `class_names`. Pickled objects are never loaded.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

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

KEYS = {"x": "train", "x_train": "train", "x_val": "validation", "x_validation": "validation"}
KEYS["x_test"] = "test"


class ArraySplit(Split):
    """Pictures in memory."""

    def __init__(self, name: str, pictures: np.ndarray, labels: np.ndarray):
        """Wraps arrays.

        Args:
          name: the split's name.
          pictures: uint8[n, h, w] or uint8[n, h, w, c].
          labels: int32[n].
        """
        self.name = name
        self.pictures = pictures
        self._labels = labels

    @property
    def labels(self) -> np.ndarray:
        """The class of every example, int32[n]."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, indices: Indices) -> list[Record]:
        """Returns the pictures at `indices` as uint8 arrays; see `Split.read`."""
        places = checked_indices(indices, len(self)).tolist()
        return [Record(self.pictures[i], int(self._labels[i]), f"{self.name}/{i}") for i in places]

    def example_names(self, indices: Indices) -> list[str]:
        """Returns 'split/index' for each index."""
        return [f"{self.name}/{i}" for i in checked_indices(indices, len(self))]

    @property
    def fingerprint_kind(self) -> str:
        """'content' up to 1 GiB, else 'sizes'."""
        return "content" if self.pictures.nbytes <= CONTENT_LIMIT else "sizes"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest over shape, labels and, up to 1 GiB, every pixel."""
        digest = hashlib.blake2b(f"{self.pictures.shape} ".encode(), digest_size=16)
        digest.update(self._labels.astype("<i4").tobytes())
        if self.fingerprint_kind == "content":
            digest.update(np.ascontiguousarray(self.pictures).data)
        return digest.hexdigest()


def open_arrays(path: pathlib.Path) -> Native:
    """Opens an .npz archive.

    Pictures are uint8[n, h, w] or uint8[n, h, w, 1 or 3]. Labels are whole numbers or strings, [n]
    or [n, 1]. Class names are `class_names` (then numbers index it), else the labels of all splits,
    sorted.

    Args:
      path: the archive.

    Returns:
      The data set; `flat` if its keys are `x` and `y`.

    Raises:
      UsageError: keys, shapes or types are not as described.
      UserError: the archive is damaged.
    """
    arrays = _load(path)
    given = [key for key in KEYS if key in arrays]
    wanted = "x and y, or x_train, y_train, x_val, y_val, x_test, y_test"
    if not given or ("x" in given and len(given) > 1) or {"x_val", "x_validation"} <= set(given):
        raise UsageError(f"{path}: expected arrays {wanted}; found {', '.join(arrays) or 'none'}")
    pairs = {}
    for key in given:
        label_key = "y" + key[1:]
        if label_key not in arrays:
            raise UsageError(f"{path}: {key} has no {label_key} beside it")
        labels = _labels(path, label_key, arrays[label_key])
        _check_pictures(path, key, arrays[key])
        if len(labels) != len(arrays[key]):
            raise UsageError(
                f"{path}: {key} has {len(arrays[key])} pictures, {label_key} {len(labels)} labels"
            )
        pairs[KEYS[key]] = (arrays[key], labels)
    class_names, numbers = _number(path, {k: y for k, (_, y) in pairs.items()}, arrays)
    splits = {
        split: ArraySplit(split, pictures, numbers[split])
        for split, (pictures, _) in pairs.items()
        if len(pictures)
    }
    return Native("arrays", class_names, splits, flat=given == ["x"])


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    try:
        # Opened here, because np.load leaves the file open when it finds it damaged.
        with open(path, "rb") as file:
            if not file.read(6).startswith((b"PK", b"\x93NUMPY")):
                raise UsageError(f"{path} is not an .npz archive; np.savez writes one")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UsageError(
                    f"{path} is a single array; save with np.savez(path, x=..., y=...)"
                )
            _check_memory(path, archive)
            arrays = {key: archive[key] for key in archive.files}
            foreign = [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]
            if foreign:  # NumPy hands out their bytes
                raise UsageError(f"{path}: {foreign[0]} is not an array")
            return arrays
    except UserError:
        raise
    except ValueError as error:
        raise UsageError(
            f"{path} cannot be loaded: {error}. Pickled objects are refused; save plain arrays"
        ) from error
    except (
        Exception
    ) as error:  # on hostile bytes zipfile and NumPy raise nearly every built-in type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged or unreadable: {reason[:200]}") from error


def _check_memory(path: pathlib.Path, archive: np.lib.npyio.NpzFile) -> None:
    """Raises UserError if the archive unpacks to more than half of this machine's memory.

    Half, because the pictures are copied once more, at the size of the model's input.
    """
    assert archive.zip is not None
    unpacked = sum(member.file_size for member in archive.zip.infolist())
    if unpacked > memory_bytes() // 2:
        raise UserError(
            f"{path}: {unpacked:,} bytes unpacked, more than half of this machine's memory "
            f"({memory_bytes():,} bytes). Store the pictures as files in a folder instead"
        )


def memory_bytes() -> int:
    """Returns how much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_pictures(path: pathlib.Path, key: str, pictures: np.ndarray) -> None:
    shape_fits = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] in (1, 3))
    if pictures.dtype == np.uint8 and shape_fits and 0 not in pictures.shape[1:]:
        return
    hint = ""
    if np.issubdtype(pictures.dtype, np.floating):
        hint = "; multiply pictures in [0, 1] by 255 and store uint8"
    elif pictures.ndim == 4 and pictures.shape[1] in (1, 3):
        hint = "; channels come last: np.moveaxis(x, 1, 3)"
    raise UsageError(
        f"{path}: {key} is {pictures.dtype}{list(pictures.shape)}; expected uint8[n, height, "
        f"width] or uint8[n, height, width, 1 or 3]{hint}"
    )


def _labels(path: pathlib.Path, key: str, labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras stores CIFAR's
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise UsageError(
            f"{path}: {key} is {labels.dtype}{list(labels.shape)}; expected whole numbers or "
            "strings, one a picture"
        )
    return labels


def _number(
    path: pathlib.Path, labels: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns the class names, and labels as int32 numbers into them."""
    values = sorted(
        {value for own in labels.values() for value in np.unique(own).tolist()}, key=str
    )
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        raise UsageError(f"{path}: labels are whole numbers in one split and strings in another")
    values = sorted(values)
    names = tuple(str(value) for value in values)
    if "class_names" in arrays:
        names = tuple(str(name) for name in arrays["class_names"].reshape(-1).tolist())
        if len(set(names)) < len(names):
            raise UsageError(f"{path}: class_names names a class twice")
        allowed: Sequence = names if kinds == {str} else range(len(names))
        strange = [value for value in values if value not in allowed]
        if strange:
            raise UsageError(f"{path}: label {strange[0]!r} is not in class_names ({len(names)})")
        values = list(allowed)
    number = {value: i for i, value in enumerate(values)}
    return names, {
        split: np.array([number[value] for value in own.tolist()], np.int32)
        for split, own in labels.items()
    }
