"""What a run says and writes while it trains: log lines, metrics.jsonl, writers, result.json.

Only the lead process writes. Figures arrive as plain numbers. What goes to TensorBoard and others
beside them, and takes a device or a look at the data to make, is made here and only if asked for.
"""

import contextlib
import logging
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import ml_collections
from tqdm import tqdm

from imgclass import build, histograms, parallel, run, seen, signals
from imgclass.data import dataset
from imgclass.errors import UsageError, UserError
from imgclass.plan import Plan
from imgclass.writers import Writers

logger = logging.getLogger(__name__)
LINE = {
    "loss": "{:.4f}",
    "accuracy": "{:.2%}",
    "tta_accuracy": "{:.2%}",
    "top5": "{:.2%}",
    "balanced_accuracy": "{:.2%}",
    "auroc": "{:.4f}",
}


@contextlib.contextmanager
def to_file(folder: pathlib.Path, lead: bool) -> Iterator[None]:
    """Copies log lines to log.txt, and the error that ends a run; not that of a refused start."""
    if not lead:
        yield
        return
    # delay: a start that is refused leaves no file behind.
    handler = _LogFile(folder / "log.txt", delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except UserError as error:
        if not isinstance(error, UsageError) and (folder / "config.json").exists():
            handler.emit(logging.makeLogRecord({"msg": str(error)}))
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk has been spoken of
            handler.close()


class _LogFile(logging.FileHandler):
    """log.txt. It repeats what standard error says: where it cannot be written, little is lost."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Says nothing: a traceback for each line would hide the one that matters."""


class RunLog:
    """The records of one run. Use as a context manager."""

    def __init__(
        self,
        folder: pathlib.Path,
        config: ml_collections.ConfigDict,
        plan: Plan,
        lead: bool,
        resume_step: int,
        pending: bool = False,
    ):
        """Opens the files; a process that does not lead opens none. `pending`: see `Records`."""
        self._folder, self._plan, self._lead = folder, plan, lead
        self._bar: tqdm | None = None
        self._log = config.log
        self._step, self._waited, self._trained = resume_step, 0.0, 0.0
        if lead:
            self._writers = Writers(folder, config, resume_step)
            self._records = run.Records(folder / "metrics.jsonl", resume_step, pending)
        self._since = time.perf_counter()
        if not lead:
            return
        if config.log.progress and sys.stderr.isatty():
            self._bar = tqdm(  # counts images, so that its rate is images a second
                total=plan.total * plan.batch_size,
                initial=resume_step * plan.batch_size,
                unit=" images",
                unit_scale=True,
                leave=False,
            )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._lead:
            return
        if self._bar is not None:
            self._bar.close()
        stopped = isinstance(error, signals.Preempted)
        self._writers.close("finished" if kind is None else "stopped" if stopped else "failed")
        with contextlib.suppress(OSError):  # every record was on disk when it was written
            self._records.close()

    def begin(self, task: build.Task, data: dataset.Dataset, parameters: int) -> None:
        """Says what is about to be done."""
        sizes = " / ".join(f"{len(split):,} {role}" for role, split in data.splits.items())
        devices = task.mesh.devices
        self._say("%s: %s pictures, %d classes", data.source.name, sizes, len(task.class_names))
        for note in data.source.notes:
            self._say("note: %s", note)
        for role, files in data.bad.items():
            for bad in files:
                self._say("left out of %s: %s: %s", role, bad.name, bad.reason)
            if files:
                many = "s" if len(files) > 1 else ""
                self._say("left out of %s: %d bad file%s", role, len(files), many)
        self._say(
            "%s, %s parameters; steps %d to %d of %d examples on %d %s; in %s",
            task.config.model.name,
            f"{parameters:,}",
            self._step,
            self._plan.total,
            self._plan.batch_size,
            devices.size,
            devices.flat[0].platform,
            self._folder,
        )
        if self._lead and self._log.images and self._writers and not self._step:
            with self.paused():
                pictures = seen.sheet(seen.first_pictures(task, data))
                self._writers.picture("train/augmented", pictures, 0)

    def _say(self, message: str, *values: object) -> None:
        if self._bar is not None:
            self._bar.clear()
        if self._lead:
            logger.info(message, *values)

    def tick(self, step: int) -> None:
        """Moves the progress bar."""
        if self._bar is not None:
            self._bar.update(step * self._plan.batch_size - self._bar.n)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside out of the training speed."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def train(self, step: int, means: Mapping[str, float], waited: float) -> None:
        """Writes a training record: means since the last one, speed, and the wait for data."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        speed = (step - self._step) * self._plan.batch_size / seconds
        share = min((waited - self._waited) / seconds, 1.0)
        self._since, self._step, self._waited = now, step, waited
        self._trained += seconds
        self.write(step, "train", means, images_per_second=speed, data_wait=share)

    def write(self, step: int, split: str, figures: Mapping[str, float], **timings: float) -> None:
        """Writes one record everywhere."""
        if not self._lead:
            return
        epoch = self._plan.epoch(step)
        values = {k: v if math.isfinite(v) else None for k, v in figures.items()}
        self._records.write({"step": step, "epoch": epoch, "split": split, **values, **timings})
        every = {**figures, **timings}
        every.pop("step", None)  # of a test record, which is of an earlier step
        self._writers.figures({f"{split}/{name}": value for name, value in every.items()}, step)
        words = [f"{k} {form.format(figures[k])}" for k, form in LINE.items() if k in figures]
        if timings:
            words.append(f"{timings['images_per_second']:,.0f} images/s")
            words.append(f"data wait {timings['data_wait']:.0%}")
        self._say(
            "step %d/%d epoch %.2f %s: %s", step, self._plan.total, epoch, split, ", ".join(words)
        )

    def weights(self, step: int, params: Any) -> None:
        """Gives the writers a histogram of each array, if asked to; for all processes to call."""
        if not self._log.histograms:
            return
        host = parallel.fetch(params)
        if self._lead and self._writers:
            made = histograms.of_tree(host)
            self._writers.histograms({f"parameters/{k}": v for k, v in made.items()}, step)

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json; says the result, and what to type next.

        'data_wait' is added to it: as in the training records, over all since the last start; None
        if no step was left to do.
        """
        if not self._lead:
            return
        share = min(self._waited / self._trained, 1.0) if self._trained else None
        run.write_json(self._folder / "result.json", result | {"data_wait": share})
        if self._bar is not None:
            self._bar.close()
        lines = result_lines(self._folder, result)
        for line in lines:
            logger.info("%s", line)
        self._writers.text("result", "\n".join(lines[: lines.index("Next:")]), result["steps"])


def result_lines(folder: pathlib.Path, result: Mapping[str, Any]) -> list[str]:
    """Returns the last lines of a run: its result, and the next commands to type."""
    lines = [
        f"{folder}: {result['steps']:,} steps, {result['epochs']:.1f} epochs, "
        f"{result['parameters']:,} parameters, {result['wall_seconds']:.0f} s"
    ]
    for name in ("final", "best", "test"):
        figures = result.get(name)
        if figures:
            known = {k: v for k, v in figures.items() if v is not None}  # None was NaN
            words = [f"{k} {form.format(known[k])}" for k, form in LINE.items() if k in known]
            split = "test" if name == "test" else f"validation, {name}"
            lines.append(f"  {split} (step {figures['step']}): {', '.join(words)}")
    where = shlex.quote(str(folder))
    lines.append("Next:")
    split = next(
        (s for s, k in (("test", "test"), ("validation", "final")) if result.get(k)), "train"
    )
    lines.append(f"  imgclass evaluate {where} --split={split}")
    lines.append(f"  imgclass predict {where} PICTURE-OR-FOLDER...")
    return lines
