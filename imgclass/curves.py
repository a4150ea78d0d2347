"""TensorBoard's event file, written by the thread that trains. Only scalars.

tensorboardX's own `SummaryWriter` hands events to a thread of its own, which dies of a full disk or
of a clock that is set back, and then, its queue being full, stops the run for ever without a word.
"""

import os
import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2


class Curves:
    """One event file. Every method may raise OSError."""

    def __init__(self, folder: pathlib.Path, purge_step: int):
        """Opens a file in `folder`; TensorBoard hides earlier files from `purge_step` on."""
        folder.mkdir(parents=True, exist_ok=True)
        # The process's number, because two starts within a second would share a file.
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(step=purge_step, session_log=start))

    def add(self, tag: str, value: float, step: int) -> None:
        """Adds a point to the curve `tag`."""
        point = summary_pb2.Summary.Value(tag=tag, simple_value=value)
        self._write(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[point])))

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)

    def flush(self) -> None:
        """Puts every point on the disk."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()
