"""How cost grows with work: each kind of work is made larger, each point is a fresh process.

    python -m benchmarks.growth --plot=docs/images/growth.png --json=growth.json

Prints, for each kind, cost against work and the exponent p of cost ~ work^p, fitted to the largest
three points, where fixed costs weigh least. 1 is linear; 0 is flat. A training step is the real one
on a batch that is on the device. The data set is a folder of links to one small picture, read by
the stream feed: `opening` ends with its 20th batch, `memory` is what the process grew by.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import machine
from imgclass import build, checkpoint, config, feeds, parallel, process
from imgclass.data import dataset
from imgclass.data.preprocess import Preprocess

REPEATS = 7
# Work -> (what it counts, sizes, {cost: its unit}).
KINDS: dict[str, tuple[str, tuple[int, ...], dict[str, str]]] = {
    "images": ("images trained on", (320, 640, 1280, 2560, 5120), {"training": "s"}),
    "classes": ("classes", (10, 100, 1000, 4000, 16000), {"training step": "ms"}),
    "side": ("pixels a picture", (32, 64, 128, 256, 512), {"training step": "ms"}),
    "batch": ("pictures a batch", (16, 64, 256, 1024, 4096), {"training step": "ms"}),
    "devices": ("devices, one batch over all", (1, 2, 4, 8), {"training step": "ms"}),
    "data": (
        "pictures in the set",
        (1000, 4000, 16000, 64000),
        {"opening": "s", "memory": "MB", "20 batches": "ms"},
    ),
    "checkpoint": ("MB of arrays", (4, 16, 64, 256), {"saving": "ms", "restoring": "ms"}),
}


def main(argv: list[str] | None = None) -> None:
    """Measures the kinds and prints them, or measures one point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--points", type=int, default=0, help="the smallest so many; 0 is all")
    parser.add_argument("--plot", default="", help="where to draw, a .png or .svg")
    parser.add_argument("--json", default="", help="where to write the figures")
    parser.add_argument("--load", default="", help="draw and print what earlier --json wrote, a,b")
    parser.add_argument("--one", default="", help="KIND:SIZE, in this process")
    args = parser.parse_args(argv)
    if args.one:
        kind, size = args.one.split(":")
        print(json.dumps(POINTS[kind](int(size))))
        return
    found: dict[str, Any] = {}
    if args.load:
        for path in args.load.split(","):
            found |= json.loads(pathlib.Path(path).read_text())["kinds"]
    else:
        for kind in args.kinds.split(","):
            found[kind] = _measure(kind, args.points)
    for kind, one in found.items():
        label, _, costs = KINDS[kind]
        for cost, unit in costs.items():
            values = ", ".join(
                f"{x:,}: {y:.3g}" for x, y in zip(one["work"], one["cost"][cost], strict=True)
            )
            print(f"{label} | {cost}, {unit} | {values} | {one['exponent'][cost]:.2f}")
    if args.plot:
        _draw(found, args.plot)
    if args.json:
        machine.write(args.json, {"kinds": found})


def _measure(kind: str, points: int) -> dict[str, Any]:
    """Runs a kind's points; returns its sizes, the costs and their exponents."""
    _, sizes, costs = KINDS[kind]
    sizes = sizes[: points or None]
    work = [size**2 if kind == "side" else size for size in sizes]
    flags = os.environ.get("XLA_FLAGS", "")
    if kind == "devices":
        flags += " --xla_force_host_platform_device_count=8"
    said = []
    for size in sizes:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.growth", f"--one={kind}:{size}"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=os.environ | {"XLA_FLAGS": flags},
        )
        said.append(json.loads(done.stdout.splitlines()[-1]))
        sys.stderr.write(f"{kind} {size}: {said[-1]}\n")
    cost = {name: [point[name] for point in said] for name in costs}
    return {
        "work": work,
        "cost": cost,
        "exponent": {name: exponent(work, values) for name, values in cost.items()},
    }


def exponent(work: list[float] | list[int], cost: list[float]) -> float:
    """Returns the slope of log cost over log work, of the largest three points by least squares.

    >>> round(exponent([1, 10, 100, 1000], [5, 7, 70, 700]), 3)
    1.0
    """
    x, y = np.log(np.asarray(work[-3:], float)), np.log(np.asarray(cost[-3:], float))
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else 0.0


def _draw(found: dict[str, Any], path: str) -> None:
    """Draws a panel a cost, both axes logarithmic, with a linear one beside it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    panels = [(kind, cost) for kind in found for cost in KINDS[kind][2]]
    rows = -(-len(panels) // 4)
    figure = Figure(figsize=(12, 2.7 * rows), layout="constrained")
    for at, (kind, cost) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, 4, at)
        x, y = np.asarray(found[kind]["work"]), np.asarray(found[kind]["cost"][cost])
        axes.loglog(x, y[-1] * x / x[-1], color="0.75", linestyle="--", label="linear")
        axes.loglog(x, y, marker="o", label=f"exponent {found[kind]['exponent'][cost]:.2f}")
        axes.set_ylim(y.min() / 3, y.max() * 3)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xticks(x[:: len(x) - 1])
        axes.set_xlabel(KINDS[kind][0])
        axes.set_ylabel(f"{cost}, {KINDS[kind][2][cost]}")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _task(
    side: int = 32, classes: int = 10, batch: int = 32, devices: int = 1, **model: Any
) -> build.Task:
    """Returns the task of a net with one convolution and the mean over space."""
    made = config.defaults()
    made.train.batch_size = batch
    made.model.update({"head": "average", **model})
    made = config.resolve(made)
    mesh, prepare = parallel.make_mesh(devices, batch), Preprocess((side, side))
    names = tuple(map(str, range(classes)))
    return build.make(made, names, prepare, mesh, 1000, 0, (100,) * classes)


def _step(task: build.Task) -> Callable[[], None]:
    """Returns a function that trains one step and waits for it; it has been compiled."""
    batch, side = task.config.train.batch_size, task.prepare.image_size
    random = np.random.default_rng(0)
    rows = parallel.put_rows(task.mesh)(
        {
            "image": random.integers(0, 256, (batch, *side, 3), np.uint8),
            "label": random.integers(0, len(task.class_names), batch).astype(np.int32),
            "index": np.arange(batch, dtype=np.int32),
            "mask": np.ones(batch, bool),
        }
    )
    step, state = task.jitted_train_step(), task.initial_state()

    def once() -> None:
        nonlocal state
        state, _ = step(state, rows)
        jax.block_until_ready(state)

    once()
    return once


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _step_time(**task: Any) -> dict[str, float]:
    once = _step(_task(**task))
    return {"training step": 1000 * statistics.median(_seconds(once) for _ in range(REPEATS))}


def _images(count: int) -> dict[str, float]:
    once = _step(_task())
    return {"training": _seconds(lambda: [once() for _ in range(count // 32)])}


def _data(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(place / "one.jpg")
        for label in range(10):
            (place / f"set/{label}").mkdir(parents=True)
            for i in range(count // 10):
                os.link(place / "one.jpg", place / f"set/{label}/{i}.jpg")
        made = config.defaults()
        made.data.name = str(place / "set")
        made.data.image_size = (32, 32)
        made.data.feed = "stream"
        made = config.resolve(made)
        mesh = parallel.make_mesh(1, made.train.batch_size)
        before, began = _resident(), time.perf_counter()
        opened = dataset.open_dataset(made)
        described = dataset.describe(opened)
        task = build.from_data(made, opened, mesh, 1000, 0)
        feed = feeds.train_feed(task, opened)
        for step in range(20):
            feed.batch(step)
        opening, memory = time.perf_counter() - began, _resident() - before
        later = _seconds(lambda: [feed.batch(step) for step in range(20, 40)])
        feed.close()
        assert described
    return {"opening": opening, "memory": memory / 1e6, "20 batches": 1000 * later}


def _resident() -> int:
    """Returns the process's resident memory, bytes."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _checkpoint(megabytes: int) -> dict[str, float]:
    arrays = {f"layer{i}": np.ones(megabytes * 10**6 // 16, np.float32) for i in range(4)}
    state = jax.device_put(arrays)
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )
    saving, restoring = [], []
    for _ in range(3):
        with (
            tempfile.TemporaryDirectory() as folder,
            checkpoint.Checkpoints(pathlib.Path(folder)) as saved,
        ):
            began = time.perf_counter()
            saved.save(1, state, {}, None)
            saved.wait()
            saving.append(time.perf_counter() - began)
            began = time.perf_counter()
            saved.restore(like)
            restoring.append(time.perf_counter() - began)
    return {
        "saving": 1000 * statistics.median(saving),
        "restoring": 1000 * statistics.median(restoring),
    }


POINTS: dict[str, Callable[[int], dict[str, float]]] = {
    "images": _images,
    "classes": lambda count: _step_time(classes=count),
    "side": lambda side: _step_time(side=side, batch=8),
    "batch": lambda batch: _step_time(batch=batch),
    "devices": lambda devices: _step_time(devices=devices, batch=64, filters=(32, 64)),
    "data": _data,
    "checkpoint": _checkpoint,
}


if __name__ == "__main__":
    process.tune()
    main()
