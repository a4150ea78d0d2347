"""TensorBoard's event file, written by the thread that trains.

tensorboardX's own `SummaryWriter` hands events to a thread of its own, which dies of a full disk or
of a clock that is set back, and then, its queue being full, stops the run for ever without a word.
"""

import contextlib
import io
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from imgclass.histograms import Histogram


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Makes an import of `module` fail, as if it were not installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


# It imports torch if it can, for tensors that nothing here gives it, and that takes seconds.
with _hidden("torch"):
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2, summary_pb2


class Curves:
    """One event file, a `writers.Writer`. Every method may raise OSError."""

    name = "tensorboard/"

    def __init__(self, folder: pathlib.Path, purge_step: int):
        """Opens a file in `folder`; TensorBoard hides earlier files from `purge_step` on."""
        folder.mkdir(parents=True, exist_ok=True)
        # The process's number, because two starts within a second would share a file.
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(step=purge_step, session_log=start))

    def add(self, tag: str, value: float, step: int) -> None:
        """Adds a point to the curve `tag`."""
        self._add(summary_pb2.Summary.Value(tag=tag, simple_value=value), step)

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve, and puts them on the disk."""
        for tag, value in values.items():
            self.add(tag, value, step)
        self.flush()

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Adds u8[height, width, 3]."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        height, width, _ = pixels.shape
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=file.getvalue()
        )
        self._add(summary_pb2.Summary.Value(tag=tag, image=image), step)
        self.flush()

    def histograms(self, values: Mapping[str, Histogram], step: int) -> None:
        """Adds a histogram to each tag."""
        for tag, made in values.items():
            histo = summary_pb2.HistogramProto(
                min=made.edges[0],
                max=made.edges[-1],
                num=made.counts.sum(),
                sum=made.sum,
                sum_squares=made.sum_squares,
                bucket_limit=made.edges[1:].tolist(),
                bucket=made.counts.tolist(),
            )
            self._add(summary_pb2.Summary.Value(tag=tag, histo=histo), step)
        self.flush()

    def text(self, tag: str, text: str, step: int) -> None:
        """Adds preformatted text."""
        # TensorBoard reads Markdown: four blanks keep the lines as they are.
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._write(event_pb2.Event(step=step, summary=summary.text(tag, indented)))
        self.flush()

    def _add(self, value: summary_pb2.Summary.Value, step: int) -> None:
        self._write(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[value])))

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)

    def flush(self) -> None:
        """Puts everything on the disk."""
        self._file.flush()

    def close(self, status: str = "finished") -> None:
        """Flushes and closes the file; TensorBoard knows no status."""
        del status
        self._file.close()
