"""Figures on an accelerator: CIFAR-10 against the clock, ResNet-50's images a second, dispatch.

    python -m benchmarks.gpu --json=gpu.json                    # everything, under 10 minutes
    python -m benchmarks.gpu --parts=speedrun --targets=94 --seeds=10
    python -m benchmarks.gpu --parts=resnet50 --batches=256,512 --peer_python=/path/to/python

Needs no network; CIFAR-10 has to be prepared for tfds. What is timed, and how, stands beside each
part. A peer is run by `--peer_python`, an interpreter that has PyTorch.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from imgclass import process

process.tune()

import jax  # noqa: E402
import ml_collections  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import machine, profile  # noqa: E402
from imgclass import build, feeds, parallel, plan  # noqa: E402
from imgclass import config as config_lib  # noqa: E402
from imgclass.data import dataset, feed, order  # noqa: E402
from imgclass.data.preprocess import Preprocess  # noqa: E402
from imgclass.evaluate import score  # noqa: E402
from imgclass.state import eval_variables  # noqa: E402

# Multiply-adds of a training step are three times those of inference; 4.089e9 for ResNet-50.
RESNET50_TRAIN_FLOPS = 24.3e9


def make_speedrun(
    target: str, epochs: float | None = None
) -> Callable[[int], tuple[float, float, float]]:
    """Returns seed -> (seconds, test accuracy in percent, the same without test-time augmentation).

    The recipe is configs/cifar10_speedrun.py's. As in the published programs the clock runs from
    drawing the weights, the whitening kernel included, to the last score of the 10,000 test
    pictures with test-time augmentation. Outside stand the reading of the data, which is on the
    device by then, and compilation, which the first call pays.
    """
    config = _experiment("cifar10_speedrun", target)
    config.model.dtype = "bfloat16" if jax.default_backend() != "cpu" else "float32"
    if epochs:
        config.train.total_epochs = epochs
    config = config_lib.resolve(config)
    data = dataset.open_dataset(config)
    train, names = data.splits["train"], data.source.class_names
    whole = plan.make_plan(config, len(train))
    mesh = parallel.make_mesh(0, config.train.batch_size)
    task = build.from_data(config, data, mesh, whole.total, whole.warmup)
    resident, held = feeds.train_feed(task, data), feeds.eval_feed(task, data, "test")
    assert isinstance(resident, feed.ResidentFeed)
    assert held is not None
    test = list(held)
    examples = resident.load()
    sample = examples["image"][: task.model.sample]
    steps = task.jitted_train_steps(whole.total)
    evaluate, with_views = task.jitted_eval_step(), task.jitted_eval_step(config.eval.tta)
    jax.block_until_ready((examples, test, sample))

    def run(seed: int) -> tuple[float, float, float]:
        began = time.perf_counter()
        orders = [
            order.batch_indices(seed, len(train), config.train.batch_size, step)
            for step in range(whole.total)
        ]
        state = task.initial_state(sample, seed)
        indices = np.stack(orders).astype(np.int32)
        state, _ = steps(state, examples, indices, np.int32(whole.total))
        variables = eval_variables(state)
        figure = score.score(with_views, variables, test, len(names))["accuracy"]
        seconds = time.perf_counter() - began
        bare = score.score(evaluate, variables, test, len(names))["accuracy"]
        return seconds, 100 * figure, 100 * bare

    return run


def speedrun(target: str, seeds: int, epochs: float | None = None) -> dict[str, Any]:
    """Trains nets of seeds 0, 1, ... one after the other, each timed; see `make_speedrun`."""
    run = make_speedrun(target, epochs)
    run(0)
    found = []
    for seed in range(seeds):
        found.append(run(seed))
        print(
            "speedrun {} seed {}: {:.3f} s, {:.2f}%, without test-time augmentation {:.2f}%".format(
                target, seed, *found[-1]
            ),
            flush=True,
        )
    names = ("seconds", "accuracy", "accuracy_without_tta")
    return {
        name: machine.spread(values)
        for name, values in zip(names, zip(*found, strict=True), strict=True)
    }


def resnet50(batch: int, side: int = 224, steps: int = 20, streamed: bool = False) -> float:
    """Returns the images a second of ResNet-50's training step, bfloat16, SGD with momentum.

    With `streamed` each batch of uint8 pictures is copied from the host while the step before it
    runs; otherwise one batch stays on the device. The median of 3 rounds of `steps`.
    """
    config = _experiment("imagenet_resnet50")
    config.model.dtype = "bfloat16"
    config.train.batch_size = batch
    config.model.batch_norm_group = 0  # the recipe has a GPU's 32; here it is the whole batch
    config = config_lib.resolve(config)
    mesh = parallel.make_mesh(0, batch)
    prepare = Preprocess(image_size=(side, side), mean=(0.485, 0.456, 0.406), std=(0.2, 0.2, 0.2))
    task = build.make(config, tuple(map(str, range(1000))), prepare, mesh, 1000, 0)
    step, state = task.jitted_train_step(), task.initial_state()
    random = np.random.default_rng(0)
    host = [_pictures(random, batch, side) for _ in range(4 if streamed else 1)]
    put = parallel.put_rows(mesh)
    fixed = put(host[0])

    def batches() -> Iterator[Any]:
        for number in range(steps):
            yield put(host[number % len(host)]) if streamed else fixed

    rates = []
    for _ in range(4):  # the first compiles
        began = time.perf_counter()
        for rows in batches():
            state, metrics = step(state, rows)
        jax.block_until_ready(metrics)
        rates.append(batch * steps / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def dispatch(steps: int = 3000) -> dict[str, float]:
    """Returns the steps a second of the default CNN, batch 32, by steps a dispatch."""
    config = config_lib.resolve(_experiment("cnn"))
    names = tuple(map(str, range(10)))
    prepare = Preprocess(image_size=(64, 64))
    mesh = parallel.make_mesh(0, config.train.batch_size)
    task = build.make(config, names, prepare, mesh, 10**6, 0)
    random = np.random.default_rng(0)
    rows = _pictures(random, 4096, 64)
    examples = parallel.put_whole(mesh)({name: rows[name] for name in ("image", "label")})
    rates = {}
    for most in (1, 10, 100):
        run, state = task.jitted_train_steps(most), task.initial_state()
        indices = random.integers(0, 4096, (most, config.train.batch_size)).astype(np.int32)
        for count in (2 * most, steps):  # the first compiles
            began = time.perf_counter()
            for _ in range(count // most):
                state, metrics = run(state, examples, indices, np.int32(most))
            jax.block_until_ready(metrics)
        rates[str(most)] = steps / (time.perf_counter() - began)
    return rates


def profiled(batch: int) -> dict[str, dict[str, float]]:
    """Returns shares of the device's time by kind of operation, of ResNet-50 and a speed-run."""
    run = make_speedrun("94")
    run(0)
    return {
        "speedrun": profile.shares(lambda: run(1)),
        "resnet50": profile.shares(lambda: resnet50(batch, steps=5)),
    }


def _pictures(random: np.random.Generator, count: int, side: int) -> dict[str, np.ndarray]:
    return {
        "image": random.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        "label": random.integers(0, 10, count).astype(np.int32),
        "index": np.arange(count, dtype=np.int32),
        "mask": np.ones(count, bool),
    }


def _experiment(name: str, argument: str | None = None) -> ml_collections.ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(argument)


def _peer(python: str, name: str, *arguments: str) -> Any:
    """Runs benchmarks/peers/<name>.py; returns the JSON object on its last line."""
    command = [python, f"benchmarks/peers/{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Runs the parts asked for, prints each figure as it comes and writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="dispatch,speedrun,resnet50,profile")
    parser.add_argument("--targets", default="94", help="of speedrun: 94,95,96")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, help="of speedrun; default the recipe's")
    parser.add_argument("--batches", default="256,512,1024", help="of resnet50")
    parser.add_argument("--side", type=int, default=224, help="of resnet50, pixels")
    parser.add_argument("--peer_python", default="", help="an interpreter with PyTorch")
    parser.add_argument("--json", default="", help="where to write the figures")
    args = parser.parse_args(argv)
    parts: dict[str, Callable[[], Any]] = {
        "dispatch": dispatch,
        "speedrun": lambda: {t: speedrun(t, args.seeds, args.epochs) for t in _list(args.targets)},
        "resnet50": lambda: _sweep(args),
        "profile": lambda: profiled(int(_list(args.batches)[0])),
    }
    results: dict[str, Any] = {}
    for name in _list(args.parts):
        results[name] = parts[name]()
        print(name, json.dumps(results[name]), flush=True)
        if args.json:
            machine.write(args.json, results)


def _sweep(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for batch in map(int, _list(args.batches)):
        rates = {
            "images_per_second": resnet50(batch, args.side),
            "images_per_second_from_host": resnet50(batch, args.side, streamed=True),
        }
        rates["tflops_per_second"] = rates["images_per_second"] * RESNET50_TRAIN_FLOPS / 1e12
        peers = {"flax": _peer(sys.executable, "resnet50_flax", str(batch), str(args.side))}
        if args.peer_python:
            peers["torch"] = _peer(args.peer_python, "resnet50_torch", str(batch), str(args.side))
        found[str(batch)] = rates | {"peers": peers}
        print(f"resnet50 batch {batch}: {json.dumps(found[str(batch)])}", flush=True)
    return found


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    main()
