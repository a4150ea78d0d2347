"""Training: from a config and a folder to a trained state, resumable at any step.

`train_and_evaluate` settles the run, opens the data and builds the task; `_train` restores and
loops. The loop's order is a contract: evaluate -> save -> take batch -> step -> log. A checkpoint
therefore comes after everything its step has written, and a resumed run writes nothing twice.
"""

import dataclasses
import json
import logging
import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from imgclass import build, checkpoint, files, metrics, models, parallel, run, runlog, signals
from imgclass import config as config_lib
from imgclass.data import dataset as dataset_lib
from imgclass.errors import UsageError, UserError
from imgclass.evaluate import score
from imgclass.plan import Plan, make_plan
from imgclass.state import TrainState, eval_variables
from imgclass.trainer import Trainer

logger = logging.getLogger(__name__)
AGREE_EVERY = 50  # steps at most between questions to the other processes whether to stop


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
    config_lib.check(config, models=models.names())
    folder = pathlib.Path(workdir)
    lead = jax.process_index() == 0
    with run.locked(folder, lead), runlog.to_file(folder, lead), signals.catch_stop() as stop:
        try:
            return _settle_and_train(folder, lead, config, allow_change, stop)
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: {error.strerror or error}. What was saved is kept; "
                "the same command goes on from there"
            ) from error


def _settle_and_train(
    folder: pathlib.Path,
    lead: bool,
    config: ml_collections.ConfigDict,
    allow_change: bool,
    stop: signals.StopRequest,
) -> TrainState:
    parallel.check_same("config", config_lib.to_json(config))
    with parallel.together():
        changes = run.check_config(folder, config, allow_change)
        mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
        data = dataset_lib.open_dataset(config, run.load_json(folder / "data.json"))
        if stop:
            raise stop.too_early()
        plan = make_plan(config, len(data.splits["train"]))
        names = data.source.class_names
        _check_metric(config.eval.best_metric, len(names))
        task = build.make(config, names, data.prepare, mesh, plan.total, plan.warmup)
        saved = checkpoint.Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        done = saved.steps()
        if done and done[-1] > plan.total:
            raise UsageError(
                f"{folder} is at step {done[-1]}, past the {plan.total} steps it should have in "
                "all: raise train.total_*, or use a new --workdir"
            )
        if stop:
            raise stop.too_early()
        described = dataset_lib.describe(data)
    parallel.check_same("data", json.dumps(described))
    with parallel.together():
        if lead:  # only now: a start that failed above leaves nothing to contradict the next
            files.write_atomically(folder / "config.json", config_lib.to_json(config))
            run.write_json(folder / "data.json", described)
            run.record_start(folder)
            for change in changes:
                logger.warning("config changed: %s", change)
    with saved:
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
    began = time.perf_counter()
    restored = saved.restore(task.abstract)
    state = restored[0] if restored else task.initial_state()
    at = Progress.from_record(restored[1]) if restored else Progress()
    resumed_step, began = at.step, began - at.seconds  # as if it had never stopped
    result = parallel.on_lead(lambda: run.load_json(folder / "result.json"))
    if result and at.step == plan.total == result["steps"]:
        if lead:
            logger.info(
                "%s", "\n".join(["Already finished.", *runlog.result_lines(folder, result)])
            )
        return state

    eval_step = task.jitted_eval_step()
    validation = build.eval_feed(task, data, "validation")
    with parallel.together():
        log = runlog.RunLog(folder, config, plan, lead, resumed_step)
    with log, Trainer(task, data) as trainer:
        log.begin(task, data, models.count_parameters(state.params))
        before = -1
        while True:
            last = at.step == plan.total
            stopping = _agreed(stop, plan, before, at.step)
            if at.step > resumed_step:  # the checkpoint gone on from has had its turn
                validate = validation if last or plan.evaluate.due(at.step) else None
                save = last or stopping or plan.save.due(at.step)
                if validate or save:
                    trainer.settle()
                with log.paused():
                    if validate:
                        scores = score.score(
                            eval_step, eval_variables(state), validate, len(task.class_names)
                        )
                        with parallel.together():
                            log.write(at.step, "validation", scores)
                        save |= _note_validation(at, scores, config.eval.best_metric)
                    if save:
                        at.seconds = time.perf_counter() - began
                        best = int(at.best["step"]) if at.best else None
                        saved.save(at.step, state, at.record(), best)
            if last:
                break
            if stopping:
                if not at.step:
                    raise stop.too_early()
                saved.wait()
                raise signals.Preempted(
                    f"{stop.by}: stopped after step {at.step} of {plan.total}, "
                    f"saved in {folder}; the same command with --workdir={folder} goes on"
                )
            count = plan.steps_until_due(at.step, trainer.most)
            state, sums = trainer.advance(state, at.step, count)
            before = at.step
            at.step += count
            at.window.add(sums)
            log.tick(at.step)
            if plan.log.due(at.step) or at.step == plan.total:
                trainer.settle()
                with parallel.together():
                    log.train(at.step, at.window.means(), trainer.wait_seconds)
                at.window.reset()
        saved.wait()
        test = None
        if config.eval.final_test:
            test = _final_test(task, data, saved, at, state, eval_step)
        if test:
            log.write(int(test["step"]), "test", test)
        at.seconds = time.perf_counter() - began
        log.finish(_result(plan, at, models.count_parameters(state.params), test))
    return state


def _agreed(stop: signals.StopRequest, plan: Plan, before: int, step: int) -> bool:
    """Returns whether to stop at `step`; processes agree at log steps, and every `AGREE_EVERY`."""
    if jax.process_count() == 1:
        return bool(stop)
    due = plan.log.due(step) or step // AGREE_EVERY > before // AGREE_EVERY
    return due and parallel.any_process(bool(stop))


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
