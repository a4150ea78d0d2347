"""Does the search beat random search at an equal budget? Repeats of both, on the digits.

    python -m benchmarks.tuning --json=tuning.json

The search is configs/ablations/digits_search.py as it stands, but in one process and with storage
in memory. The budget is training epochs: random search finishes every trial; TPE with its pruner
begins trials until it has trained as many epochs, and only trials that it finished count. Both
methods of a repeat train with the repeat's number as the seed. Prints the best validation accuracy
of each, and the mean difference with its 95% t interval over repeats.
"""

import argparse
import time
from typing import Any

from imgclass import process

process.tune()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optuna  # noqa: E402

from benchmarks import machine  # noqa: E402
from imgclass import build, feeds, parallel, plan  # noqa: E402
from imgclass.compare import statistics  # noqa: E402
from imgclass.data import dataset, feed, sampling  # noqa: E402
from imgclass.evaluate import score  # noqa: E402
from imgclass.state import eval_variables  # noqa: E402
from imgclass.sweep import Search, declare, runs, study  # noqa: E402

FILE = "configs/ablations/digits_search.py"
METHODS = ("random", "tpe")


class Bench:
    """The data of the search, opened and put on the device once."""

    def __init__(self, declared: Search):
        """Opens the data of the base."""
        self.declared = declared
        config = runs.parse(declared.base, declared.always)
        self._opened = dataset.open_dataset(config)
        self._mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
        task = build.from_data(config, self._opened, self._mesh, 1, 0)
        resident = feeds.train_feed(task, self._opened)
        held = feeds.eval_feed(task, self._opened, "validation")
        assert isinstance(resident, feed.ResidentFeed)
        assert held is not None
        self._examples, self._held = resident.load(), list(held)
        rows = parallel.rows_sharding(self._mesh)
        self._take = jax.jit(parallel.take_rows, out_shardings=rows)

    def train(self, trial: optuna.Trial, seed: int, left: int) -> tuple[float | None, int]:
        """Trains one trial.

        Returns:
          Its best validation accuracy, None if it was pruned, diverged or outran `left`, the
          epochs that may still be trained; and the epochs that it took.
        """
        values = study.suggest(trial, self.declared.space)
        config = runs.parse(self.declared.base, {**self.declared.always, **values})
        train = self._opened.splits["train"]
        whole = plan.make_plan(config, len(train))
        task = build.from_data(config, self._opened, self._mesh, whole.total, whole.warmup)
        order = sampling.make_order(
            seed, train.labels, config.train.batch_size, config.data.sampling
        )
        step, evaluate = task.jitted_train_step(), task.jitted_eval_step()
        classes = len(self._opened.source.class_names)
        state, best, epochs = task.initial_state(None, seed), 0.0, 0
        for at in range(1, whole.total + 1):
            batch = self._take(self._examples, np.asarray(order(at - 1), np.int32))
            state, metrics = step(state, batch)
            if not whole.evaluate.due(at):  # the ends of epochs, the last among them
                continue
            epochs += 1
            if not bool(metrics["finite"]):
                return None, epochs
            found = score.score(evaluate, eval_variables(state), self._held, classes)["accuracy"]
            best = max(best, found)
            trial.report(found, epochs)
            if at < whole.total and (epochs == left or trial.should_prune()):
                return None, epochs
        return best, epochs

    def search(self, method: str, repeat: int, budget: int) -> dict[str, Any]:
        """Spends `budget` epochs by one method; returns the best accuracy and how it came."""
        pruner = self.declared.pruner if method == "tpe" else "none"
        made = optuna.create_study(
            study_name=f"{method}-{repeat}",  # Hyperband makes its brackets of it
            direction="maximize",
            sampler=study.sampler(method, repeat),
            pruner=study.pruner(pruner),
        )
        began = time.perf_counter()
        spent, best, curve, begun = 0, 0.0, [], 0
        while spent < budget:
            trial = made.ask()
            value, epochs = self.train(trial, repeat, budget - spent)
            spent, begun = spent + epochs, begun + 1
            if value is None:
                made.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            made.tell(trial, value)
            best = max(best, value)
            curve.append((spent, value))
        return {
            "best": best,
            "values": made.best_params,
            "begun": begun,
            "finished": len(curve),
            "curve": curve,
            "seconds": time.perf_counter() - began,
        }


def main(argv: list[str] | None = None) -> None:
    """Runs both methods with every repeat and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", default="0,1,2,3,4", help="seeds of the samplers and runs")
    parser.add_argument("--trials", type=int, default=0, help="of random search; default FILE's")
    parser.add_argument("--json", default="", help="where to write the figures")
    args = parser.parse_args(argv)
    declared = declare.load(FILE)
    assert isinstance(declared, Search)
    # A trial compiles a step of its own, but the first state and validation are always the same.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    bench = Bench(declared)
    budget = (args.trials or declared.trials) * int(declared.always["train.total_epochs"])
    repeats = [int(word) for word in args.repeats.split(",")]
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    print("| repeat | method | best validation accuracy | trials | finished | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for repeat in repeats:
        for method in METHODS:
            one = bench.search(method, repeat, budget)
            found[method].append(one)
            cells = f"{one['best']:.4f} | {one['begun']} | {one['finished']} | {one['seconds']:.0f}"
            print(f"| {repeat} | {method} | {cells} |", flush=True)
        if args.json:
            machine.write(args.json, {"budget_epochs": budget, "repeats": repeats, **found})
    best = {method: np.array([one["best"] for one in found[method]]) for method in METHODS}
    means = ", ".join(f"{method} {values.mean():.4f}" for method, values in best.items())
    apart = best["tpe"] - best["random"]
    print(f"{budget} epochs each. Means: {means}; tpe less random {apart.mean():+.4f}", end="")
    if len(repeats) > 1:
        low, high = statistics.mean_interval(apart)
        print(f" (95% interval {low:+.4f} to {high:+.4f})", end="")
    print(f"; tpe ahead in {int((apart > 0).sum())} of {len(repeats)}")


if __name__ == "__main__":
    main()
