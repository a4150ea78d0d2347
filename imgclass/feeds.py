"""The batches of a task: where an open data set meets the devices.

Which feed, of what size and from which rows, is settled here; how each works is in `data/feed.py`.
"""

import dataclasses
import logging

import jax

from imgclass import parallel
from imgclass.build import Task
from imgclass.data import cache, dataset, feed
from imgclass.data.host_crop import RandomCrop
from imgclass.data.preprocess import Preprocess
from imgclass.data.source import Split
from imgclass.errors import UsageError

logger = logging.getLogger(__name__)


def train_prepare(task: Task) -> Preprocess:
    """Returns how training pictures are prepared."""
    if task.config.augment.random_resized_crop:  # drawn from the whole; evaluation sees a part
        return dataclasses.replace(task.prepare, crop_fraction=1.0)
    return task.prepare


def training_pictures(task: Task, data: dataset.Dataset) -> tuple[Split, Preprocess]:
    """Returns what the training feed reads and how; with `data.cache`, fills that cache first."""
    config, split, prepare = task.config.data, data.splits["train"], train_prepare(task)
    if not config.cache:
        return split, prepare
    return cache.cached(split, prepare, dataset.train_size(config), config.cache, config.threads)


def host_crop(task: Task) -> RandomCrop | None:
    """Returns the crop that the host takes of training pictures, None if it takes none."""
    config = task.config
    if not config.augment.random_resized_crop or config.augment.crop_on == "device":
        return None
    return RandomCrop(
        config.seed,
        config.train.batch_size,
        config.augment.crop_scale,
        config.augment.crop_ratio,
        task.prepare.image_size,
        config.data.interpolation,
    )


def train_size(task: Task) -> tuple[int, int]:
    """Returns height and width of training pictures on the wire."""
    return task.prepare.image_size if host_crop(task) else dataset.train_size(task.config.data)


def train_feed(task: Task, data: dataset.Dataset) -> feed.StreamFeed | feed.ResidentFeed:
    """Returns the training feed that `data.feed` asks for."""
    config = task.config
    if config.data.workers and data.source.kind == "arrays":
        raise UsageError(
            f"data.workers={config.data.workers}: the pictures of {data.source.name} are in "
            "memory, and need no decoding. Leave it 0"
        )
    split, prepare = training_pictures(task, data)
    if isinstance(split, cache.CachedSplit):
        logger.info("training pictures: %s (%.0f MiB)", split.path, split.bytes / 2**20)
    size, crop = train_size(task), host_crop(task)
    megabytes = len(split) * size[0] * size[1] * task.prepare.channels / 2**20
    kind = config.data.feed
    if kind == "auto":
        fits = megabytes <= config.data.resident_mb
        streams = crop is not None or config.data.workers > 0
        kind = "resident" if fits and not streams else "stream"
    if kind == "resident":
        rows = parallel.rows_sharding(task.mesh)
        return feed.ResidentFeed(
            split,
            prepare,
            size,
            seed=config.seed,
            repeats=config.augment.repeats,
            sampling=config.data.sampling,
            batch_size=config.train.batch_size,
            put_all=parallel.put_whole(task.mesh),
            take=jax.jit(parallel.take_rows, out_shardings=rows),
            threads=config.data.threads,
        )
    return feed.StreamFeed(
        split,
        prepare,
        size,
        seed=config.seed,
        repeats=config.augment.repeats,
        sampling=config.data.sampling,
        batch_size=config.train.batch_size,
        rows=parallel.local_rows(task.mesh, config.train.batch_size),
        put=parallel.put_rows(task.mesh),
        crop=crop,
        threads=config.data.threads,
        processes=config.data.workers,
        prefetch=config.data.prefetch,
    )


def eval_feed(task: Task, data: dataset.Dataset, role: str) -> feed.EvalFeed | None:
    """Returns the feed of an evaluation, None if there is no such split or it is empty."""
    split = data.splits.get(role)
    if split is None or not len(split):
        return None
    # Padding is masked, so rounding the batch up to the devices changes no figure.
    devices = task.mesh.devices.size
    batch_size = -(-task.config.eval.batch_size // devices) * devices
    config = task.config.data
    return feed.EvalFeed(
        split,
        task.prepare,
        batch_size=batch_size,
        rows=parallel.local_rows(task.mesh, batch_size),
        put=parallel.put_rows(task.mesh),
        threads=config.threads,
        prefetch=config.prefetch,
        resident_bytes=0 if config.feed == "stream" else config.resident_mb * 2**20,
    )
