"""Processes that read, decode and cut out rows of training batches, where threads do not suffice.

Threads of one process take turns wherever Python itself runs. That is little of a photograph, but a
third of a picture of 32 pixels, and two threads there are hardly faster than one.

A process is given a pickled `BatchLoader` at its start, then one batch at a time, and puts the
pixels into memory that it shares. It imports neither JAX nor the main script. It leaves signals to
its parent, and ends when the parent does, however that ends: then nobody holds the other end of its
connection. The memory has no name in any file system, so nothing is left behind either.
"""

import concurrent.futures
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

# What a new process does: its arguments are two file descriptors and where modules are.
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
        """
        self._rows, self._closed = rows, False
        shape = (len(rows), *loader.size, loader.preprocess.channels)
        pickled = pickle.dumps(loader)
        self._all = [_Worker(pickled, shape) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

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
                f"a process that decodes training pictures {worker.end()}, perhaps for want of "
                "memory. Go on with fewer: --config.data.workers=N, or 0 for threads, and "
                "--allow_config_change"
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
        try:
            size = int(np.prod(shape))
            os.ftruncate(memory, size)
            pixels = np.frombuffer(mmap.mmap(memory, size, prot=mmap.PROT_READ), np.uint8)
            self._pixels = pixels.reshape(shape)
            given = theirs.fileno(), memory
            places = [place or os.getcwd() for place in sys.path]
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, *map(str, given), *places],
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                process_group=0,  # the terminal's Ctrl-C is for the parent
            )
        finally:
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
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else "has ended"


def serve(connection: int, memory: int) -> None:
    """Loads batches until the parent is gone; what the new process runs."""
    # A signal may be sent to every process of a job, and the parent still wants its batches.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = Connection(connection)
    pixels = np.frombuffer(mmap.mmap(memory, 0), np.uint8)
    try:
        loader: BatchLoader = pickle.loads(parent.recv_bytes())
        while True:
            asked = parent.recv()
            failure: Exception | None = None
            try:
                pixels[:] = loader(*asked).reshape(-1)
            except UserError as error:
                failure = error
            except Exception:  # its like may not be picklable
                failure = RuntimeError(f"in a decoding process:\n{traceback.format_exc()}")
            parent.send(failure)
    except (EOFError, OSError):
        sys.exit()
