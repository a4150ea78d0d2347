"""Dispatches train steps: one call a step, or many steps a call where that is faster.

Keeps the host a little ahead of the device, and reads each step's verdict on whether its loss was
finite once the device has passed it, so that no step waits for the host.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from imgclass import build, feeds, parallel, signals
from imgclass.data import dataset, feed
from imgclass.errors import UserError
from imgclass.state import TrainState

logger = logging.getLogger(__name__)
IN_FLIGHT = 2  # dispatches the host may be ahead by: enough to hide its own work
STEPS_PER_DISPATCH = 16  # on accelerators
MOST_SKIPPED = 20  # updates in a row: past that the weights, not the pictures, are at fault


class Trainer:
    """Dispatches steps, keeps the host a little ahead of the device, and watches for NaN."""

    def __init__(
        self, task: build.Task, data: dataset.Dataset, stop: signals.StopRequest | None = None
    ):
        """Starts loading a resident set, or what decodes. Use as a context manager.

        When `stop` is asked for, waiting for data is given up. `wait_seconds` estimates how long
        the devices stood idle for want of data: this host's time in the feed, but for those times
        at whose end a step was still being computed.
        """
        self.wait_seconds = 0.0
        self._stop = signals.StopRequest() if stop is None else stop  # a request may be false
        self._task, self._data = task, data
        self._flight: collections.deque[tuple[int, int, Any]] = collections.deque()
        self._skipped = 0  # updates in a row
        self._feed = feeds.train_feed(task, data)
        try:
            self.most, self._step = self._make_step()
        except BaseException:
            self._feed.close()
            raise

    def _make_step(self) -> tuple[int, Callable]:
        """Returns how many steps a dispatch does at most, and the step."""
        task = self._task
        if not isinstance(self._feed, feed.ResidentFeed):
            return 1, task.jitted_train_step()
        accelerated = task.mesh.devices.flat[0].platform != "cpu"
        default = STEPS_PER_DISPATCH if accelerated else 1
        most = task.config.train.steps_per_dispatch or default
        if most > 1:
            return most, task.jitted_train_steps(most)
        self._feed.compile(parallel.whole(task.mesh))
        return 1, task.jitted_train_step()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._feed.close()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if not self._flight or self._flight[-1][2].is_ready():
                self.wait_seconds += time.perf_counter() - began

    def load(self, progress: Callable[[], None]) -> None:
        """Waits for a resident set, calling `progress` on the way.

        Raises:
          signals.Interrupted: asked to stop while waiting.
          UserError: a picture of it is bad.
        """
        if isinstance(self._feed, feed.ResidentFeed):
            with self._waiting(), self._interrupts():
                self._feed.load(progress)

    def _interrupts(self) -> contextlib.AbstractContextManager[None]:
        # Other processes would wait in the step for one that gives up a wait.
        return self._stop.interrupts(alone=jax.process_count() == 1)

    def advance(self, state: TrainState, step: int, count: int) -> tuple[TrainState, Any]:
        """Dispatches `count` steps from `step`. Returns the next state and the metrics' sums.

        Raises:
          signals.Interrupted: asked to stop while waiting for data; nothing was dispatched.
          UserError: an earlier step was not finite.
        """
        with self._waiting(), self._interrupts():
            if self.most > 1:
                assert isinstance(self._feed, feed.ResidentFeed)
                # Always the same shape, so always the same program; `count` says how many count.
                indices = self._feed.indices(step, self.most)
                inputs: tuple = (self._feed.load(), indices, np.int32(count))
            else:
                inputs = (self._feed.batch(step),)
        state, out = self._step(state, *inputs)
        self._flight.append((step, count, out["finite"]))
        while len(self._flight) > IN_FLIGHT:
            self._land()
        return state, out["sums"]

    def settle(self) -> None:
        """Waits for every dispatched step. Raises UserError if one was not finite."""
        while self._flight:
            self._land()

    def _land(self) -> None:
        first, count, finite = self._flight.popleft()
        for offset, good in enumerate(np.atleast_1d(np.asarray(finite))[:count]):
            self._skipped = 0 if good else self._skipped + 1
            if not good:
                self._not_finite(first + offset)

    def _not_finite(self, step: int) -> None:
        config, split = self._task.config, self._data.splits["train"]
        rows = self._feed.order(step)
        names = ", ".join(split.example_names(rows[:4].tolist()))
        what = (
            f"step {step}: the loss or its gradient is not finite, on examples "
            f"{rows.tolist()} ({names}, ...)"
        )
        if config.train.on_nonfinite == "skip" and self._skipped <= MOST_SKIPPED:
            logger.warning("%s; update skipped", what)
            return
        raise UserError(
            f"{what}. Nothing after the last checkpoint is saved: lower optim.lr, set "
            "optim.clip_norm or train.on_nonfinite='skip' (with --allow_config_change), or look at "
            "these pictures"
        )
