"""The other processes of a run: joining them, and learning that one has failed or is lost.

JAX's processes meet in collectives, which wait for ever for one that does not come, and JAX itself
ends those that are left with an abort and a stack. Here a process that fails tells the others,
through the key-value store of JAX's coordination service, and process 0 counts everyone's signs of
life; so each ends soon, and says in a line which process it was and why. Process 0, which holds
that store, is missed by a connection that each of the others keeps to it: it breaks when it dies.
"""

import atexit
import contextlib
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from imgclass import watchdog
from imgclass.errors import UsageError, UserError, first_line, is_out_of_memory

logger = logging.getLogger(__name__)

LOST = 69  # exit status: another process is lost. EX_UNAVAILABLE
HEARTBEAT = 60.0  # seconds
PATIENCE = 300.0  # seconds, JAX's own default
INTERVAL = 1.0  # seconds between looks at the store
GRACE = 5.0  # for the main thread to come upon another's failure by itself, and for goodbyes
SLACK = 10.0  # JAX's own limits are so much longer, so that ours, which explain, come first

_FAILED, _ALIVE, _LEFT = "imgclass/failed/", "imgclass/alive/", "imgclass/left/"
_LEAD = "imgclass/lead"  # the port at which process 0 takes the others' connections
_GOODBYE = b"."
_heartbeat = HEARTBEAT


def is_broken(error: BaseException) -> bool:
    """Returns whether a compiled program failed, perhaps since another process is lost.

    JAX raises its own error where an array is read, and where a program is called for a second time
    a ValueError that says the same: it begins with XLA's status, as TensorStore's do, which name an
    error of the system. Too little memory is no such failure.
    """
    text = str(error)
    status = re.match("[A-Z_]{5,}: ", text) and "[os_error_code=" not in text
    of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return bool(of_jax or (status and type(error) is ValueError)) and not is_out_of_memory(error)


def _client() -> Any:
    return _joined().client


def _joined() -> Any:
    # JAX has no public way to its key-value store; Orbax takes this one as well.
    from jax._src import distributed

    return distributed.global_state


def join(
    coordinator: str = "",
    processes: int = 0,
    number: int = 0,
    detect: bool = False,
    *,
    heartbeat: float = HEARTBEAT,
    patience: float = PATIENCE,
) -> None:
    """Joins the processes that train together; does nothing if neither way to find them is given.

    Args:
      coordinator: host:port of process 0.
      processes: how many there are.
      number: which this is, from 0.
      detect: find all three as Slurm, MPI, Kubernetes or a TPU says.
      heartbeat: seconds without a sign of life after which a process counts as lost.
      patience: seconds to wait for all to come.

    Raises:
      UsageError: the arguments do not fit together.
    """
    if bool(coordinator) != bool(processes) or number >= max(processes, 1):
        raise UsageError("--coordinator, --num_processes and --process_id (from 0) go together")
    if detect and coordinator:
        raise UsageError("--distributed finds the coordinator: give it or --coordinator, not both")
    if not (detect or coordinator):
        return
    global _heartbeat
    _heartbeat = heartbeat
    where = f"process {number} of {processes}, coordinator {coordinator}" if processes else "this"
    line = f"not all processes came within {patience:g} s ({where}): start all of them"
    # JAX would abort the process.
    late = threading.Timer(patience, watchdog.leave, (line, LOST))
    late.daemon = True
    late.start()
    limits: dict[str, Any] = {
        "initialization_timeout": int(patience + SLACK),
        "heartbeat_timeout_seconds": int(1.5 * heartbeat + SLACK),  # it fires a little early
    }
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, processes, number, **limits)
        else:
            jax.distributed.initialize(**limits)
        if jax.process_count() > 1:
            # Gloo, the collectives of CPUs, gives up connecting after 30 s, by which a process on
            # a busy machine may be late: so all connect here, where they have just met.
            _client().wait_at_barrier("imgclass/joined", int(patience * 1000))
            multihost_utils.sync_global_devices("imgclass/joined")
    except ValueError as error:
        if coordinator:
            raise
        raise UsageError(f"--distributed found no other processes: {error}") from error
    finally:
        late.cancel()


@contextlib.contextmanager
def watched() -> Iterator[watchdog.Tell | None]:
    """Shares the end of the block: a process that fails in it ends the others, wherever they are.

    Yields:
      What tells the others a line and an exit status; None with one process.
    """
    client = _client() if jax.process_count() > 1 else None
    if client is None:
        yield None
        return
    watch = _Watch(client)
    try:
        yield watch.tell
        watch.done()
    except BaseException as error:
        watch.failed(error)
        raise
    finally:
        watch.stop()


class _Watch:
    """Looks at the other processes from a thread of its own."""

    def __init__(self, client: Any):
        self._client, self._me = client, jax.process_index()
        self._count = jax.process_count()
        self._ended = threading.Event()
        self._found: tuple[str, int] | None = None
        self._thread = threading.Thread(target=self._look, name="peers", daemon=True)
        self._thread.start()
        self._lead = threading.Thread(
            target=self._be_missed if self._me == 0 else self._miss_lead, name="lead", daemon=True
        )
        self._lead.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(GRACE)
        if self._me == 0:
            self._lead.join(GRACE)

    def _be_missed(self) -> None:
        """Holds the others' connections until this process needs no more watching."""
        others = []
        with contextlib.suppress(OSError), socket.create_server(("", 0)) as server:
            server.settimeout(INTERVAL / 4)
            self._put(_LEAD, server.getsockname()[1])
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    others.append(server.accept()[0])
        for other in others:
            with contextlib.suppress(OSError), other:
                other.sendall(_GOODBYE)

    def _miss_lead(self) -> None:
        """Leaves when the connection to process 0 breaks without a goodbye.

        JAX notices as soon, but first writes a stack, and does not name the process. Where there is
        no way to that port JAX's abort remains.
        """
        host = _joined().coordinator_address.rpartition(":")[0]
        try:
            port = json.loads(self._client.blocking_key_value_get(_LEAD, int(1000 * PATIENCE)))
            with socket.create_connection((host.strip("[]"), port), timeout=PATIENCE) as lead:
                lead.settimeout(None)
                said = self._heard(lead)
        except Exception:
            return
        if not said and not self._ended.is_set():
            watchdog.leave(f"process 0 failed: lost, its connection from {host} broke", LOST)

    @staticmethod
    def _heard(lead: socket.socket) -> bytes:
        try:
            return lead.recv(1)
        except ConnectionError:
            return b""

    def tell(self, line: str, status: int) -> None:
        """Says that this process has failed; process 0 stays until the others know."""
        with contextlib.suppress(Exception):  # gone already, and all the others with it
            self._put(f"{_FAILED}{self._me}", [line, status])
            self.leave()

    def done(self) -> None:
        """Says that this process needs no more watching."""
        with contextlib.suppress(Exception):
            self._put(f"{_LEFT}{self._me}", True)

    def leave(self) -> None:
        """Says goodbye; process 0, with which the store goes, waits for the others' goodbyes."""
        self.done()
        with contextlib.suppress(Exception):
            until = time.monotonic() + GRACE + 2 * INTERVAL
            while self._me == 0 and time.monotonic() < until:
                gone = {key.removeprefix(_LEFT) for key, _ in self._client.key_value_dir_get(_LEFT)}
                for key, value in self._client.key_value_dir_get(_FAILED):
                    if json.loads(value)[1] == LOST:  # it will not say goodbye
                        gone.add(key.removeprefix(_FAILED))
                if len(gone) >= self._count:
                    return
                time.sleep(0.05)

    def failed(self, error: BaseException) -> None:
        """Tells the others, unless one of them was the cause; then this process ends here."""
        status = getattr(error, "exit_status", 1)
        text = first_line(error)
        if is_broken(error):  # has a collective lost the other side? The lead finds out
            until = time.monotonic() + _heartbeat + 4 * INTERVAL
            while self._found is None and time.monotonic() < until:
                time.sleep(0.05)
            if self._found:
                watchdog.leave(*self._found, lambda *_: self.leave())
        kind = type(error).__name__
        if not isinstance(error, UserError) and text != kind:
            text = f"{kind}: {text}"
        with contextlib.suppress(Exception):
            self._put(f"{_FAILED}{self._me}", [text, status])
        # JAX would wait at exit for processes that are stuck in a collective with this one.
        atexit.register(self._exit, status)

    def _exit(self, status: int) -> None:
        self.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _put(self, key: str, value: Any) -> None:
        self._client.key_value_set(key, json.dumps(value), allow_overwrite=True)

    def _look(self) -> None:
        beats: dict[str, tuple[str, float]] = {}
        looked = time.monotonic()
        while not self._ended.wait(INTERVAL):
            try:
                self._put(f"{_ALIVE}{self._me}", looked)
                now = time.monotonic()
                if self._me == 0:
                    if now - looked > _heartbeat / 2:
                        beats.clear()  # this process itself was stopped
                    self._count_beats(beats, now)
                looked = now
                failed = dict(self._client.key_value_dir_get(_FAILED))
            except Exception:
                continue  # the store is gone: JAX ends this process, or the run is over
            failed.pop(f"{_FAILED}{self._me}", None)
            if not failed:
                continue
            key, value = min(failed.items())
            text, status = json.loads(value)
            self._found = (f"process {key.removeprefix(_FAILED)} failed: {text}", status)
            # A process that has failed may have told this one in `together`; a lost one cannot.
            if not self._ended.wait(0 if status == LOST else GRACE):
                watchdog.leave(*self._found, lambda *_: self.leave())

    def _count_beats(self, beats: dict[str, tuple[str, float]], now: float) -> None:
        """Declares the processes failed whose signs of life have not changed for long."""
        left = {key.removeprefix(_LEFT) for key, _ in self._client.key_value_dir_get(_LEFT)}
        for key, value in self._client.key_value_dir_get(_ALIVE):
            number = key.removeprefix(_ALIVE)
            if number in left:
                continue
            if key not in beats or beats[key][0] != value:
                beats[key] = (value, now)
            elif now - beats[key][1] > _heartbeat:
                text = f"lost, no sign of life for {_heartbeat:g} s"
                self._put(f"{_FAILED}{number}", [text, LOST])
