"""The batches of a task: where an open data set meets the devices.

Which feed, of what size and from which rows, is settled here; how each works is in `data/feed.py`.
"""

import dataclasses

import jax

from imgclass import parallel
from imgclass.build import Task
from imgclass.data import dataset, feed
from imgclass.data.preprocess import Preprocess


def train_prepare(task: Task) -> Preprocess:
    """Returns how training pictures are prepared."""
    if task.config.augment.random_resized_crop:  # drawn from the whole; evaluation sees a part
        return dataclasses.replace(task.prepare, crop_fraction=1.0)
    return task.prepare


def train_feed(task: Task, data: dataset.Dataset) -> feed.StreamFeed | feed.ResidentFeed:
    """Returns the training feed that `data.feed` asks for."""
    config, split, prepare = task.config, data.splits["train"], train_prepare(task)
    size = dataset.train_size(config.data)
    megabytes = len(split) * size[0] * size[1] * task.prepare.channels / 2**20
    kind = config.data.feed
    if kind == "auto":
        kind = "resident" if megabytes <= config.data.resident_mb else "stream"
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
        threads=config.data.threads,
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
