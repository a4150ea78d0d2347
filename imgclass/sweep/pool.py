"""Processes of main.py: so many at a time, each with a share of the cores, stopped cleanly.

A run is claimed by a lock on a file beside the run folders, which its process inherits: it is
taken as long as a sweep or what a killed sweep left behind works on it, and free the moment none
does. Which runs there are, and what becomes of them, is the `Source`'s to say.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TextIO

from imgclass import process
from imgclass.errors import UserError
from imgclass.signals import Preempted

MAIN = pathlib.Path(process.__file__).resolve().parent.parent / "main.py"
POLL = 0.1  # seconds between looks at the processes
ASK = 2.0  # seconds before a source that had nothing to start is asked again
GRACE = 10.0  # seconds for a process to end that was told twice
# Statuses after which main.py goes on by the same command: a process lost, a stall, asked to stop.
AGAIN = (69, 70, 75)
STARTS = 3  # of a run that ends so, or is killed


@dataclasses.dataclass(frozen=True)
class Job:
    """A claimed run.

    Attributes:
      name: of the run.
      words: the arguments of main.py.
      log: where its output is appended.
      claim: the open, locked file.
    """

    name: str
    words: tuple[str, ...]
    log: pathlib.Path
    claim: TextIO


class Source(Protocol):
    """What there is to run."""

    def take(self) -> Job | None:
        """Returns a claimed run to start, None if there is none now."""

    def look(self, job: Job) -> bool:
        """Returns whether to stop a run that is going on."""

    def ended(self, job: Job, reason: str) -> None:
        """Takes note of a run's end; `reason` is '' if it finished, and else why not."""

    def over(self) -> bool:
        """Returns whether nothing is left to start or to wait for, this sweep's own aside."""


@dataclasses.dataclass
class _Child:
    job: Job
    process: subprocess.Popen
    offset: int  # of the log, where this start begins
    starts: int = 1
    told: bool = False


def claim(path: pathlib.Path, wait: bool = False) -> TextIO | None:
    """Returns the open file `path`, locked for this sweep; None if it is taken and not to wait.

    Raises:
      UserError: it cannot be made or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give --root") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise UserError(
            f"{path}: cannot be locked ({error.strerror}); give a --root on another disk"
        ) from None
    return file


def run(source: Source, jobs: int) -> None:
    """Starts what the source gives, at most `jobs` at a time, until it is over.

    A run that was killed, or ended with a status of `AGAIN`, is started again, which goes on from
    its checkpoint, `STARTS` times in all. Ctrl-C, SIGTERM or SIGHUP lets all runs save and stop; a
    second one ends them.

    Raises:
      KeyboardInterrupt: after Ctrl-C, when all have stopped.
      Preempted: after SIGTERM or SIGHUP, likewise.
    """
    children: dict[int, _Child] = {}  # by slot
    passed, asked_at, deadline = 0, 0.0, float("inf")
    with _signals() as asked:
        try:
            while children or not asked:
                if not asked and len(children) < jobs and time.monotonic() - asked_at > ASK:
                    job = source.take()
                    if job:
                        slot = min(set(range(jobs)) - children.keys())
                        children[slot] = _start(job, slot, jobs)
                        continue
                    asked_at = time.monotonic()
                    if not children and source.over():
                        break
                for slot, child in list(children.items()):
                    if not _attend(source, child, slot, jobs, bool(asked)):
                        del children[slot]
                        asked_at = 0.0
                for _ in asked[passed:]:
                    passed += 1
                    _tell(children.values())
                    if passed == 2:
                        deadline = time.monotonic() + GRACE
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL)
        finally:
            _end(list(children.values()), saving=passed < 2)
    if asked and asked[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if asked:
        name = signal.Signals(asked[0]).name
        raise Preempted(f"{name}: every run saved and stopped; the same command goes on")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Yields the signals that came, in order."""
    asked: list[int] = []
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's wish
        numbers.append(signal.SIGHUP)
    before = {n: signal.signal(n, lambda number, _: asked.append(number)) for n in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(job: Job, slot: int, jobs: int) -> _Child:
    """Starts main.py on its share of the cores, holding the claim, in a session of its own.

    Its own session, because Ctrl-C goes to a terminal's whole group, and the signal passed on as
    well would be the second, which stops without saving.
    """
    everything = os.sched_getaffinity(0)
    with job.log.open("ab") as log:
        offset = log.tell()  # before the child, which moves it too
        os.sched_setaffinity(0, share(sorted(everything), slot, jobs))  # a child inherits it
        try:
            child = subprocess.Popen(
                [sys.executable, str(MAIN), *job.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(job.claim.fileno(),),
            )
        finally:
            os.sched_setaffinity(0, everything)
        return _Child(job, child, offset)


def share(cores: Sequence[int], slot: int, jobs: int) -> set[int]:
    """Returns the cores of one of `jobs` processes: all have alike many, to within one.

    >>> [sorted(share([0, 1, 2, 3, 4], slot, 2)) for slot in range(2)]
    [[0, 2, 4], [1, 3]]
    >>> [sorted(share([0, 1], slot, 3)) for slot in range(3)]
    [[0], [1], [0]]
    """
    return set(cores[slot::jobs]) or {cores[slot % len(cores)]}


def _attend(source: Source, child: _Child, slot: int, jobs: int, stopping: bool) -> bool:
    """Looks after one process; returns whether there still is one."""
    status = child.process.poll()
    if status is None:
        if not child.told and source.look(child.job):
            child.process.terminate()
            child.told = True
        return True
    again = status < 0 or status in AGAIN
    if again and not child.told and not stopping and child.starts < STARTS:
        starts = child.starts + 1
        anew = _start(child.job, slot, jobs)
        child.process, child.offset, child.starts = anew.process, anew.offset, starts
        return True
    with child.job.claim:
        if status == 0 or not (stopping and again):
            source.ended(child.job, _reason(child, status))
    return False


def _reason(child: _Child, status: int) -> str:
    """Returns '' or why a process did not finish: the signal, or the last line it wrote."""
    if status == 0:
        return ""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}, {child.starts} times"
    with child.job.log.open("rb") as log:
        log.seek(child.offset)
        lines = log.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"status {status}: {last}"


def _tell(children: Iterable[_Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()


def _end(children: Sequence[_Child], saving: bool) -> None:
    """Ends what still runs when the sweep itself fails, or was told twice."""
    if saving:
        _tell(children)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(c.process.poll() is None for c in children):
            time.sleep(POLL)
    for child in children:
        if child.process.poll() is None:
            child.process.kill()
        child.process.wait()
        child.job.claim.close()
