"""The training pictures, decoded and resized once, in a file that later epochs and runs read.

`cached` stands a split that reads such a file in the place of the one it was made of. The file is
named by all that decides its pixels, so nothing else is ever found under its name, and it gets
that name only when it is whole and on disk. Each picture has a checksum, looked at when it is read:
what a disk or a copy has spoiled is an error, not another picture.

Layout: the pictures one after the other, 'raw' as they lie in memory or each a JPEG; where each
begins and the last ends, int64[n + 1]; their CRC-32, uint32[n]; a footer of fixed length.

Read by `pread`, not by a memory map: a file cut short then is an error and not a SIGBUS, and other
threads run while a disk is waited for.

Nothing here removes a file that is no longer of use.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import io
import json
import logging
import os
import pathlib
import shutil
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import PIL
from PIL import Image

from imgclass import files
from imgclass.data import load
from imgclass.data.preprocess import Preprocess
from imgclass.data.source import Indices, Record, Split, checked_indices
from imgclass.errors import UserError

logger = logging.getLogger(__name__)
QUALITY = 90
_MAGIC = b"imgclass cache 1"
_FOOTER = struct.Struct("<16s5qI")  # magic; n, height, width, channels, index at; CRC-32 of index
_CHUNK_BYTES = 4 * 2**20  # decoded by a thread at a time
_SAY_EVERY = 10.0  # seconds
_UNUSED = ("mean", "std", "max_pixels", "image_size")  # of Preprocess: they change no pixel


class CachedSplit(Split):
    """The examples of another split, their pictures from a file that `cached` has written."""

    def __init__(self, split: Split, path: pathlib.Path, shape: tuple[int, int, int]):
        """Opens a file of pictures of a shape.

        Raises:
          OSError: it is not there, or cannot be read.
          ValueError: it is not whole, or not of that shape.
        """
        self.name, self.path, self._split = split.name, path, split
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        end = os.fstat(self._file).st_size - _FOOTER.size
        if end < 0:
            raise ValueError(f"{path} is too short")
        magic, n, *stored, at, crc = _FOOTER.unpack(os.pread(self._file, _FOOTER.size, end))
        index_bytes = 8 * (len(split) + 1) + 4 * len(split)
        if (magic, n, tuple(stored), end - at) != (_MAGIC, len(split), shape, index_bytes):
            raise ValueError(f"{path} is not whole")
        index = os.pread(self._file, end - at, at)
        if zlib.crc32(index) != crc:
            raise ValueError(f"{path}: its index is damaged")
        self.shape = shape
        self._starts = np.frombuffer(index, "<i8", n + 1)
        self._checksums = np.frombuffer(index, "<u4", n, 8 * (n + 1))
        self.bytes = end + _FOOTER.size

    def __reduce__(self) -> tuple:
        return CachedSplit, (self._split, self.path, self.shape)

    @property
    def labels(self) -> np.ndarray:
        """The class of every example, int32[n]."""
        return self._split.labels

    @property
    def fingerprint(self) -> str:
        """That of the split the file was made of."""
        return self._split.fingerprint

    @property
    def fingerprint_kind(self) -> str:
        """That of the split the file was made of."""
        return self._split.fingerprint_kind

    def __len__(self) -> int:
        return len(self._split)

    def example_names(self, indices: Indices) -> list[str]:
        """Returns the names that the split itself gives."""
        return self._split.example_names(indices)

    def read(self, indices: Indices) -> list[Record]:
        """Returns decoded pictures or JPEG files, as the cache holds them; see `Split.read`."""
        places = checked_indices(indices, len(self))
        begins, ends = self._starts[places].tolist(), self._starts[places + 1].tolist()
        checksums, labels = self._checksums[places].tolist(), self.labels[places].tolist()
        names = self.example_names(places)
        raw = self.path.suffix == ".raw"
        records = []
        for begin, end, checksum, label, name in zip(
            begins, ends, checksums, labels, names, strict=True
        ):
            data = self._bytes(begin, end - begin)
            if zlib.crc32(data) != checksum:
                raise UserError(f"{self.path} is damaged: remove it, and it is made anew")
            image = np.frombuffer(data, np.uint8).reshape(self.shape) if raw else data
            records.append(Record(image, label, name))
        return records

    def _bytes(self, begin: int, length: int) -> bytes:
        try:
            return os.pread(self._file, length, begin)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error


def cached(
    split: Split, prepare: Preprocess, size: tuple[int, int], kind: str, threads: int = 0
) -> tuple[CachedSplit, Preprocess]:
    """Returns a split whose pictures are already as `prepare` makes them, and how to load those.

    The first call for a split decodes all of it, which takes as long as an epoch; a second process
    waits meanwhile.

    Args:
      split: examples whose pictures are decoded.
      prepare: how.
      size: height and width they are brought to.
      kind: 'raw', which keeps every bit, or 'jpeg', at quality 90, which does not.
      threads: that decode; 0 is one a core.

    Raises:
      UserError: a picture is damaged, the file cannot be written, or there is no room for it.
    """
    shape = (*size, prepare.channels)
    path = files.cache_folder() / "pictures" / f"{_key(split, prepare, size, kind)}.{kind}"
    try:
        if (found := _opened(split, path, shape)) is None:
            with _alone(path) as file:
                if (found := _opened(split, path, shape)) is None:  # else another process wrote it
                    _fill(file, path, split, prepare, size, kind, threads)
                    found = CachedSplit(split, path, shape)
    except OSError as error:
        raise UserError(
            f"{path}: the cache cannot be used ({error.strerror or error}). Make room, set "
            "XDG_CACHE_HOME to a folder on another disk, or do without: --config.data.cache=''"
        ) from error
    return found, Preprocess(image_size=size, channels=prepare.channels)


def _key(split: Split, prepare: Preprocess, size: tuple[int, int], kind: str) -> str:
    how = {k: v for k, v in dataclasses.asdict(prepare).items() if k not in _UNUSED}
    # A fingerprint may be of sizes alone, or of a file in which an example has several pictures.
    about = [split.fingerprint, _sampled(split), kind, QUALITY, size, how, PIL.__version__]
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()


def _sampled(split: Split) -> str:
    """Returns a digest of up to 64 pictures, evenly spread, as they are stored."""
    digest = hashlib.blake2b(digest_size=16)
    for record in split.read(np.unique(np.linspace(0, len(split) - 1, 64).astype(np.int64))):
        image = record.image
        digest.update(image if isinstance(image, bytes) else np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _opened(split: Split, path: pathlib.Path, shape: tuple[int, int, int]) -> CachedSplit | None:
    with contextlib.suppress(FileNotFoundError):
        try:
            return CachedSplit(split, path, shape)
        except ValueError as error:
            logger.warning("%s; it is made anew", error)
    return None


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields the part file, empty; while it is open, no other process has it.

    One that a killed process left is used again: there is never more than one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    while True:
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for the process that writes %s", path)
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if not os.path.samestat(os.fstat(file.fileno()), part.stat()):
                    continue  # renamed or removed by who held it
            except FileNotFoundError:
                continue
            try:
                file.truncate(0)
                yield file
                return
            finally:
                part.unlink(missing_ok=True)  # unless it has got its name


def _fill(
    file: BinaryIO,
    path: pathlib.Path,
    split: Split,
    prepare: Preprocess,
    size: tuple[int, int],
    kind: str,
    threads: int,
) -> None:
    shape = (*size, prepare.channels)
    each = int(np.prod(shape))
    room = shutil.disk_usage(path.parent).free
    if kind == "raw" and len(split) * each > room:
        raise OSError(errno.ENOSPC, f"{len(split) * each:,} bytes are needed, {room:,} are free")
    logger.info("decoding %s training pictures into %s", f"{len(split):,}", path)
    starts, checksums, said = [0], [], time.monotonic()
    encode = _as_jpeg if kind == "jpeg" else np.ndarray.tobytes
    dropped = threading.Event()
    make = functools.partial(_encoded, split, prepare, size, encode, dropped)
    chunk, workers = max(1, _CHUNK_BYTES // each), load.thread_count(threads)
    parts = (range(at, min(at + chunk, len(split))) for at in range(0, len(split), chunk))
    for pictures in load.in_order(make, parts, workers, 2 * workers, dropped):
        for picture in pictures:
            file.write(picture)
            starts.append(starts[-1] + len(picture))
            checksums.append(zlib.crc32(picture))
        if time.monotonic() - said > _SAY_EVERY:
            said = time.monotonic()
            logger.info("%s of %s decoded", f"{len(checksums):,}", f"{len(split):,}")
    index = np.array(starts, "<i8").tobytes() + np.array(checksums, "<u4").tobytes()
    file.write(index)
    file.write(_FOOTER.pack(_MAGIC, len(split), *shape, starts[-1], zlib.crc32(index)))
    file.flush()
    os.fsync(file.fileno())
    os.replace(file.name, path)


def _encoded(
    split: Split,
    prepare: Preprocess,
    size: tuple[int, int],
    encode: Callable[[np.ndarray], bytes],
    dropped: threading.Event,
    part: range,
) -> list[bytes]:
    return [encode(image) for image in load.examples(split, part, prepare, size, dropped)]


def _as_jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
