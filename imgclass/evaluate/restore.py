"""Opens a finished or unfinished run for reading: its task, its weights, its class names."""

import dataclasses
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from imgclass import build, parallel, run
from imgclass.checkpoint import Checkpoints
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError, UserError
from imgclass.plan import make_plan
from imgclass.state import eval_variables
from imgclass.teacher import Teacher

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A run's weights, ready to use.

    Attributes:
      folder: the run folder.
      task: as it was trained, on this machine's devices.
      variables: {'params', 'batch_stats'}; the averaged weights if the run kept any.
      step: updates behind these weights.
      data: what the run stored of its data.
    """

    folder: pathlib.Path
    task: build.Task
    variables: dict[str, Any]
    step: int
    data: dict[str, Any]


def restore(folder: pathlib.Path, which: str = "best") -> Restored:
    """Restores a run.

    Args:
      folder: a run folder.
      which: 'best' on validation (the latest if there was no validation), 'latest', or a step.

    Raises:
      UserError: not a run folder, no checkpoint, or a damaged one.
    """
    folder = pathlib.Path(folder)
    config = run.load_config(folder)
    data = run.load_data(folder)
    saved = Checkpoints(folder / "checkpoints")
    steps = saved.steps()
    if data is None or not steps:
        raise UserError(f"{folder}: no finished checkpoint yet")
    mesh = Mesh(np.array(jax.devices()), (parallel.AXIS,))
    plan = make_plan(config, data["splits"]["train"]["examples"])
    task = build.make(
        config,
        tuple(data["class_names"]),
        Preprocess.from_json(data["preprocess"]),
        mesh,
        plan.total,
        plan.warmup,
    )
    found = saved.restore(task.abstract, _step(saved, steps, which, folder))
    assert found is not None
    state, record = found
    return Restored(folder, task, eval_variables(state), record["step"], data)


def load_teacher(folder: str) -> Teacher | None:
    """Returns a run's best weights as a teacher of another run, None where `folder` is ''.

    Raises:
      UserError: as `restore`.
    """
    if not folder:
        return None
    try:
        found = restore(pathlib.Path(folder))
    except UserError as error:
        raise type(error)(f"loss.teacher: {error}") from None
    logger.info("learning from %s, step %d", folder, found.step)
    return Teacher(found.task.model, found.task.prepare, found.variables, found.task.class_names)


def _step(saved: Checkpoints, steps: list[int], which: str, folder: pathlib.Path) -> int | None:
    if which == "latest":
        return None  # the newest that is intact
    if which == "best":
        for newest in reversed(steps):
            try:
                best = saved.record(newest).get("best")
            except UserError as error:
                logger.warning("%s", error)
                continue
            if best and int(best["step"]) not in steps:
                logger.warning("step %d, the best, is gone; taking the latest", best["step"])
                return None
            return int(best["step"]) if best else None
        return None
    if not which.isdecimal() or int(which) not in steps:
        known = ", ".join(map(str, steps))
        raise UsageError(f"{folder}: no checkpoint {which!r}; there are best, latest, {known}")
    return int(which)
