"""Feeds: batches of a training step, from memory or decoded ahead; batches of an evaluation.

Both training feeds give bit-identical batches for a step, because both take the examples from
`sampling.make_order` and the pixels from `Preprocess.load`. A batch on the device is
`{'image': u8[B,H,W,C], 'label': i32[B], 'index': i32[B], 'mask': bool[B]}`,
rows sharded over the mesh. No augmentation and no scaling here.
"""

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np

from imgclass.data import load
from imgclass.data.host_crop import RandomCrop
from imgclass.data.preprocess import Preprocess
from imgclass.data.sampling import make_order
from imgclass.data.source import Split
from imgclass.data.workers import Workers

HostBatch = dict[str, np.ndarray]
Put = Callable[[HostBatch], dict]  # local rows on the host -> the global batch on the devices


def batches_ahead(prefetch: int, threads: int) -> int:
    """Returns `prefetch`, or one batch a thread and at least 4."""
    return prefetch or max(4, threads)


def load_all(
    split: Split, preprocess: Preprocess, size: tuple[int, int], threads: int = 0
) -> np.ndarray:
    """Returns the whole split decoded, uint8[n, H, W, C]."""
    loading = _Loading(split, preprocess, size, threads)
    try:
        return loading.result()
    finally:
        loading.close()


class _Loading:
    """A whole split being decoded on host threads."""

    CHUNK = 256  # examples a task

    def __init__(
        self, split: Split, preprocess: Preprocess, size: tuple[int, int], threads: int = 0
    ):
        """Starts it."""
        self._images = np.empty((len(split), *size, preprocess.channels), np.uint8)
        self._pool = concurrent.futures.ThreadPoolExecutor(load.thread_count(threads), "decode")
        self._dropped = threading.Event()

        def fill(start: int) -> None:
            indices = range(start, min(start + self.CHUNK, len(split)))
            images = load.examples(split, indices, preprocess, size, self._dropped)
            self._images[indices.start : indices.stop] = images

        starts = range(0, len(split), self.CHUNK)
        self._parts = [self._pool.submit(fill, start) for start in starts]

    def result(self, progress: Callable[[], None] = lambda: None) -> np.ndarray:
        """Waits for uint8[n, H, W, C], calling `progress` on the way.

        Raises:
          UserError: for the first bad picture.
        """
        for part in self._parts:
            progress()
            part.result()
        return self._images

    def close(self) -> None:
        """Stops the threads; what they have not done is dropped."""
        self._dropped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class StreamFeed:
    """Decodes `prefetch` batches ahead, which bounds memory, on host threads or in processes."""

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        size: tuple[int, int],
        *,
        seed: int,
        batch_size: int,
        rows: np.ndarray,
        put: Put,
        repeats: int = 1,
        sampling: str = "uniform",
        crop: RandomCrop | None = None,
        threads: int = 0,
        processes: int = 0,
        prefetch: int = 0,
    ):
        """Args are those of `sampling.make_order`, and `rows`: this process's global rows.

        With `crop`, its crops of the whole pictures are handed out. With `processes`, each decodes
        a batch at a time, and a thread waits for it.

        A batch is decoded by one thread, so fewer batches ahead than threads leave some idle.
        `prefetch` of 0 is what `batches_ahead` says.
        """
        self._loader = load.BatchLoader(split, preprocess, size, crop)
        self._rows, self._put, self._labels = np.asarray(rows), put, split.labels
        self.order = make_order(seed, split.labels, batch_size, sampling, repeats)
        self._workers = Workers(self._loader, self._rows, processes) if processes else None
        count = processes or load.thread_count(threads)
        self._ahead = batches_ahead(prefetch, count)
        self._pool = concurrent.futures.ThreadPoolExecutor(count, "decode")
        self._dropped = threading.Event()
        self._pending: collections.deque[tuple[int, concurrent.futures.Future]] = (
            collections.deque()
        )

    def _load(self, step: int) -> HostBatch:
        indices = self.order(step)[self._rows]
        if self._workers is not None:
            images = self._workers.load(step, indices)
        else:
            images = self._loader(step, indices, self._rows, self._dropped)
        return _host_batch(images, self._labels[indices], indices)

    def batch(self, step: int) -> dict:
        """Returns the global batch of `step`; the next ones are being decoded meanwhile."""
        if self._pending and self._pending[0][0] != step:
            self._drop_pending()
        first = self._pending[-1][0] + 1 if self._pending else step
        for later in range(first, step + 1 + self._ahead):
            self._pending.append((later, self._pool.submit(self._load, later)))
        return self._put(self._pending.popleft()[1].result())

    def _drop_pending(self) -> None:
        while self._pending:
            self._pending.popleft()[1].cancel()

    def close(self) -> None:
        """Stops the threads or processes; batches being decoded are dropped."""
        self._dropped.set()
        self._drop_pending()
        if self._workers is not None:
            self._workers.close()
        self._pool.shutdown(wait=True, cancel_futures=True)


class ResidentFeed:
    """Keeps the decoded split on the device; a batch is a gather there."""

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        size: tuple[int, int],
        *,
        seed: int,
        batch_size: int,
        put_all: Callable[[HostBatch], dict],
        take: jax.stages.Wrapped,
        repeats: int = 1,
        sampling: str = "uniform",
        threads: int = 0,
    ):
        """Starts loading the split; `load`, and so `batch`, waits for it.

        Args:
          split: the training split.
          preprocess: how pictures are prepared.
          size: height and width on the wire.
          seed: as for `sampling.make_order`.
          batch_size: global rows a step.
          put_all: places a host dict on the devices, whole on each.
          take: jitted, gathers rows: (placed dict, int32[B]) -> global batch.
          repeats: as for `sampling.make_order`.
          sampling: its `how`.
          threads: that decode; 0 is one a core.
        """
        self._jitted, self._put_all = take, put_all
        self._take: Callable[..., dict] = take
        self._labels = np.asarray(split.labels, np.int32)
        self.order = make_order(seed, split.labels, batch_size, sampling, repeats)
        self._loading: _Loading | None = _Loading(split, preprocess, size, threads)
        self._examples: dict | None = None
        self._shape = (len(split), *size, preprocess.channels)

    def load(self, progress: Callable[[], None] = lambda: None) -> dict:
        """Returns {'image': u8[n,H,W,C], 'label': i32[n]} on the devices, whole on each.

        Args:
          progress: called now and then while waiting.

        Raises:
          UserError: naming the first example that is not a whole picture.
        """
        if self._examples is None:
            assert self._loading is not None, "the feed is closed"
            images = self._loading.result(progress)
            self._examples = self._put_all({"image": images, "label": self._labels})
            self.close()
        return self._examples

    def compile(self, sharding: jax.sharding.Sharding) -> None:
        """Compiles what `batch` does, for examples so placed: beside the loading, not after it."""
        shapes = {
            "image": jax.ShapeDtypeStruct(self._shape, np.uint8, sharding=sharding),
            "label": jax.ShapeDtypeStruct(self._shape[:1], np.int32, sharding=sharding),
        }
        self._take = self._jitted.lower(shapes, self.indices(0)[0]).compile()

    def indices(self, step: int, count: int = 1) -> np.ndarray:
        """Returns int32[count, B]: the examples of `count` steps from `step`."""
        return np.stack([self.order(step + i) for i in range(count)]).astype(np.int32)

    def batch(self, step: int) -> dict:
        """Returns the global batch of `step`."""
        return self._take(self.load(), self.indices(step)[0])

    def close(self) -> None:
        """Stops the loading, if it goes on."""
        if self._loading is not None:
            self._loading.close()
            self._loading = None


class EvalFeed:
    """Every example of a split once, in order; the last batch padded and masked."""

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        *,
        batch_size: int,
        rows: np.ndarray,
        put: Put,
        threads: int = 0,
        prefetch: int = 0,
        resident_bytes: int = 0,
    ):
        """As `StreamFeed`; the decoded split is kept in host memory if it fits resident_bytes."""
        self._split, self._preprocess, self._batch_size = split, preprocess, batch_size
        self._rows, self._put, self._threads = rows, put, load.thread_count(threads)
        self._ahead = batches_ahead(prefetch, self._threads)
        height, width = preprocess.image_size
        fits = len(split) * height * width * preprocess.channels <= resident_bytes
        self._cache: np.ndarray | None = None
        self._keep = fits
        self._dropped = threading.Event()

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def _load(self, number: int) -> HostBatch:
        indices = number * self._batch_size + self._rows
        mask = indices < len(self._split)
        real = indices[mask]
        size = self._preprocess.image_size
        images = np.zeros((len(indices), *size, self._preprocess.channels), np.uint8)
        if self._cache is not None:
            images[mask] = self._cache[real]
        elif len(real):
            images[mask] = load.examples(self._split, real, self._preprocess, size, self._dropped)
        labels = np.zeros(len(indices), np.int32)
        labels[mask] = self._split.labels[real]
        return _host_batch(images, labels, np.where(mask, indices, 0), mask)

    def __iter__(self) -> Iterator[dict]:
        if self._keep and self._cache is None:
            self._cache = load_all(
                self._split, self._preprocess, self._preprocess.image_size, self._threads
            )
        self._dropped = threading.Event()  # each iteration drops its own batches
        numbers, ahead = range(len(self)), self._ahead
        for rows in load.in_order(self._load, numbers, self._threads, ahead, self._dropped):
            yield self._put(rows)


def _host_batch(
    images: np.ndarray, labels: np.ndarray, indices: np.ndarray, mask: np.ndarray | None = None
) -> HostBatch:
    return {
        "image": images,
        "label": np.asarray(labels, np.int32),
        "index": np.asarray(indices, np.int32),
        "mask": np.ones(len(labels), bool) if mask is None else mask,
    }
