"""SIGTERM and Ctrl-C: the first asks the loop to save and stop, the second stops at once.

Python runs its handlers in the main thread, between two bytecodes, and so not while that compiles
or waits in a collective. A thread therefore reads the signals too: it says at once that one came,
obeys the second, and ends a process that has nothing to save, or that does not come to its end.
"""

import contextlib
import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from imgclass import watchdog
from imgclass.errors import UserError

logger = logging.getLogger(__name__)
GRACE = 10.0  # seconds for the main thread to end by itself when there is nothing left to save


class Preempted(UserError):
    """The run was asked to stop, lost nothing and can go on. 75 is EX_TEMPFAIL: try again later."""

    exit_status = 75


class Finished(UserError):
    """The run is done; what is left could be done later."""

    exit_status = 0


class Interrupted(Exception):
    """A wait or an evaluation was given up because the run was asked to stop."""


class StopRequest:
    """Whether a signal has asked the run to stop, and what there would be to lose."""

    def __init__(self) -> None:
        self.name = ""
        self._waiting = False
        self._settled: Callable[[], UserError] | None = self.too_early

    def __bool__(self) -> bool:
        return bool(self.name)

    @property
    def by(self) -> str:
        """Returns what asked, which may have been a signal to another process."""
        return self.name or "a signal"

    def too_early(self) -> Preempted:
        """Returns the error of a run that was asked to stop when it had done no step."""
        return Preempted(f"{self.by}: stopped before the first step; nothing to save")

    @property
    def ending(self) -> UserError | None:
        """Returns the error to end with where nothing is left to save, None where something is."""
        return self._settled() if self._settled else None

    def unsaved(self) -> None:
        """Notes that there is something to save."""
        self._settled = None

    def settle(self, error: UserError) -> UserError:
        """Notes that nothing is left to save: the process ends with `error`, which is returned."""
        self._settled = lambda: error
        return error

    @contextlib.contextmanager
    def interrupts(self, alone: bool = True) -> Iterator[None]:
        """Raises Interrupted inside the block, a wait, when asked to stop. Main thread only.

        Args:
          alone: False where other processes would wait for this one; then nothing is raised.
        """
        if not alone:
            yield
            return
        self._waiting = True
        try:
            if self:
                raise Interrupted
            yield
        finally:
            self._waiting = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of a signal."""
        del frame
        self.name = self.name or signal.Signals(number).name
        if self._waiting:
            self._waiting = False
            raise Interrupted


@contextlib.contextmanager
def catch_stop(seconds: float = 0.0, tell: watchdog.Tell | None = None) -> Iterator[StopRequest]:
    """Turns the first SIGTERM or SIGINT into a request; the second ends the process.

    Args:
      seconds: in which a run that was asked to stop must have done so, 0 for no bound.
      tell: how other processes learn that this one has ended.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals are somebody else's
        return
    read, write = socket.socketpair()
    write.setblocking(False)
    # The thread first: a signal that came before it listens waits in the socket.
    reader = threading.Thread(
        target=_read, args=(read, request, seconds, tell), name="signals", daemon=True
    )
    reader.start()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before_fd = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        write.close()
        reader.join()
        read.close()


def _read(
    read: socket.socket, request: StopRequest, seconds: float, tell: watchdog.Tell | None
) -> None:
    """Reads the signals' numbers until the other end is closed."""
    asked = settled_since = 0.0
    while True:
        ready = select.select([read], [], [], 0.2 if asked else None)[0]
        now = time.monotonic()
        if ready:
            came = read.recv(64)
            if not came:
                return
            numbers = [n for n in came if n in (signal.SIGTERM, signal.SIGINT)]
            for number in numbers:
                if asked:
                    name = signal.Signals(number).name
                    line = f"{name} again: stopped at once; the last checkpoint stands"
                    watchdog.leave(line, 128 + number, tell)
                asked = settled_since = now
                request.name = request.name or signal.Signals(number).name
                logger.warning(
                    "%s: stopping, and saving what is done; once more stops at once", request.by
                )
        if not asked:
            continue
        ending = request.ending
        if ending is None:
            settled_since = now
            if seconds and now - asked > seconds:
                line = (
                    f"{request.by}: not stopped within {seconds:g} s (train.stop_seconds); the "
                    "last checkpoint stands. Every thread's stack follows"
                )
                watchdog.leave(line, watchdog.STALLED, tell, stacks=True)
        elif now - settled_since > GRACE:
            watchdog.leave(str(ending), ending.exit_status, tell)
