"""SIGTERM and Ctrl-C: the first asks the loop to save and stop, the second stops at once."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

from imgclass.errors import UserError

logger = logging.getLogger(__name__)


class Preempted(UserError):
    """The run was asked to stop, lost nothing and can go on. 75 is EX_TEMPFAIL: try again later."""

    exit_status = 75


class StopRequest:
    """Whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)

    @property
    def by(self) -> str:
        """Returns what asked, which may have been a signal to another process."""
        return self.name or "a signal"

    def too_early(self) -> Preempted:
        """Returns the error of a run that was asked to stop when it had done no step."""
        return Preempted(f"{self.by}: stopped before the first step; nothing to save")


@contextlib.contextmanager
def catch_stop() -> Iterator[StopRequest]:
    """Turns the first SIGTERM or SIGINT into a request; from the second on, defaults apply."""
    request = StopRequest()
    before: dict[signal.Signals, object] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        request.name = signal.Signals(number).name
        logger.warning("%s: stopping, and saving what is done; once more stops at once", request.by)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: signals are somebody else's
        before.clear()
    try:
        yield request
    finally:
        restore()
