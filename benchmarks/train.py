"""Images a second of training on a CPU: the whole loop, beside Keras and PyTorch.

    python -m benchmarks.train --tf_python=KERAS/bin/python --torch_python=TORCH/bin/python
    python -m benchmarks.train --cases=cnn --rounds=8 --json=train.json

Ours is `imgclass.train.train_and_evaluate` on an archive of random pictures: its feed, its step,
its log; the rate is what the run itself wrote to metrics.jsonl. Keras is timed in `fit` and as a
bare `tf.function` step on one batch that stays, PyTorch eager and channels-last in the usual loop.
All run in turns, each in a process of its own, with the same allocator's settings.
"""

import argparse
import dataclasses
import importlib
import json
import pathlib
import sys
import tempfile
from typing import Any

import ml_collections
import numpy as np

from benchmarks import machine, rounds
from imgclass import build, parallel, process, train
from imgclass import config as config_lib
from imgclass.data.preprocess import Preprocess
from imgclass.models import count


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained: an experiment's argument, its pictures, and for how long.

    Attributes:
      experiment: the file in configs/ and its argument.
      side: of the square pictures, pixels.
      batch: pictures a step.
      window: steps between two rates.
      windows: how many rates; the first is not counted.
      untaken: gradients that are not taken, in multiply-adds a picture: by the picture of the first
        convolution, and of airbench's by its kernel.
      keras: whether the Keras peer has this model; PyTorch has all.
    """

    experiment: tuple[str, str]
    side: int
    batch: int
    window: int
    windows: int
    untaken: int
    keras: bool = False


CASES = {
    "cnn": Case(("cnn", "digits"), 64, 32, 200, 6, 62 * 62 * 27 * 32, keras=True),
    "resnet18": Case(("cifar10_resnet18", ""), 32, 32, 8, 4, 32 * 32 * 27 * 64),
    "resnet18_128": Case(("cifar10_resnet18", ""), 32, 128, 3, 4, 32 * 32 * 27 * 64),
    "airbench94": Case(("cifar10_speedrun", "94"), 32, 2000, 1, 4, 2 * 31 * 31 * 12 * 24),
}


def configure(case: Case, archive: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the experiment's config, on an archive and without evaluation, saves and report."""
    name, argument = case.experiment
    config = importlib.import_module(f"configs.{name}").get_config(argument or None)
    config.data.name = str(archive)
    config.data.validation_split = config.data.test_split = ""
    config.data.image_size = (case.side, case.side)
    config.train.batch_size = case.batch
    config.train.total_epochs = None
    config.train.total_steps = case.window * case.windows
    config.log.every_epochs = None
    config.log.every_steps = case.window
    config.checkpoint.every_epochs = 0.0
    config.eval.final_test = False
    config.log.report = False
    return config


def ours(case: Case) -> dict[str, float]:
    """Trains, and returns the median of the rates that the run logged, the first left out."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        archive = pathlib.Path(folder) / "pictures.npz"
        random = np.random.default_rng(0)
        n = max(2048, 3 * case.batch)
        pictures = random.integers(0, 256, (n, case.side, case.side, 3), dtype=np.uint8)
        np.savez(archive, x_train=pictures, y_train=random.integers(0, 10, n).astype(np.int32))
        train.train_and_evaluate(configure(case, archive), pathlib.Path(folder) / "run")
        lines = (pathlib.Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    found = [r["images_per_second"] for r in records if r["split"] == "train"][1:]
    return {"images_per_second": machine.spread(found)["median"]}


def gigaflops(case: Case) -> float:
    """Returns 1e9 operations of a training step on one picture, two a multiply-add.

    Every multiply-add is done once forward and twice backward, but for `untaken`.
    """
    config = config_lib.resolve(configure(case, pathlib.Path("unused.npz")))
    names = tuple(map(str, range(10)))
    prepare = Preprocess(image_size=(case.side, case.side))
    task = build.make(config, names, prepare, parallel.make_mesh(1, case.batch), 1000, 0)
    return (6 * count.multiply_adds(task.model) - 2 * case.untaken) / 1e9


def programs(name: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the commands of a case by name."""
    case = CASES[name]
    found = {"imgclass": [sys.executable, "-m", "benchmarks.train", f"--one={name}"]}
    sizes = [str(case.batch), str(case.window), str(case.windows)]
    if args.torch_python:
        program = "benchmarks/peers/train_torch.py"
        found["torch"] = [args.torch_python, program, name.partition("_")[0], *sizes]
    if args.tf_python and case.keras:
        program = "benchmarks/peers/train_keras.py"
        for form in ("fit", "function"):
            found[f"keras_{form}"] = [args.tf_python, program, form, *sizes]
    return found


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Runs a case's programs in turns; returns rates, and their share of the matmul's peak."""
    peak = machine.matmul_gigaflops()
    cost = gigaflops(CASES[name])
    found = rounds.run(programs(name, args), args.rounds)
    table: dict[str, Any] = {"matmul_gigaflops": peak, "gigaflops_per_image": cost}
    mine = [one["images_per_second"] for one in found["imgclass"]]
    for program, results in found.items():
        rates = [one["images_per_second"] for one in results]
        middle = machine.spread(rates)
        table[program] = {
            "images_per_second": middle,
            "gigaflops": middle["median"] * cost,
            "share_of_peak": middle["median"] * cost / peak,
            # Of each round, so that a machine that slows down changes neither.
            "ours_over_it": machine.spread([a / b for a, b in zip(mine, rates, strict=True)]),
        }
    return table


def main(argv: list[str] | None = None) -> None:
    """Runs the cases asked for, prints each as it comes and writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tf_python", default="", help="an interpreter with Keras and TensorFlow")
    parser.add_argument("--torch_python", default="", help="an interpreter with PyTorch")
    parser.add_argument("--json", default="", help="where to write the figures")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(ours(CASES[args.one])))
        return
    results: dict[str, Any] = {}
    for name in args.cases.split(","):
        results[name] = compare(name, args)
        print(name, json.dumps(results[name]), flush=True)
        if args.json:
            machine.write(args.json, results)


if __name__ == "__main__":
    process.tune()
    main()
