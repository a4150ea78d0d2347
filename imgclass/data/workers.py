"""Processes that read, decode and cut out rows of training batches, where threads do not suffice.

Threads of one process take turns wherever Python itself runs. That is little of a photograph, but a
third of a picture of 32 pixels, and two threads there are hardly faster than one.

A process is given a pickled `BatchLoader` at its start, then one batch at a time, and puts the
pixels into memory that it shares. It imports neither JAX nor the main script. It leaves signals to
its parent, and ends when the parent does, however that ends: then nobody holds the other end of its
connection. (One that is at work ends after its batch.) The memory has no name in any file system,
so nothing is left behind either.
"""

import concurrent.futures
import contextlib
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection, Pipe

import numpy as np

from imgclass.data.load import BatchLoader
from imgclass.errors import UserError

# What a new process does: its arguments are two file descriptors and where modules are. Before it
# knows where, it imports nothing: a file in the current folder is not to stand for Python's own.
_START = """
import sys
connection, memory, *sys.path = sys.argv[1:]
from imgclass.data import workers
workers.serve(int(connection), int(memory))
"""


class Workers:
    """Processes that load batches, as many at a time as there are of them."""

    def __init__(self, loader: BatchLoader, rows: np.ndarray, count: int):
        """Starts them.

        Args:
          loader: what each is given.
          rows: int[k], this process's rows of the global batch.
          count: how many.

        Raises:
          UserError: the system refuses one.
        """
        self._rows, self._closed = rows, False
        shape = (len(rows), *loader.size, loader.preprocess.channels)
        pickled = pickle.dumps(loader)
        self._all: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        try:
            for _ in range(count):
                self._all.append(_Worker(pickled, shape))
                self._idle.put(self._all[-1])
        except OSError as error:
            self.close()
            raise UserError(
                f"data.workers={count}: a process or its memory cannot be had "
                f"({error.strerror}). Use fewer"
            ) from error

    def load(self, step: int, indices: np.ndarray) -> np.ndarray:
        """Returns uint8[k, H, W, C]; waits while all are busy. Any thread may call.

        Raises:
          UserError: an example is not a whole picture, or a process has ended.
          concurrent.futures.CancelledError: `close` was called meanwhile.
        """
        worker = self._idle.get()
        try:
            return worker.load(step, indices, self._rows)
        except (EOFError, OSError):
            if self._closed:
                raise concurrent.futures.CancelledError from None
            raise UserError(
                f"a process that decodes training pictures {worker.end()}. Go on with fewer: "
                "--config.data.workers=N, or 0 for threads, and --allow_config_change"
            ) from None
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        self._closed = True
        for worker in self._all:
            worker.process.kill()
        for worker in self._all:
            worker.process.wait()


class _Worker:
    """One process, seen from its parent."""

    def __init__(self, pickled: bytes, shape: tuple[int, ...]):
        self._pickled: bytes | None = pickled  # until it has been sent
        self._connection, theirs = Pipe()
        memory = os.memfd_create("pictures")
        # What this thread blocks, the new process does from its first instruction. A signal may be
        # sent to every process of a job, and the parent still wants its batches.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            size = int(np.prod(shape))
            os.ftruncate(memory, size)
            pixels = np.frombuffer(mmap.mmap(memory, size, prot=mmap.PROT_READ), np.uint8)
            self._pixels = pixels.reshape(shape)
            given = theirs.fileno(), memory
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, *map(str, given), *sys.path],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # or who reads the parent's would wait for this one
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # else a thread a core, idle
                process_group=0,  # the terminal's Ctrl-C is for the parent
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(memory)
            theirs.close()

    def load(self, step: int, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self._pickled is not None:
            self._connection.send_bytes(self._pickled)
            self._pickled = None
        self._connection.send((step, indices, rows))
        failure = self._connection.recv()
        if failure is not None:
            raise failure
        return self._pixels.copy()

    def end(self) -> str:
        """Returns how it ended."""
        status = self.process.wait()
        if status >= 0:
            return f"ended with status {status}"
        killed = -status in (signal.SIGKILL, signal.SIGBUS)
        memory = ", perhaps for want of memory" if killed else ""
        known = {number.value: number.name for number in signal.Signals}
        return f"was ended by {known.get(-status, f'signal {-status}')}{memory}"


def serve(connection: int, memory: int) -> None:
    """Loads batches until the parent is gone; what the new process runs."""
    parent = Connection(connection)
    pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8)
    loader: BatchLoader | None = None

    def answer(pickled: bytes, asked: tuple) -> Exception | None:
        nonlocal loader
        try:
            if loader is None:
                loader = pickle.loads(pickled)
            pixels[:] = loader(*asked).reshape(-1)
            return None
        except UserError as error:
            return error
        except Exception:  # its like may not be picklable
            return RuntimeError(f"in a decoding process:\n{traceback.format_exc()}")

    with contextlib.suppress(EOFError, ConnectionError):
        pickled = parent.recv_bytes()
        while True:
            parent.send(answer(pickled, parent.recv()))
