"""Files of weights, read into plain arrays by the names they have there, and written.

`.safetensors` of any library, PyTorch's `.pth`, `.pt` and `.bin` (`weight_pickle.py`), Keras 3's
`.weights.h5` and `.keras`. Nothing in a file is run. What the names mean is in `weights.py`.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from imgclass import files
from imgclass.errors import UserError
from imgclass.models import weight_pickle

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".weights.h5", ".keras")


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """What a file holds.

    Attributes:
      path: of the file.
      sha256: of its bytes, hexadecimal.
      tensors: arrays by name, as they are in the file. Of Keras, a layer's n-th array is
        '<layer>/n': 'conv2d_1/0'.
    """

    path: pathlib.Path
    sha256: str
    tensors: dict[str, np.ndarray]


def read(path: pathlib.Path) -> WeightFile:
    """Reads a file of weights whole.

    Raises:
      UserError: in one line: no such file, a kind that is not read, or a damaged one.
    """
    readers = {
        ".safetensors": _safetensors,
        ".pth": weight_pickle.read,
        ".pt": weight_pickle.read,
        ".bin": weight_pickle.read,
        ".h5": _keras,
        ".keras": _keras,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise UserError(f"{path}: not a kind of file that is read: {', '.join(SUFFIXES)}")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        tensors = reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    for name, array in tensors.items():
        # The same test for every kind of number: bfloat16 is none of NumPy's own.
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f"{path}: {name} has numbers that are not finite")
    return WeightFile(path, digest, tensors)


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str]) -> None:
    """Writes a `.safetensors`.

    Args:
      path: of the file; replaced whole, if it is there.
      tensors: arrays by name.
      about: texts by name, kept in the file's header.

    Raises:
      UserError: it cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = safetensors.numpy.save(arrays, metadata={"format": "pt", **about})
    with files.writing(path):
        files.write_atomically(path, content)


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return dict(safetensors.numpy.load_file(path))
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a whole .safetensors file ({error})") from None


def _check_memory(unpacked: int) -> None:
    """Raises ValueError if what a file unpacks to is more than half of this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if unpacked > memory // 2:
        raise ValueError(f"{unpacked:,} bytes unpacked, more than half of this machine's memory")


def about(path: pathlib.Path) -> dict[str, str]:
    """Returns the texts that `write` keeps in the header; {} of another file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata() or {}


def _keras(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{path}: reading Keras's files needs h5py: pip install 'imgclass[weights]'"
        ) from None
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                _check_memory(archive.getinfo("model.weights.h5").file_size)
                content = archive.read("model.weights.h5")
        else:
            content = path.read_bytes()
        tensors: dict[str, np.ndarray] = {}

        def take(name: str, item: Any) -> None:  # links to other files are not followed
            layer, _, place = name.removeprefix("layers/").partition("/vars/")
            if isinstance(item, h5py.Dataset) and name.startswith("layers/") and place:
                if item.dtype.kind not in "fiu":
                    raise ValueError(f"{name} holds no numbers")
                _check_memory(sum(a.nbytes for a in tensors.values()) + item.nbytes)
                tensors[f"{layer}/{place}"] = item[()]

        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(take)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"{path}: not a whole Keras file ({error})") from None
    if not tensors:
        raise UserError(
            f"{path}: not what Keras 3 saves; load it in Keras, then save_weights('x.weights.h5')"
        )
    return tensors
