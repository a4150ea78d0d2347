"""Ends a run that makes no progress, with every thread's stack, so that it can be started again.

A hung disk, a collective whose other side is gone or a deadlock never returns by itself, and a
scheduler restarts only what has ended. What counts as progress is the loop's to say: it marks what
it is about to do. `leave` ends the process from any thread, whatever the main one is stuck in.
"""

import faulthandler
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

STALLED = 70  # exit status: no progress. EX_SOFTWARE
LOG_SECONDS = 5.0  # for what has to be said elsewhere: the disk or the network may be what hangs

Tell = Callable[[str, int], None]  # tells the other processes a line and an exit status


def leave(line: str, status: int, tell: Tell | None = None, *, stacks: bool = False) -> None:
    """Ends the process at once, from any thread; does not return.

    Nothing is closed or saved, as in a kill.

    Args:
      line: why; goes to standard error, log.txt and the other processes.
      status: the exit status.
      tell: how the other processes learn of it.
      stacks: write every thread's stack after the line.
    """
    os.write(2, f"{line}\n".encode())
    if stacks:
        faulthandler.dump_traceback(2)

    def elsewhere() -> None:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                # Not through the handler, whose lock the stuck thread may hold.
                with open(handler.baseFilename, "a") as file:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
                    file.flush()
                    if stacks:
                        faulthandler.dump_traceback(file)
        if tell is not None:
            tell(line, status)

    speaker = threading.Thread(target=elsewhere, name="leaving", daemon=True)
    speaker.start()
    speaker.join(LOG_SECONDS)
    os._exit(status)


class Watchdog:
    """Watches marks of progress from a thread of its own, from the first mark on.

    Use as a context manager.
    """

    def __init__(self, seconds: float, tell: Tell | None = None):
        """Args: seconds without a mark to end after, 0 is never; tell, as for `leave`."""
        self._seconds, self._tell = seconds, tell
        self._doing, self._since = "", math.inf
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def mark(self, doing: str) -> None:
        """Notes progress: what has now begun, for example 'step 12'."""
        self._doing, self._since = doing, time.monotonic()

    def rest(self) -> None:
        """Watches nothing until the next mark: what has now begun may take any time."""
        self._since = math.inf

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        tick = min(self._seconds / 4, 1.0)
        looked = time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            if now - looked > self._seconds / 2 + tick:
                # This thread was stopped too: Ctrl-Z, or a sleeping laptop.
                self._since = max(self._since, now)
            looked = now
            if now - self._since > self._seconds:
                leave(
                    f"no progress for {self._seconds:g} s (train.stall_seconds) in: {self._doing}. "
                    "Ending, so that the run can be started again; every thread's stack follows",
                    STALLED,
                    self._tell,
                    stacks=True,
                )
