"""Training: from a config and a folder to a trained state, resumable at any step.

`train_and_evaluate` settles the run, opens the data and builds the task; `_train` restores and
loops. The loop's order is a contract: evaluate -> save -> take batch -> step -> log. A checkpoint
therefore comes after everything its step has written, and a resumed run writes nothing twice. An
evaluation that a signal cuts short is done anew by the run that goes on.
"""

import contextlib
import json
import logging
import pathlib
import re
import time

import jax
import ml_collections
import numpy as np

from imgclass import (
    build,
    checkpoint,
    feeds,
    looks,
    models,
    parallel,
    peers,
    pretrained,
    run,
    runlog,
    scoring,
    signals,
    tracking,
    watchdog,
)
from imgclass import config as config_lib
from imgclass.data import dataset as dataset_lib
from imgclass.data import load
from imgclass.errors import UsageError, UserError
from imgclass.evaluate import restore
from imgclass.plan import Plan, make_plan
from imgclass.progress import Progress
from imgclass.state import TrainState, eval_variables
from imgclass.trainer import Trainer

logger = logging.getLogger(__name__)
# Keys that say how weights came about; a finished run's record keeps them as they were.
_OF_TRAINING = re.compile(r"(loss|augment|optim)\.")
AGREE_EVERY = 50  # steps, at most, between questions to the other processes whether to stop


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
    config_lib.check(config, models=models.used_keys())
    tracking.check(config.log)
    folder = pathlib.Path(workdir)
    lead = jax.process_index() == 0
    with (
        run.locked(folder, lead),
        runlog.to_file(folder, lead),
        peers.watched() as tell,
        signals.catch_stop(config.train.stop_seconds, tell) as stop,
        watchdog.Watchdog(config.train.stall_seconds, tell) as watch,
    ):
        try:
            return _settle_and_train(folder, lead, config, allow_change, stop, watch)
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
    watch: watchdog.Watchdog,
) -> TrainState:
    parallel.check_same("config", config_lib.to_json(config))
    teacher = restore.load_teacher(config.loss.teacher)
    with parallel.together():
        changes = run.check_config(folder, config, allow_change)
        mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
        data = dataset_lib.open_dataset(config, run.load_data(folder))
        if stop:
            raise stop.too_early()
        plan = make_plan(config, len(data.splits["train"]))
        saved = checkpoint.Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        done = saved.steps()
        if done and not (folder / "config.json").exists():
            raise UserError(
                f"{folder} has checkpoints and no config.json to say what they are of: put it "
                "back, or use a new --workdir"
            )
        if lead:
            _warn_of_averages(config.optim, plan.total)
        names = data.source.class_names
        _check_metric(config.eval.best_metric, len(names))
        task = build.from_data(config, data, mesh, plan.total, plan.warmup, teacher)
        if done and done[-1] > plan.total:
            raise UsageError(
                f"{folder} is at step {done[-1]}, past the {plan.total} steps it should have in "
                "all: raise train.total_*, or use a new --workdir"
            )
        late = [change for change in changes if _OF_TRAINING.match(change)]
        if late and done and done[-1] == plan.total:
            lines = [f"{folder} is at its last step, {plan.total}, and none would be trained with"]
            ends = "Raise train.total_*, or use a new --workdir"
            raise UsageError("\n".join([*lines, *[f"  {change}" for change in late], ends]))
        if stop:
            raise stop.too_early()
        described = dataset_lib.describe(data)
        # Who goes on has them in the checkpoint, and may have lost the file.
        first = None if done else pretrained.load(config, task.model, names, data.prepare)
    parallel.check_same("data", json.dumps(described))
    parallel.check_same("model.pretrained", json.dumps(first.record if first else None))
    with parallel.together():
        if lead:  # only now: a start that failed above leaves nothing to contradict the next
            run.store(folder, config, described)
            about = {"pretrained": first.record if first else None, "config_changed": changes}
            run.record_start(folder, {what: said for what, said in about.items() if said})
            for change in changes:
                logger.warning("config changed: %s", change)
    with saved:
        return _train(folder, lead, task, data, plan, saved, stop, watch, first)


def _check_metric(metric: str, classes: int) -> None:
    needs = {"auroc": classes == 2, "top5": classes > 5}
    if not needs.get(metric, True):
        raise UsageError(f"eval.best_metric={metric!r} is not defined for {classes} classes")


def _warn_of_averages(cfg: ml_collections.ConfigDict, total: int) -> None:
    """Warns of an average that no update reaches, as when a long recipe is tried for few steps."""
    keys = ["lookahead_steps"]
    if cfg.ema_decay > 0 or cfg.swa_start < 1:
        keys.append("average_every")
    late = [f"optim.{key}={cfg[key]}" for key in keys if cfg[key] > total]
    if late:
        logger.warning(
            "%s: a run of %d steps ends with the weights it began with, and evaluates those",
            *(", ".join(late), total),
        )


def _train(
    folder: pathlib.Path,
    lead: bool,
    task: build.Task,
    data: dataset_lib.Dataset,
    plan: Plan,
    saved: checkpoint.Checkpoints,
    stop: signals.StopRequest,
    watch: watchdog.Watchdog,
    first: pretrained.Pretrained | None,
) -> TrainState:
    config = task.config
    began = time.perf_counter()
    watch.mark("restoring")
    restored = saved.restore(task.abstract)
    at = Progress.from_record(restored[1]) if restored else Progress()
    resumed_step, began = at.step, began - at.seconds  # as if it had never stopped
    result = parallel.on_lead(lambda: run.load_json(folder / "result.json"))
    scorer = scoring.Scorer(task, data, watch, stop)
    if restored and result and at.step == plan.total == result["steps"]:
        state = restored[0]
        if lead:
            logger.info(
                "%s", "\n".join(["Already finished.", *runlog.result_lines(folder, result)])
            )
        if config.log.report and not (folder / "report.html").exists():
            scorer.report(folder, *scoring.best(task, saved, at, state))
        return state

    if config.data.cache:
        watch.rest()  # filling it may take longer than a stall
        for turn in (lead, True):  # process 0 alone fills it: if it fails, all know at once
            with parallel.together():
                if turn:
                    feeds.training_pictures(task, data)
    with contextlib.ExitStack() as stack:
        watch.mark("opening the training data")
        trainer = stack.enter_context(Trainer(task, data, stop))
        watch.mark("making the first state")
        if restored:
            state = restored[0]
        else:
            arrays = first.arrays if first else None
            state = task.initial_state(sample(task, data), pretrained=arrays)
        with parallel.together():
            log = runlog.RunLog(folder, config, plan, lead, resumed_step, at.pending)
        stack.enter_context(log)
        log.begin(task, data, models.count_parameters(state.params))
        with contextlib.suppress(signals.Interrupted):  # what was asked for is seen to below
            trainer.load(lambda: watch.mark("loading the training data"))
        before = -1
        seen = saved_step = resumed_step  # the checkpoint gone on from has had its turn
        while True:
            last = at.step == plan.total
            stopping = _agreed(stop, plan, before, at.step)
            turn = at.step > seen or at.pending
            seen = at.step
            validate = scorer.validates and turn and (last or plan.evaluate.due(at.step))
            save = turn and (last or plan.save.due(at.step))
            if validate or save or stopping:
                watch.mark(f"step {at.step}, its computation")
                trainer.settle()
            with log.paused():
                if validate:
                    try:
                        scores = scorer.validation(at.step, eval_variables(state))
                    except signals.Interrupted:
                        at.pending = stopping = True
                    else:
                        at.pending = False
                        with parallel.together():
                            log.write(at.step, "validation", scores)
                        log.weights(at.step, state.params)
                        save |= at.note_validation(scores, config.eval.best_metric)
                watch.mark(f"saving step {at.step}")
                at.seconds = time.perf_counter() - began
                if (save or stopping) and at.step > saved_step:
                    best = int(at.best["step"]) if at.best else None
                    saved.save(at.step, state, at.record(), best)
                    saved_step = at.step
                    if config.checkpoint.wait:
                        saved.wait()
                elif validate and at.step == saved_step and not at.pending:
                    # Gone on from a checkpoint to whose step the validation was still missing.
                    saved.amend(at.step, at.record())
            if stopping:
                if not at.step:
                    raise stop.too_early()
                saved.wait()
                raise stop.settle(_preempted(stop, folder, at.step, plan))
            if last:
                break
            count = plan.steps_until_due(at.step, trainer.most)
            watch.mark(f"step {at.step + 1}" + ", or compiling" * (at.step == resumed_step))
            try:
                state, sums = trainer.advance(state, at.step, count)
            except signals.Interrupted:
                continue  # nothing was dispatched
            stop.unsaved()
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
        stop.settle(_preempted(stop, folder, at.step, plan))
        test, wanted = None, config.eval.final_test or config.log.report
        weights = scoring.best(task, saved, at, state) if wanted else None
        if weights and config.eval.final_test:
            try:
                test = scorer.test(*weights)
            except signals.Interrupted:
                raise _preempted(stop, folder, at.step, plan) from None
        if test:
            with parallel.together():
                if lead:
                    looks.record(folder, "train", int(test["step"]))
            log.write(int(test["step"]), "test", test)
        at.seconds = time.perf_counter() - began
        log.finish(at.result(plan, models.count_parameters(state.params), test))
    if weights and config.log.report:
        scorer.report(folder, *weights)
    return state


def _preempted(
    stop: signals.StopRequest, folder: pathlib.Path, step: int, plan: Plan
) -> signals.Preempted:
    return signals.Preempted(
        f"{stop.by}: stopped after step {step} of {plan.total}, saved in {folder}; the same "
        f"command with --workdir={folder} goes on"
    )


def sample(task: build.Task, data: dataset_lib.Dataset) -> np.ndarray | None:
    """Returns the pictures that the model is fitted to before training, None if it wants none.

    They are the first of the training split, uint8[n, H, W, C], at the size the model sees.
    """
    if not task.model.sample:
        return None
    split = data.splits["train"]
    first = range(min(task.model.sample, len(split)))
    return load.examples(split, first, task.prepare, task.prepare.image_size)


def _agreed(stop: signals.StopRequest, plan: Plan, before: int, step: int) -> bool:
    """Returns whether to stop at `step`; processes agree at log steps, and every `AGREE_EVERY`."""
    if jax.process_count() == 1:
        return bool(stop)
    due = plan.log.due(step) or step // AGREE_EVERY > before // AGREE_EVERY
    return due and parallel.any_process(bool(stop))
