"""What helps on imbalanced data: five ways of training the same small net, over seeds.

    python -m benchmarks.imbalance --data=cifar10 --seeds=5 --json=longtail.json
    python -m benchmarks.imbalance --data=chest_xray --folder=PATH --json=chest.json

The experiments are configs/longtail_cifar10.py and configs/chest_xray.py, changed only as `METHODS`
says; each run is scored once on the test split, after its last step. Prints a line a run and then a
table: mean and standard deviation over seeds, of which the balanced accuracy (the mean of the
classes' own accuracies) is what the methods are for, and the 95% interval of what each method gains
of it over plain, seed by seed. The pictures are on the device throughout.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from imgclass import process

process.tune()

import jax  # noqa: E402
import ml_collections  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import machine  # noqa: E402
from imgclass import build, feeds, parallel, plan  # noqa: E402
from imgclass import config as config_lib  # noqa: E402
from imgclass.compare.statistics import paired_t  # noqa: E402
from imgclass.data import dataset, feed, sampling  # noqa: E402
from imgclass.evaluate import score  # noqa: E402
from imgclass.state import eval_variables  # noqa: E402

METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": {"loss.class_weights": "inverse"},
    "focal": {"loss.name": "focal", "loss.focal_gamma": 2.0},
    "balanced": {"data.sampling": "balanced"},
    "logit-adjusted": {"loss.logit_adjust": 1.0},
}
DATA = ("cifar10", "chest_xray")
COLUMNS = ("balanced_accuracy", "accuracy", "auroc")  # auroc where there are two classes


def experiment(data: str, folder: str, changes: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns the resolved and checked config of one data set, with `changes` by 'section.key'."""
    if data == "cifar10":
        config = importlib.import_module("configs.longtail_cifar10").get_config()
        config.data.name = folder or config.data.name
    else:
        config = importlib.import_module("configs.chest_xray").get_config(folder)
    config.data.feed = "resident"
    for path, value in changes.items():
        section, _, name = path.partition(".")
        config[section][name] = value
    config = config_lib.resolve(config, changes)
    config_lib.check(config)
    return config


class Bench:
    """One data set: opened, decoded and put on the device once, for every method and seed."""

    def __init__(self, data: str, folder: str, changes: dict[str, Any]):
        """Args are those of `experiment`; `changes` holds for every method."""
        self._data, self._folder, self._changes = data, folder, changes
        config = experiment(data, folder, changes)
        self.opened = dataset.open_dataset(config)
        self._mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
        task = self._task(config)
        resident = feeds.train_feed(task, self.opened)
        held = feeds.eval_feed(task, self.opened, "test")
        assert isinstance(resident, feed.ResidentFeed)
        assert held is not None
        self._examples, self._test = resident.load(), list(held)

    def _task(self, config: ml_collections.ConfigDict) -> build.Task:
        whole = plan.make_plan(config, len(self.opened.splits["train"]))
        return build.from_data(config, self.opened, self._mesh, whole.total, whole.warmup)

    def _make_advance(self, task: build.Task) -> tuple[int, Callable[..., tuple[Any, Any]]]:
        """Returns n, and (state, indices i32[n, B], how many of them) -> (state, metrics)."""
        if jax.default_backend() == "cpu":  # where loops over convolutions are slow
            rows = parallel.rows_sharding(self._mesh)
            step, take = task.jitted_train_step(), jax.jit(parallel.take_rows, out_shardings=rows)
            return 1, lambda state, indices, _: step(state, take(self._examples, indices[0]))
        steps = task.jitted_train_steps(64)
        return 64, lambda state, indices, count: steps(
            state, self._examples, indices, np.int32(count)
        )

    def make_run(self, method: str) -> Callable[[int], dict[str, float]]:
        """Returns seed -> the test split's metrics. The first call compiles."""
        config = experiment(self._data, self._folder, self._changes | METHODS[method])
        task, train = self._task(config), self.opened.splits["train"]
        most, advance = self._make_advance(task)
        evaluate = task.jitted_eval_step()

        def run(seed: int) -> dict[str, float]:
            began = time.perf_counter()
            order = sampling.make_order(
                seed, train.labels, config.train.batch_size, config.data.sampling
            )
            state = task.initial_state(None, seed)
            for first in range(0, task.total_steps, most):
                count = min(most, task.total_steps - first)
                rows = [order(first + min(i, count - 1)) for i in range(most)]
                state, metrics = advance(state, np.stack(rows).astype(np.int32), count)
                if not np.atleast_1d(metrics["finite"])[:count].all():
                    raise FloatingPointError(f"{method}, seed {seed}: a loss is not finite")
            names = self.opened.source.class_names
            found = score.score(evaluate, eval_variables(state), self._test, len(names))
            return found | {"seconds": time.perf_counter() - began}

        return run


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table of mean and standard deviation in percent, a row a method."""
    columns = [c for c in COLUMNS if c in next(iter(results.values()))]
    lines = [
        "| method | " + " | ".join(c.replace("_", " ") for c in columns) + " | gain |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    plain = results.get("plain", {}).get("seeds")
    for method, found in results.items():
        cells = [
            f"{100 * found[c]['mean']:.2f}"
            + (f" ± {100 * found[c]['sd']:.2f}" if "sd" in found[c] else "")
            for c in columns
        ]
        if plain and method != "plain":
            gain = paired_t(100 * np.array(found["seeds"]), 100 * np.array(plain), "seeds")
            cells.append(f"{gain.low:.1f} to {gain.high:.1f}")
        else:
            cells.append("")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Trains every method with every seed, one after the other, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, required=True)
    parser.add_argument("--folder", default="", help="chest_xray's; cifar10 in another form")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument(
        "--epochs", type=float, help="of a run, 5%% of it warm-up; default the experiment's"
    )
    parser.add_argument("--json", default="", help="where to write the figures")
    args = parser.parse_args(argv)
    if args.data == "chest_xray" and not args.folder:
        parser.error("--data=chest_xray needs --folder=PATH")
    methods = args.methods.split(",")
    if unknown := set(methods) - METHODS.keys():
        parser.error(f"--methods: {', '.join(sorted(unknown))}: use some of {', '.join(METHODS)}")

    changes = {"train.total_epochs": args.epochs, "optim.warmup_percent": 5.0}
    bench = Bench(args.data, args.folder, changes if args.epochs else {})
    results: dict[str, dict[str, Any]] = {}
    for method in methods:
        run = bench.make_run(method)
        found = []
        for seed in range(args.seeds):
            found.append(run(seed))
            shown = {c: round(100 * found[-1][c], 2) for c in COLUMNS if c in found[-1]}
            print(args.data, method, f"seed {seed}", shown, flush=True)
        results[method] = {name: machine.spread([f[name] for f in found]) for name in found[0]}
        results[method]["seeds"] = [f["balanced_accuracy"] for f in found]
        if args.json:
            machine.write(args.json, {"data": args.data, "methods": results})
    print(table(results))
    minutes = sum(r["seconds"]["mean"] * r["seconds"]["count"] for r in results.values()) / 60
    middle = statistics.median(r["seconds"]["median"] for r in results.values())
    print(f"{minutes:.1f} minutes of training, {middle:.1f} s a run")


if __name__ == "__main__":
    main()
