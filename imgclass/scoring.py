"""Scores splits during a run: the validations, the final test, and the report at the end.

Every evaluation marks its progress and ends when the run is asked to stop. Nothing here trains.
"""

import itertools
import logging
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from imgclass import build, checkpoint, feeds, parallel, signals, watchdog
from imgclass.data import dataset as dataset_lib
from imgclass.errors import UserError
from imgclass.evaluate import outcomes, restore, score
from imgclass.progress import Progress
from imgclass.state import TrainState, eval_variables

logger = logging.getLogger(__name__)
AGREE_BATCHES = 16  # at most, between questions to the other processes whether to stop


def best(
    task: build.Task, saved: checkpoint.Checkpoints, at: Progress, state: TrainState
) -> tuple[int, dict[str, Any]]:
    """Returns the step that was best on validation, the last without one, and its variables."""
    step = int(at.best["step"]) if at.best else at.step
    if step != at.step:
        restored = saved.restore(task.abstract, step)
        assert restored is not None
        state = restored[0]
    return step, eval_variables(state)


class Scorer:
    """Scores a task's splits; what it needs for that is the same throughout a run."""

    def __init__(
        self,
        task: build.Task,
        data: dataset_lib.Dataset,
        watch: watchdog.Watchdog,
        stop: signals.StopRequest,
    ):
        """Args: the task, its open data, who is told of progress, and who may ask to stop."""
        self._task, self._data, self._watch, self._stop = task, data, watch, stop
        self._eval_step = task.jitted_eval_step()
        self._validation = feeds.eval_feed(task, data, "validation")

    @property
    def validates(self) -> bool:
        """Whether there is a validation split."""
        return self._validation is not None

    def validation(self, step: int, variables: dict[str, Any]) -> dict[str, float]:
        """Returns the figures of validation. Raises Interrupted if asked to stop."""
        assert self._validation is not None
        batches = self._batches(self._validation, f"validation of step {step}")
        return score.score(self._eval_step, variables, batches, len(self._task.class_names))

    def test(self, step: int, variables: dict[str, Any]) -> dict[str, float] | None:
        """Scores the test split once; None without one.

        With eval.tta the figures over averaged views stand beside the plain ones, as
        'tta_accuracy' and so on. Raises Interrupted if asked to stop.
        """
        feed = feeds.eval_feed(self._task, self._data, "test")
        if feed is None:
            logger.warning("%s has no test split: no test figure", self._data.source.name)
            return None
        classes = len(self._task.class_names)
        batches = self._batches(feed, "the final test")
        figures = score.score(self._eval_step, variables, batches, classes)
        tta = self._task.config.eval.tta
        if tta != "none":
            batches = self._batches(feed, f"the final test, {tta}")
            averaged = score.score(self._task.jitted_eval_step(tta), variables, batches, classes)
            figures |= {f"tta_{name}": averaged[name] for name in averaged if name != "examples"}
        return {"step": step, **figures}

    def report(self, folder: pathlib.Path, step: int, variables: dict[str, Any]) -> None:
        """Writes the report of a finished run, which fails of nothing that happens here."""
        writes = f"imgclass report {folder} writes its report"
        if jax.process_count() > 1:
            if jax.process_index() == 0:
                logger.info("  %s", writes)
            return
        from imgclass import report  # only now: it loads matplotlib

        self._stop.settle(signals.Finished(f"done, but for its report; {writes}"))
        try:
            found = restore.Restored(folder, self._task, variables, step, {})
            split = report.default_split(self._data)
            feed = feeds.eval_feed(self._task, self._data, split)
            assert feed is not None
            batches = self._batches(feed, f"the report on {split}")
            scored = outcomes.collect(self._eval_step, variables, batches)
            outcomes.write(folder, split, step, scored)
            self._watch.mark("writing the report")
            report.write(found, self._data, {split: scored}, split, report.FEW)
            logger.info("  %s: open it in a browser", folder / "report.html")
        except signals.Interrupted:
            logger.warning("%s", writes)
        except UserError as error:
            logger.warning("no report (%s); %s", error, writes)
        except Exception:
            logger.exception("no report, which is a bug; %s", writes)

    def _batches(self, feed: Iterable[dict], doing: str) -> Iterator[dict]:
        """Yields the batches of an evaluation, marking progress; raises Interrupted if asked to."""
        source = iter(feed)
        for number in itertools.count():
            self._watch.mark(f"{doing}, batch {number}")
            if number % AGREE_BATCHES == 0 and parallel.any_process(bool(self._stop)):
                raise signals.Interrupted
            with self._stop.interrupts(alone=jax.process_count() == 1):
                batch = next(source, None)
            if batch is None:
                return
            yield batch
