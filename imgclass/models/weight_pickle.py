"""Tensors of a file that `torch.save` wrote, without PyTorch and without running what is in it.

Such a file is a pickle, and a pickle is a program. This one may build dicts, lists, numbers, texts
and tensors; whatever else it asks for ends the reading, by name. Both layouts are read: the zip
archive of PyTorch 1.6 and later, and the plain file before it. Numbers are copied as they are;
what they belong to is `weights.py`'s to find out.

Sources: `torch/serialization.py`, `_save` and `_legacy_save`; "Restricting globals" in Python's
documentation of pickle.
"""

import collections
import dataclasses
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import jax.numpy as jnp
import numpy as np

from imgclass.errors import UserError, first_line

# The first pickle of a plain file is this number, the second the protocol.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_DTYPES: dict[str, Any] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# Where training programs put the weights beside other things.
_INSIDE = ("state_dict", "model_state_dict", "model", "net")


class _Refused(Exception):
    """The file asks for more than tensors, or for a tensor that cannot be."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Numbers in the file: their key, their type and how many."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, read once all of the pickle is known."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a `state_dict` by name.

    They may be in a dict that also holds them under 'state_dict' or 'model', as training programs
    save them; `DataParallel`'s 'module.' before all names is left out.

    Raises:
      UserError: in one line, what in the file is refused, damaged or missing.
    """
    try:
        with path.open("rb") as file:
            is_zip = zipfile.is_zipfile(file)
            file.seek(0)
            content, storages = (_zip if is_zip else _plain)(file)
            tensors = {name: _array(tensor, storages) for name, tensor in _named(content).items()}
    except _Refused as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # on hostile bytes pickle and zipfile raise nearly every type
        reason = first_line(error)[:100]
        raise UserError(f"{path}: damaged, or no PyTorch file ({reason})") from None
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    return tensors


def _zip(file: BinaryIO) -> tuple[Any, Mapping[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in members:
            raise _Refused("a zip file, but not one that torch.save wrote: it has no data.pkl")
        # torch.save compresses nothing, so a file can never be larger in memory than on disk.
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise _Refused("a compressed zip file: torch.save writes none")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise _Refused("written on a big-endian machine; save it again on another")
        used: dict[str, _Storage] = {}
        with archive.open(members["data.pkl"]) as pickled:
            content = _load(pickled, used)
        return content, {key: archive.read(members[f"data/{key}"]) for key in used}


def _plain(file: BinaryIO) -> tuple[Any, Mapping[str, bytes]]:
    used: dict[str, _Storage] = {}
    try:
        magic = _load(file, used)
    except _Refused:
        magic = None
    if magic != _MAGIC:
        raise _Refused("not a file that torch.save wrote, though its name says so")
    if _load(file, used) != _PROTOCOL or not _load(file, used).get("little_endian"):
        raise _Refused("an unknown layout, or written on a big-endian machine; save it again")
    content, keys = _load(file, used), _load(file, used)
    found = {}
    left = os.fstat(file.fileno()).st_size
    for key in keys:
        (count,) = struct.unpack("<Q", file.read(8))
        size = count * used[key].dtype.itemsize
        found[key] = file.read(min(size, left))
        if count != used[key].count or len(found[key]) != size:
            raise _Refused("cut short, or damaged")
    return content, found


def _load(file: Any, used: dict[str, _Storage]) -> Any:
    """Reads one pickle; the storages that it names are added to `used`."""
    return _Unpickler(file, used).load()


# What each byte of a pickle does, in Python's own reader.
_PLAIN: dict[int, Any] = dict(pickle._Unpickler.dispatch)


class _Unpickler(pickle._Unpickler):
    """A pickle reader that knows only what a `state_dict` is made of.

    Python's own, not the one in C, which no signal can stop and whose memo takes as much memory as
    a pickle asks for. Keys are texts or numbers: hashing tuples of tuples can take for ever.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PLAIN)
    stack: list[Any]

    def __init__(self, file: Any, used: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._used = used
        # Made anew for each file: a pickle can set attributes of what it is given.
        self._known = _known()

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        if (module, name) not in self._known:
            raise _Refused(
                f"refused: it asks for {module}.{name}, and only tensors are read. In PyTorch, "
                "torch.save(model.state_dict(), FILE) or safetensors write what is read here"
            )
        return self._known[module, name]

    def load_setitem(self) -> None:
        _check_key(self.stack[-2])
        _PLAIN[pickle.SETITEM[0]](self)

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            _check_key(key)
        _PLAIN[pickle.SETITEMS[0]](self)

    def load_hashed(self) -> None:
        raise _Refused("refused: it holds a set, or a dict as no state_dict has it")

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    for _code in (pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        dispatch[_code[0]] = load_hashed

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _, count, *view = reference
        if kind != "storage" or dtype not in _DTYPES or any(part is not None for part in view):
            raise _Refused(f"refused: it refers to a {kind!r} of {dtype!r}, not to plain numbers")
        storage = _Storage(str(key), np.dtype(_DTYPES[dtype]), int(count))
        self._used[storage.key] = storage
        return storage


def _check_key(key: Any) -> None:
    if not isinstance(key, str | int):
        raise _Refused(f"refused: a {type(key).__name__} as the key of a dict")


def _known() -> dict[tuple[str, str], Callable[..., Any]]:
    def tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
        whole = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in whole):
            raise _Refused("a tensor that cannot be: damaged")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def ordered(pairs: Any = ()) -> collections.OrderedDict:
        pairs = list(pairs)
        for key, _ in pairs:
            _check_key(key)
        return collections.OrderedDict(pairs)

    return {
        ("collections", "OrderedDict"): ordered,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
    }


def _named(content: Any) -> dict[str, _Tensor]:
    """Returns the tensors of a dict, or of the dict of weights within."""
    for key in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise _Refused(f"holds a {type(content).__name__}, not a state_dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, _Tensor)}
    if not tensors:
        raise _Refused("holds no tensors by name, so it is not a state_dict")
    return tensors


def _array(tensor: _Tensor, storages: Mapping[str, bytes]) -> np.ndarray:
    """Cuts a tensor out of its storage; a copy."""
    numbers = np.frombuffer(storages[tensor.storage.key], tensor.storage.dtype)
    shape, strides = tensor.shape, tensor.strides
    size, step = int(math.prod(shape)), numbers.itemsize
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if not size:
        return np.zeros(shape, numbers.dtype)
    # Their count bounds the memory: a stride of 0 could make any amount of one number.
    if numbers.size != tensor.storage.count or size > numbers.size or last >= numbers.size:
        raise _Refused("a tensor larger than its numbers: cut short, or damaged")
    view = np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], shape, tuple(s * step for s in strides), writeable=False
    )
    return view.copy()
