"""Training: from a config and a folder to a trained state, resumable at any step.

`train_and_evaluate` settles the run, opens the data and builds the task; `_train` restores and
loops. The loop's order is a contract: evaluate -> save -> take batch -> step -> log. A checkpoint
therefore comes after everything its step has written, and a resumed run writes nothing twice.
"""

import collections
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from imgclass import build, checkpoint, metrics, parallel, run, runlog, signals
from imgclass import config as config_lib
from imgclass.data import dataset as dataset_lib
from imgclass.data import feed as feed_lib
from imgclass.data import order
from imgclass.errors import UsageError, UserError
from imgclass.evaluate import score
from imgclass.models import count_parameters
from imgclass.plan import Plan, make_plan
from imgclass.state import TrainState, eval_variables

logger = logging.getLogger(__name__)
IN_FLIGHT = 2  # dispatches the host may be ahead by: enough to hide its own work
STEPS_PER_DISPATCH = 16  # on accelerators


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path, *, allow_change: bool = False
) -> TrainState:
    """Trains to the config's total, going on from where `workdir` stopped.

    Args:
      config: from an experiment file.
      workdir: the run folder; made if need be.
      allow_change: accept a config that differs from the one the folder was started with, in the
        keys that may change.

    Returns:
      The final state.

    Raises:
      UsageError: this config cannot be run, or not with this data or on these devices.
      UserError: a file, a disk or a loss that is not finite ended the run.
      signals.Preempted: a signal did, after saving.
    """
    config = config_lib.resolve(config)
    config_lib.check(config)
    folder = pathlib.Path(workdir)
    lead = jax.process_index() == 0
    with run.locked(folder, lead), signals.catch_stop() as stop:
        run.check_config(folder, config, allow_change)
        mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
        data = dataset_lib.open_dataset(config, run.load_json(folder / "data.json"))
        plan = make_plan(config, len(data.splits["train"]))
        names = data.source.class_names
        _check_metric(config.eval.best_metric, len(names))
        task = build.make(config, names, data.prepare, mesh, plan.total, plan.warmup)
        done = checkpoint.Checkpoints(folder / "checkpoints").steps()
        if done and done[-1] > plan.total:
            raise UsageError(
                f"{folder} is at step {done[-1]}, past the {plan.total} steps it should have in "
                "all: raise train.total_*, or use a new --workdir"
            )
        if lead:  # only now: a start that failed above leaves nothing to contradict the next
            checkpoint.write_atomically(folder / "config.json", config_lib.to_json(config))
            run.write_json(folder / "data.json", dataset_lib.describe(data))
            run.record_start(folder)
        with checkpoint.Checkpoints(folder / "checkpoints", config.checkpoint.keep) as saved:
            return _train(folder, lead, task, data, plan, saved, stop)


def _check_metric(metric: str, classes: int) -> None:
    needs = {"auroc": classes == 2, "top5": classes > 5}
    if not needs.get(metric, True):
        raise UsageError(f"eval.best_metric={metric!r} is not defined for {classes} classes")


@dataclasses.dataclass
class Progress:
    """What the host knows of the run so far; saved beside every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    window: metrics.Window = dataclasses.field(default_factory=metrics.Window)
    validation: dict[str, float] | None = None
    best: dict[str, float] | None = None

    def record(self) -> dict[str, Any]:
        """Returns plain data that `from_record` reads back exactly."""
        return vars(self) | {"window": self.window.to_json()}

    @staticmethod
    def from_record(stored: dict[str, Any]) -> "Progress":
        """Returns the progress a checkpoint was saved with."""
        return Progress(**stored | {"window": metrics.Window.from_json(stored["window"])})


def _train(
    folder: pathlib.Path,
    lead: bool,
    task: build.Task,
    data: dataset_lib.Dataset,
    plan: Plan,
    saved: checkpoint.Checkpoints,
    stop: signals.StopRequest,
) -> TrainState:
    config = task.config
    restored = saved.restore(task.abstract)
    state = restored[0] if restored else task.initial_state()
    at = Progress.from_record(restored[1]) if restored else Progress()
    resumed_step = at.step
    if restored and at.step == plan.total and (result := run.load_json(folder / "result.json")):
        if lead:
            logger.info(
                "%s", "\n".join(["Already finished.", *runlog.result_lines(folder, result)])
            )
        return state

    eval_step = task.jitted_eval_step()
    validation = build.eval_feed(task, data, "validation")
    with (
        runlog.RunLog(folder, config, plan, lead, resumed_step) as log,
        Trainer(task, data, plan) as trainer,
    ):
        log.begin(task, data, count_parameters(state.params))
        while True:
            last = at.step == plan.total
            stopping = _agreed(stop, plan, at.step)
            if at.step > resumed_step:  # the checkpoint gone on from has had its turn
                improved = False
                with log.paused():
                    if validation and (last or plan.evaluate.due(at.step)):
                        trainer.settle()
                        scores = score.score(
                            eval_step, eval_variables(state), validation, len(task.class_names)
                        )
                        log.write(at.step, "validation", scores)
                        improved = _note_validation(at, scores, config.eval.best_metric)
                    if last or improved or stopping or plan.save.due(at.step):
                        trainer.settle()
                        best = int(at.best["step"]) if at.best else None
                        saved.save(at.step, state, at.record(), best)
            if last:
                break
            if stopping:
                saved.wait()
                raise signals.Preempted(
                    f"{stop.name or 'a signal'}: stopped after step {at.step} of {plan.total}, "
                    f"saved in {folder}; the same command with --workdir={folder} goes on"
                )
            began = time.perf_counter()
            count = plan.steps_until_due(at.step, trainer.most)
            state, sums = trainer.advance(state, at.step, count)
            at.step += count
            at.window.add(sums)
            log.tick(at.step)
            if plan.log.due(at.step) or at.step == plan.total:
                trainer.settle()
                log.train(at.step, at.window.means(), trainer.wait_seconds)
                at.window.reset()
            at.seconds += time.perf_counter() - began
        saved.wait()
        test = None
        if config.eval.final_test:
            test = _final_test(task, data, saved, at, state, eval_step)
        if test:
            log.write(int(test["step"]), "test", test)
        log.finish(_result(plan, at, count_parameters(state.params), test))
    return state


class Trainer:
    """Dispatches steps, keeps the host a little ahead of the device, and watches for NaN."""

    def __init__(self, task: build.Task, data: dataset_lib.Dataset, plan: Plan):
        """Loads a resident set, or starts the decoding threads. Use as a context manager."""
        self._task, self._data, self._plan = task, data, plan
        self._feed = build.train_feed(task, data)
        self._flight: collections.deque[tuple[int, int, jax.Array]] = collections.deque()
        self.most = 1
        self._step: Callable
        if isinstance(self._feed, feed_lib.ResidentFeed):
            accelerated = task.mesh.devices.flat[0].platform != "cpu"
            default = STEPS_PER_DISPATCH if accelerated else 1
            self.most = task.config.train.steps_per_dispatch or default
        if self.most > 1:
            self._step = task.jitted_train_steps(self.most)
        else:
            self._step = task.jitted_train_step()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._feed.close()

    @property
    def wait_seconds(self) -> float:
        """Returns the time spent waiting for data so far."""
        return self._feed.wait_seconds

    def advance(self, state: TrainState, step: int, count: int) -> tuple[TrainState, Any]:
        """Dispatches `count` steps from `step`. Returns the next state and the metrics' sums."""
        if self.most > 1:
            assert isinstance(self._feed, feed_lib.ResidentFeed)
            # Always the same shape, so always the same program; `count` says how many rows count.
            indices = self._feed.indices(step, self.most)
            state, out = self._step(state, self._feed.examples, indices, np.int32(count))
        else:
            state, out = self._step(state, self._feed.batch(step))
        self._flight.append((step, count, out["finite"]))
        while len(self._flight) > IN_FLIGHT:
            self._land()
        return state, out["sums"]

    def settle(self) -> None:
        """Waits for every dispatched step. Raises UserError if one was not finite."""
        while self._flight:
            self._land()

    def _land(self) -> None:
        step, count, finite = self._flight.popleft()
        bad = np.flatnonzero(~np.atleast_1d(np.asarray(finite))[:count])
        if not len(bad):
            return
        config, split = self._task.config, self._data.splits["train"]
        number = step + int(bad[0])
        rows = order.batch_indices(config.seed, len(split), config.train.batch_size, number)
        names = ", ".join(split.example_names(rows[:4].tolist()))
        what = (
            f"step {number}: the loss or its gradient is not finite, on examples "
            f"{rows.tolist()} ({names}, ...)"
        )
        if config.train.on_nonfinite == "skip":
            logger.warning("%s; update skipped", what)
            return
        raise UserError(
            f"{what}. Nothing after the last checkpoint is saved: lower optim.lr, set "
            "optim.clip_norm, look at the pictures, or set train.on_nonfinite='skip'"
        )


def _agreed(stop: signals.StopRequest, plan: Plan, step: int) -> bool:
    """Returns whether to stop here; processes agree where they wait for each other anyway."""
    if jax.process_count() == 1:
        return bool(stop)
    return plan.log.due(step) and parallel.any_process(bool(stop))


def _note_validation(at: Progress, scores: dict[str, float], metric: str) -> bool:
    at.validation = {"step": at.step, **scores}
    old = at.best[metric] if at.best else None
    finite = bool(np.isfinite(scores["loss"]))  # an accuracy is, even of NaN logits
    improved = finite and score.is_better(metric, scores.get(metric, np.nan), old)
    if improved:
        at.best = at.validation
    return improved


def _final_test(
    task: build.Task,
    data: dataset_lib.Dataset,
    saved: checkpoint.Checkpoints,
    at: Progress,
    state: TrainState,
    eval_step: Any,
) -> dict[str, float] | None:
    """Scores the test split once, with the weights that were best on validation."""
    feed = build.eval_feed(task, data, "test")
    if feed is None:
        logger.warning("%s has no test split, so there is no test figure", data.source.name)
        return None
    step = int(at.best["step"]) if at.best else at.step
    if step != at.step:
        restored = saved.restore(task.abstract, step)
        assert restored is not None
        state = restored[0]
    figures = score.score(eval_step, eval_variables(state), feed, len(task.class_names))
    return {"step": step, **figures}


def _result(
    plan: Plan, at: Progress, parameters: int, test: dict[str, float] | None
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "parameters": parameters,
        "steps": at.step,
        "epochs": plan.epoch(at.step),
        "wall_seconds": at.seconds,
        "final": at.validation,
        "best": at.best,
    }
    return result | ({"test": test} if test else {})
