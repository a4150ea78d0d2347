"""Runs small enough to train in a test: pictures, a config, and what a run folder then holds.

Not a test. `archive` and `config` make an in-process run, `command` the same as a process.
"""

import contextlib
import io
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict
from PIL import Image

from imgclass import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
CLASSES = 3

BASE: dict[str, Any] = {
    "data.image_size": (8, 8),
    "data.threads": 2,
    "model.filters": (4,),
    "train.batch_size": 8,
    "train.total_steps": 6,
    "train.devices": 1,
    "eval.batch_size": 8,
    "eval.every_steps": 0,
    "checkpoint.every_steps": 0,
    "log.every_steps": 1,
    "log.tensorboard": False,
    "log.progress": False,
    "log.report": False,
}

# What of result.json no two runs have in common.
TIMINGS: dict[str, Any] = {"wall_seconds": 0, "data_wait": 0}

# Everything that could make a resumed run differ, at once.
FULL: dict[str, Any] = {
    "model.batch_norm": True,
    "model.dropout": 0.3,
    "optim.ema_decay": 0.9,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 3,
    "loss.label_smoothing": 0.1,
    "augment.flip": True,
    "augment.pad_crop": 1,
    "augment.brightness": 0.2,
}


@contextlib.contextmanager
def _settings(values: Mapping[str, Any]) -> Iterator[None]:
    before = {name: jax.config.values[name] for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@contextlib.contextmanager
def compiled_quickly() -> Iterator[None]:
    """Compiles without most optimizations: for many short runs, compiling is all the time."""
    with _settings({"jax_disable_most_optimizations": True}):
        yield


@contextlib.contextmanager
def compiled_once(folder: pathlib.Path) -> Iterator[None]:
    """As `compiled_quickly`, and keeps programs in `folder`, so that equal runs share them."""
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with compiled_quickly(), _settings(settings):
        compilation_cache.reset_cache()
        yield
    compilation_cache.reset_cache()


def pictures(n: int, size: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns u8[n, size, size, 3] noise whose brightness tells the class, and i64[n] labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    noise = random.integers(0, 100, (n, size, size, 3))
    return (noise + 50 * labels[:, None, None, None]).astype(np.uint8), labels


def archive(
    folder: pathlib.Path, train: int = 50, validation: int = 13, test: int = 11, size: int = 8
) -> pathlib.Path:
    """Writes an .npz with three splits of those sizes; a split of 0 is left out."""
    arrays = {}
    for seed, (split, n) in enumerate({"train": train, "val": validation, "test": test}.items()):
        if n:
            arrays[f"x_{split}"], arrays[f"y_{split}"] = pictures(n, size, seed)
    path = folder / "pictures.npz"
    np.savez(path, **arrays)
    return path


def png(pixels: np.ndarray) -> bytes:
    """Encodes u8[h, w, c]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def folder(root: pathlib.Path, split: str, n: int, size: int = 8, seed: int = 0) -> pathlib.Path:
    """Writes root/split/class<k>/<i>.png, n pictures in all; returns root."""
    images, labels = pictures(n, size, seed)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / split / f"class{label}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return root


def config(data: Any, changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns a resolved and checked config of BASE with `changes`, keys as 'section.name'."""
    made = config_lib.defaults()
    made.data.name = str(data)
    for path, value in {**BASE, **(changes or {})}.items():
        section, _, name = path.rpartition(".")
        (made[section] if section else made)[name] = value
    made = config_lib.resolve(made)
    config_lib.check(made)
    return made


def command(
    data: Any, workdir: Any, changes: Mapping[str, Any] | None = None, *flags: str
) -> list[str]:
    """Returns the command line of a process that trains as `config` says."""
    keys = {**BASE, **(changes or {})}
    return [
        sys.executable,
        str(ROOT / "main.py"),
        f"--config={ROOT / 'configs/cnn.py'}:{data}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}".replace(" ", "") for key, value in keys.items()),
        *flags,
    ]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns a process environment that shows so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def records(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns metrics.jsonl without the fields that are timings."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    timings = ("images_per_second", "data_wait")
    return [{k: v for k, v in json.loads(line).items() if k not in timings} for line in lines]


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps with a manifest, ascending."""
    return sorted(int(path.parent.name) for path in workdir.glob("checkpoints/*/manifest.json"))


def arrays(workdir: pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint, the newest by default, by name."""
    step = saved_steps(workdir)[-1] if step is None else step
    folder = workdir.absolute() / f"checkpoints/{step:010d}/arrays"
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # not where the run had them
    with ocp.StandardCheckpointer() as reader:
        stored = dict(reader.metadata(folder).item_metadata)
        shapes = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
            for name, leaf in stored.items()
        }
        found = reader.restore(folder, shapes)
    return {name: np.asarray(value) for name, value in found.items()}


def assert_same_bits(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
    """Asserts that two checkpoints hold the same names and the same bits."""
    assert a.keys() == b.keys()
    differing = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    assert not differing


def ask(capsys, *words):
    """Returns (status, standard output, standard error)."""
    from imgclass import cli

    capsys.readouterr()
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as error:  # argparse
        status = error.code
    return status, *capsys.readouterr()
