"""Reads runs to compare: what each was asked, on which data, its figure, and every picture's.

Figures are those of the best checkpoint, from result.json. What each picture came out as is read
from predictions-<split>.npz, or scored with that checkpoint and stored there. A figure of the test
split that is written down is never scored again. Nothing here compares.
"""

import dataclasses
import logging
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgclass import config as config_lib
from imgclass import looks, run
from imgclass.data import dataset
from imgclass.errors import UsageError, UserError, first_line
from imgclass.evaluate import outcomes, restore
from imgclass.plan import make_plan

logger = logging.getLogger(__name__)

# Metrics that are a mean over pictures, which can be paired by picture.
OF_PICTURES = ("accuracy", "loss")

# Keys that move no figure but by rounding. data.name, because fingerprints tell data apart.
NO_EFFECT = re.compile(
    r"(log|checkpoint)\..*|eval\.(batch_size|final_test)"
    r"|data\.(name|data_dir|feed|resident_mb|threads|workers|prefetch|max_pixels)"
    r"|train\.(devices|fsdp|steps_per_dispatch|stall_seconds|stop_seconds)"
)


class Unfinished(UserError):
    """A run folder whose run has no result yet."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      folder: of the run.
      config: {'section.key': value}, all of it.
      data: its data.json.
      step: updates behind the checkpoint that is compared.
      figures: its metrics on the split; {} if they were never computed; None was not finite.
      diverged: whether its loss is not finite.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    data: dict[str, Any]
    step: int
    figures: dict[str, float | None]
    diverged: bool

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config["seed"])

    @property
    def settings(self) -> dict[str, Any]:
        """What may move a figure, but for the seed."""
        return {
            key: value
            for key, value in self.config.items()
            if key != "seed" and not NO_EFFECT.fullmatch(key)
        }


def read(folder: pathlib.Path, split: str) -> Run:
    """Reads a run and its figures on 'validation' or 'test'.

    Raises:
      Unfinished: it has no result, or one from before it was prolonged.
      UserError: it is no run folder, or a file of it cannot be read.
      UsageError: its data have no such split.
    """
    config = run.load_config(folder)
    data, result = run.load_data(folder), run.load_json(folder / "result.json")
    if data is None or result is None:
        raise Unfinished(f"{folder}: has no result.json, so it is not finished or has failed")
    try:
        total = make_plan(config, data["splits"]["train"]["examples"]).total
        if result["steps"] != total:
            raise Unfinished(f"{folder}: is not finished; its result is of step {result['steps']}")
        best, final = result.get("best"), result.get("final")
        if split not in data["splits"] or (split == "validation" and not final):
            raise UsageError(
                f"{folder}: its data have no {split} split, so it cannot be ranked on one"
            )
        figures = (best or final) if split == "validation" else result.get("test", {})
        return Run(
            folder,
            config_lib.flatten(config),
            data,
            int((best or {"step": total})["step"]),
            figures,
            diverged=bool(figures) and figures["loss"] is None,
        )
    except (LookupError, TypeError, AttributeError, ValueError):
        raise UserError(
            f"{folder}: its result.json or data.json is not what a run writes"
        ) from None


class Pictures:
    """What came out of every picture of a split, run by run; opens each data set once."""

    def __init__(self, split: str):
        """Reads and scores nothing yet."""
        self._split = split
        self._opened: dict[str, dataset.Dataset] = {}
        self._scored: dict[pathlib.Path, outcomes.Stored] = {}

    def stored(self, of: Run) -> outcomes.Stored | None:
        """Returns what is known of the checkpoint that is compared, None if nothing is.

        Raises:
          UserError: the file of the test split is damaged. Of validation it counts as absent: to
            score that again costs time only.
        """
        if of.folder in self._scored:
            return self._scored[of.folder]
        try:
            stored = outcomes.read(of.folder, self._split)
        except UserError:
            if self._split == "test":
                raise
            return None
        examples = of.data["splits"][self._split]["examples"]
        fits = stored is not None and (stored.step, len(stored.index)) == (of.step, examples)
        return stored if fits else None

    def scored(self, of: Run) -> outcomes.Stored:
        """Returns what is stored, or scores the split and stores that, if it can.

        Raises:
          UserError: the checkpoint is gone, or the data are.
        """
        stored = self.stored(of)
        if stored is not None:
            return stored
        logger.info("%s: scoring its %s pictures", of.folder, self._split)
        found = restore.restore(of.folder, str(of.step))
        key = found.task.config.data.to_json()
        if key not in self._opened:
            self._opened[key] = outcomes.open_data(found)
        result = outcomes.of_split(found, self._opened[key], self._split, verb="compare")
        try:
            outcomes.write(of.folder, self._split, found.step, result)
        except UserError as error:
            logger.warning("%s; the next comparison has to score them again", error)
        self._scored[of.folder] = outcomes.kept(found.step, result)
        return self._scored[of.folder]

    def record_looks(self, found: Sequence[Run]) -> None:
        """Records a look at the test split of each run; one that was scored has it already.

        Raises:
          UserError: it cannot be recorded.
        """
        for run_ in found:
            if self._split == "test" and run_.folder not in self._scored:
                looks.record(run_.folder, "compare", run_.step)

    def of_all(
        self, found: Sequence[Run], metric: str
    ) -> tuple[dict[pathlib.Path, np.ndarray], list[str]]:
        """Returns each run's `values` by its folder, and notes on the runs that have none.

        The test split is not scored for them: its figure alone ranks runs over seeds.
        """
        if metric not in OF_PICTURES:
            return {}, [f"{metric} is no mean over pictures, so nothing is tested over them."]
        result: dict[pathlib.Path, np.ndarray] = {}
        missing: dict[str, list[str]] = {}
        for run_ in found:
            if run_.diverged:
                continue
            try:
                stored = self.stored(run_) if self._split == "test" else self.scored(run_)
                why = "test is not scored again for them"
            except (UserError, OSError) as error:
                stored, why = None, first_line(error)
            if stored is None:
                missing.setdefault(why, []).append(str(run_.folder))
            else:
                result[run_.folder] = values(stored, metric)
        return result, [
            f"No outcomes of single pictures ({why}): {_first_few(folders)}."
            for why, folders in missing.items()
        ]


def _first_few(folders: list[str]) -> str:
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    return ", ".join(folders[:3]) + more


def values(stored: outcomes.Stored, metric: str) -> np.ndarray:
    """Returns f64[n], each picture's part of a metric in OF_PICTURES, in the order of the split.

    The loss is in nats; a probability that float32 has rounded to 0 is taken as the least there is.
    """
    order = np.argsort(stored.index)
    if metric == "accuracy":
        return stored.right[order].astype(np.float64)
    least = np.finfo(np.float32).tiny
    return -np.log(np.maximum(stored.probability[order], least).astype(np.float64))


def value(of: Run, metric: str, pictures: Pictures) -> float:
    """Returns the run's figure, NaN if it diverged; scores the split if it has no figures at all.

    Raises:
      UsageError: there is no such metric.
      UserError: the split had to be scored, and could not be.
    """
    if of.diverged:
        return math.nan
    if not of.figures and metric in OF_PICTURES:
        return float(np.mean(values(pictures.scored(of), metric)))
    known = [name for name in of.figures if name not in ("step", "examples")] or [*OF_PICTURES]
    if metric not in of.figures or metric not in known:
        near = config_lib.nearest(metric, known)
        raise UsageError(f"{of.folder}: has no {metric!r}; it has {', '.join(known)}{near}")
    figure = of.figures[metric]
    return math.nan if figure is None else float(figure)
