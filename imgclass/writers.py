"""Who hears of a run besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

One interface, `Writer`, and `Writers`, which passes everything on to each. metrics.jsonl has every
figure, so a writer that fails costs a warning and itself, never the run. Only the lead process has
any.
"""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Protocol

import ml_collections
import numpy as np

from imgclass import tracking
from imgclass.curves import Curves
from imgclass.errors import UserError, first_line
from imgclass.histograms import Histogram

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """What one does. Each method may raise whatever its library raises."""

    name: str

    def figures(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None: ...

    def histograms(self, values: Mapping[str, Histogram], step: int) -> None: ...

    def text(self, tag: str, text: str, step: int) -> None: ...

    def close(self, status: str) -> None: ...


class Writers:
    """Those a config asks for. A writer that fails is named once, closed, and left out."""

    def __init__(self, folder: pathlib.Path, config: ml_collections.ConfigDict, resume_step: int):
        """Opens them.

        Raises:
          UsageError: the package of one that was asked for by name is not installed.
          UserError: it cannot be opened, and no step of the run has been done. One that cannot be
            opened when a run goes on, like TensorBoard's file at any time, is left out.
        """
        log = config.log
        tracking.check(log)
        self._writers: list[Writer] = []
        if log.tensorboard:
            self._open("tensorboard/", lambda: Curves(folder / "tensorboard", resume_step + 1))
        known = resume_step > 0
        if log.wandb:
            self._open(
                tracking.WandB.name, lambda: tracking.WandB(log.wandb, folder, config), known
            )
        if log.mlflow:
            self._open(
                tracking.MLflow.name, lambda: tracking.MLflow(log.mlflow, folder, config), known
            )

    def __bool__(self) -> bool:
        return bool(self._writers)

    def _open(self, name: str, make: Callable[[], Writer], go_on: bool = True) -> None:
        try:
            self._writers.append(make())
        except Exception as error:  # whatever a library raises
            if not go_on:
                self.close("failed")
                raise UserError(f"{name} cannot be opened ({_reason(error)})") from error
            _warn(name, error)

    def _each(self, call: Callable[[Writer], None]) -> None:
        for writer in list(self._writers):
            try:
                call(writer)
            except Exception as error:  # whatever a library raises
                self._writers.remove(writer)
                with contextlib.suppress(Exception):
                    writer.close("failed")
                _warn(writer.name, error)

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve, such as 'train/loss'."""
        self._each(lambda writer: writer.figures(values, step))

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Shows u8[height, width, 3]."""
        self._each(lambda writer: writer.picture(tag, pixels, step))

    def histograms(self, values: Mapping[str, Histogram], step: int) -> None:
        """Adds a histogram to each tag, such as 'parameters/head/kernel'."""
        self._each(lambda writer: writer.histograms(values, step))

    def text(self, tag: str, text: str, step: int) -> None:
        """Shows text of several lines."""
        self._each(lambda writer: writer.text(tag, text, step))

    def close(self, status: str) -> None:
        """Ends all of them; the run has 'finished', 'failed', or was 'stopped' and may go on."""
        self._each(lambda writer: writer.close(status))
        self._writers = []


def _warn(name: str, error: Exception) -> None:
    logger.warning("%s cannot be written (%s); going on without", name, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
