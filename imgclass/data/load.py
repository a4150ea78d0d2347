"""Examples as pixels, on the host: read, decoded, cut out or resized.

What the feeds' threads and the processes of `workers` do. JAX is not imported here, nor by what is
imported here: a process that decodes has no use for it.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from imgclass.data import decode
from imgclass.data.host_crop import RandomCrop
from imgclass.data.preprocess import Preprocess
from imgclass.data.source import Indices, Record, Split
from imgclass.errors import UserError

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def thread_count(wanted: int) -> int:
    """Returns `wanted`, or one thread a core this process may use."""
    return wanted or len(os.sched_getaffinity(0))


def in_order(
    make: Callable[[_Item], _Made],
    items: Iterable[_Item],
    threads: int,
    ahead: int,
    dropped: threading.Event | None = None,
) -> Iterator[_Made]:
    """Yields make(item) of each item, in order; up to `ahead` more are being made on threads.

    When no more are wanted it sets `dropped`, waits for those begun, and leaves the others.
    """
    pending: collections.deque[concurrent.futures.Future[_Made]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads, "decode") as pool:
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            if dropped is not None:
                dropped.set()
            for future in pending:
                future.cancel()


def examples(
    split: Split,
    indices: Indices,
    preprocess: Preprocess,
    size: tuple[int, int],
    dropped: threading.Event | None = None,
) -> np.ndarray:
    """Reads, decodes and resizes examples.

    Returns:
      uint8[len(indices), H, W, C].

    Raises:
      UserError: naming the first example that is not a whole picture.
      concurrent.futures.CancelledError: `dropped` was set meanwhile.
    """
    images = np.empty((len(indices), *size, preprocess.channels), np.uint8)
    for row, record in enumerate(split.read(indices)):
        _go_on(dropped)
        try:
            images[row] = preprocess.load(record.image, size)
        except decode.BadImage as bad:
            raise _refused(split, record, bad) from bad
    return images


@dataclasses.dataclass(frozen=True)
class BatchLoader:
    """What loads rows of training batches; it can be pickled where its split can.

    Attributes:
      split: the training split.
      preprocess: how pictures are prepared.
      size: height and width on the wire.
      crop: what to cut out of the decoded picture instead of preparing the whole, if anything.
    """

    split: Split
    preprocess: Preprocess
    size: tuple[int, int]
    crop: RandomCrop | None = None

    def __call__(
        self,
        step: int,
        indices: np.ndarray,
        rows: np.ndarray,
        dropped: threading.Event | None = None,
    ) -> np.ndarray:
        """Loads rows of one batch, each example decoded once; otherwise as `examples`.

        Args:
          step: of the batch.
          indices: int[k], the example of each row.
          rows: int[k], their places in the global batch.
          dropped: set where they are no longer wanted.

        Returns:
          uint8[k, H, W, C].
        """
        once, places = np.unique(indices, return_inverse=True)
        if self.crop is None:
            if len(once) == len(indices):
                return examples(self.split, indices, self.preprocess, self.size, dropped)
            return examples(self.split, once, self.preprocess, self.size, dropped)[places]
        drawn = self.crop.drawn(step)[rows]
        images = np.empty((len(indices), *self.size, self.preprocess.channels), np.uint8)
        for number, record in enumerate(self.split.read(once)):
            _go_on(dropped)
            here = np.flatnonzero(places == number)
            boxes = functools.partial(self.crop.boxes, drawn[here])
            try:
                parts = self.preprocess.decode_boxes(record.image, boxes)
            except decode.BadImage as bad:
                raise _refused(self.split, record, bad) from bad
            for place, part in zip(here, parts, strict=True):
                images[place] = self.crop.resized(part)
        return images


def _go_on(dropped: threading.Event | None) -> None:
    # Asked before each picture: a batch of large ones takes half a minute.
    if dropped is not None and dropped.is_set():
        raise concurrent.futures.CancelledError


def _refused(split: Split, record: Record, bad: decode.BadImage) -> UserError:
    return UserError(
        f"{record.name} ({split.name}): {bad}. Mend or remove it, or leave bad pictures out of "
        "a run, in a --workdir of its own, with --config.data.bad_files=skip"
    )
