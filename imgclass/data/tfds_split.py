"""Prepared tfds splits, read by random access and without TensorFlow.

One call into ArrayRecord's C++ reader for a batch of indices, then the `tf.train.Example` protocol
buffer; pictures stay encoded. Finding and preparing a set is `tfds_source`'s work.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import threading
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgclass import files
from imgclass.data.source import CONTENT_LIMIT, Indices, Record, Split, checked_indices
from imgclass.errors import UserError

# Documented by array_record as the fast setting for random access: 6 us a CIFAR-10 example, not 24.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
# array_record's own choice too; its default of 1 MiB a file would be 1 GiB for ImageNet's shards.
READER_BUFFER = 32768
# Records held at once while a whole split is read for its labels.
BLOCK = 512


class TfdsSplit(Split):
    """One split of a prepared set."""

    def __init__(
        self,
        name: str,
        identity: str,
        shards: Sequence[tuple[pathlib.Path, int]],
        image_key: str,
        label_key: str,
    ):
        """Describes a split; files are opened when first read.

        Args:
          name: the split's name.
          identity: the set's full name with config and version.
          shards: ArrayRecord files with the number of examples in each.
          image_key: feature that holds the encoded picture.
          label_key: feature that holds the integer label.
        """
        self.name = name
        self.identity = identity
        self.shards = tuple(shards)
        self.keys = (image_key, label_key)
        self._starts = np.cumsum([0, *(count for _, count in self.shards)])
        self._readers: dict[int, Any] = {}
        self._readers_lock = threading.Lock()
        # The reader makes no promise about threads that holds for every version of array_record.
        self._locks = [threading.Lock() for _ in self.shards]

    def __reduce__(self) -> tuple:
        # A pickled split opens its files anew.
        return type(self), (self.name, self.identity, self.shards, *self.keys)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: Indices) -> list[Record]:
        """Returns the encoded pictures at `indices`; see `Split.read`."""
        from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

        places = checked_indices(indices, len(self))
        owner = np.searchsorted(self._starts, places, side="right") - 1
        records: list[Any] = [None] * len(places)
        image_key, label_key = self.keys
        for shard in np.unique(owner):
            rows = np.flatnonzero(owner == shard)
            inside = (places[rows] - self._starts[shard]).tolist()
            for row, position, data in zip(
                rows.tolist(), inside, self._bytes(int(shard), inside), strict=True
            ):
                try:
                    feature = example_pb2.Example.FromString(data).features.feature
                    image = feature[image_key].bytes_list.value[0]
                    label = feature[label_key].int64_list.value[0]
                except Exception as error:  # protobuf's DecodeError, or a feature that is not there
                    raise self._damaged(int(shard), position) from error
                records[row] = Record(image, label, f"{self.name}/{places[row]}")
        return records

    def example_names(self, indices: Indices) -> list[str]:
        """Returns 'split/index' for each index."""
        return [f"{self.name}/{i}" for i in checked_indices(indices, len(self))]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The class of every example, int32[n]; read once, then kept in the user's cache."""
        stamp = [(os.fspath(path), os.stat(path).st_mtime_ns) for path, _ in self.shards]
        key = hashlib.blake2b(
            f"{self.fingerprint} {self.keys} {stamp}".encode(), digest_size=16
        ).hexdigest()
        cached = files.cache_folder() / "labels" / f"{key}.npy"
        # A cache that cannot be read or written only costs time.
        with contextlib.suppress(OSError, ValueError, EOFError):
            labels = np.load(cached, allow_pickle=False)
            if labels.shape == (len(self),) and labels.dtype == np.int32:
                return labels
        labels = self._read_labels()
        with contextlib.suppress(OSError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_name(f"{key}.{uuid.uuid4().hex}.npy")
            np.save(partial, labels)
            os.replace(partial, cached)
        return labels

    def _read_labels(self) -> np.ndarray:
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            labels[start:stop] = [record.label for record in self.read(range(start, stop))]
        return labels

    @property
    def fingerprint_kind(self) -> str:
        """'content' up to 1 GiB of files, else 'sizes'."""
        size = sum(os.stat(path).st_size for path, _ in self.shards)
        return "content" if size <= CONTENT_LIMIT else "sizes"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest over set, version, split and the files' contents or sizes."""
        digest = hashlib.blake2b(f"{self.identity} {self.name} ".encode(), digest_size=16)
        with_content = self.fingerprint_kind == "content"
        for path, count in self.shards:
            digest.update(f"{path.name} {count} {os.stat(path).st_size} ".encode())
            if with_content:
                try:
                    with open(path, "rb") as file:
                        while block := file.read(1 << 20):
                            digest.update(block)
                except OSError as error:
                    raise UserError(f"cannot read {path}: {error.strerror}") from error
        return digest.hexdigest()

    def _bytes(self, shard: int, positions: list[int]) -> list[bytes]:
        with self._locks[shard]:
            reader = self._reader(shard)
            try:
                return reader.read(positions)
            except Exception as error:
                for position in positions:
                    try:
                        reader.read([position])
                    except Exception as one:
                        raise self._damaged(shard, position) from one
                raise UserError(f"cannot read {self.shards[shard][0]}: {error}") from error

    def _reader(self, shard: int) -> Any:
        reader = self._readers.get(shard)
        if reader is None:
            from array_record.python import array_record_module

            path, count = self.shards[shard]
            try:
                reader = array_record_module.ArrayRecordReader(
                    os.fspath(path), options=READER_OPTIONS, file_reader_buffer_size=READER_BUFFER
                )
                found = reader.num_records()
            except Exception as error:
                raise UserError(f"{path} is missing or damaged: prepare the set again") from error
            if found != count:
                raise UserError(
                    f"{path} holds {found} records where dataset_info.json says {count}: "
                    "prepare the set again"
                )
            with self._readers_lock:
                while len(self._readers) >= _most_open_files():
                    del self._readers[next(iter(self._readers))]
                self._readers[shard] = reader
        return reader

    def _damaged(self, shard: int, position: int) -> UserError:
        path, _ = self.shards[shard]
        example = f"{self.name}/{self._starts[shard] + position}"
        return UserError(f"{path}: record {position} (example {example}) is damaged")


def _most_open_files() -> int:
    """Returns how many shards of a split may be open: a quarter of what the system allows."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(soft // 4, 1)
