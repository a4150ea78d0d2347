"""Our side of `benchmarks.input`: one program a process, that prints one JSON object.

    python -m benchmarks.input_programs NAME PATH SECONDS

The feed is the one that training gets from the config; the augmentation is that of the train step.
"""

import json
import os
import pathlib
import re
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from imgclass import build, feeds, keys, parallel, process, step
from imgclass import config as config_lib
from imgclass.data import dataset
from imgclass.data import feed as feed_lib

_STREAM = {"data.feed": "stream", "data.validation_split": "", "data.test_split": ""}
_CIFAR = {"data.name": "cifar10", "data.image_size": (32, 32), "train.batch_size": 512}
_PHOTOS = {"data.image_size": (224, 224), "data.load_size": (256, 256), "train.batch_size": 32}
_PAD_CROP = {"augment.pad_crop": 4, "augment.flip": True}
_CROP = {"augment.random_resized_crop": True, "augment.flip": True}
_HOST = {"augment.crop_on": "host"}
_ALIASED = {"data.interpolation": "bilinear_aliased"}
_WORKERS = {"data.workers": len(os.sched_getaffinity(0))}
# By program: the keys of its config, that which PATH is, and whether batches are augmented.
PROGRAMS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "cifar": (_STREAM | _CIFAR | _PAD_CROP, "data.data_dir", True),
    "cifar, workers": (_STREAM | _CIFAR | _PAD_CROP | _WORKERS, "data.data_dir", True),
    "photos": (_STREAM | _PHOTOS | _CROP | _HOST, "data.name", True),
    "photos, workers": (_STREAM | _PHOTOS | _CROP | _HOST | _WORKERS, "data.name", True),
    "photos, aliased": (
        _STREAM | _PHOTOS | _CROP | _HOST | _WORKERS | _ALIASED,
        "data.name",
        True,
    ),
    "photos, device": (_STREAM | _PHOTOS | _CROP, "data.name", True),
    "photos, raw": (
        _STREAM | _PHOTOS | _CROP | _HOST | {"data.cache": "raw"},
        "data.name",
        True,
    ),
    "originals": (_STREAM | _PHOTOS, "data.name", False),
    "raw": (_STREAM | _PHOTOS | {"data.cache": "raw"}, "data.name", False),
    "jpeg": (_STREAM | _PHOTOS | {"data.cache": "jpeg"}, "data.name", False),
    "resident": (_STREAM | _CIFAR | {"data.feed": "resident"}, "data.data_dir", False),
}


def opened(changes: dict[str, Any]) -> tuple[build.Task, dataset.Dataset]:
    """Returns a task and its data."""
    config = config_lib.defaults()
    for path, value in changes.items():
        section, _, name = path.rpartition(".")
        config[section][name] = value
    config = config_lib.resolve(config)
    config_lib.check(config)
    data = dataset.open_dataset(config)
    mesh = parallel.make_mesh(1, config.train.batch_size)
    return build.from_data(config, data, mesh, 1, 0), data


def workers_peak() -> int:
    """Returns the peak memory of this process's children, added up, KiB."""
    children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = (pathlib.Path(f"/proc/{child}/status").read_text() for child in children)
    return sum(int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) for status in found)


def measure(changes: dict[str, Any], augments: bool, seconds: float) -> dict[str, float]:
    """Returns images a second and the process's peak, as a training run would see them."""
    task, data = opened(changes)
    config, root = task.config, keys.root(task.config.seed)
    began = time.perf_counter()
    feed = feeds.train_feed(task, data)
    if isinstance(feed, feed_lib.ResidentFeed):
        feed.load()
    filled = time.perf_counter() - began
    augmented = step.make_augmented(
        config, task.prepare, len(task.class_names), sum(task.class_counts), None
    )
    size = task.prepare.image_size
    draw = jax.jit(lambda batch, at: augmented(batch, at, root, size)["image"])

    def advance(at: int) -> jax.Array:
        batch = feed.batch(at)
        return draw(batch, jnp.int32(at)) if augments else batch["image"]

    jax.block_until_ready(advance(0))
    at, began = 1, time.perf_counter()
    last = previous = None
    while (taken := time.perf_counter() - began) < seconds or at < 3:
        last = advance(at)
        jax.block_until_ready(previous)  # the host is one batch ahead, as in the loop
        previous, at = last, at + 1
    jax.block_until_ready(last)
    taken = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + workers_peak()
    feed.close()
    return {
        "images_per_second": (at - 1) * config.train.batch_size / taken,
        "peak_mib": peak / 1024,
        "seconds_to_fill": filled,
    }


if __name__ == "__main__":
    process.tune()  # before JAX starts its backend, as main.py does
    name, path, seconds = sys.argv[1:]
    changes, key, augments = PROGRAMS[name]
    print(json.dumps(measure(changes | {key: path}, augments, float(seconds))))
