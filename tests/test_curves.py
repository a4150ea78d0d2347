"""TensorBoard's file: what it holds, and that a disk that fails costs the curves alone."""

import errno
import os
import struct

import pytest
from tensorboardX.proto import event_pb2

from imgclass import train
from imgclass.curves import Curves
from tests import tiny


def events(folder):
    """Reads every event: length, checksum, bytes, checksum (TFRecord)."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_points_are_on_disk_once_flushed(tmp_path):
    curves = Curves(tmp_path / "tensorboard", 5)
    curves.add("train/loss", 0.25, 6)
    curves.flush()
    version, start, point = events(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, event_pb2.SessionLog.START)
    (value,) = point.summary.value
    assert (point.step, value.tag, value.simple_value) == (6, "train/loss", 0.25)
    curves.close()


def test_curves_that_cannot_be_written_are_said_once_and_training_goes_on(tmp_path, caplog):
    data = tiny.archive(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("a file in the way")
    train.train_and_evaluate(tiny.config(data, {"log.tensorboard": True}), tmp_path / "run")
    assert caplog.text.count("tensorboard/ cannot be written") == 1
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("step", [1, 4])
def test_a_disk_that_fails_meanwhile_stops_neither_run_nor_records(
    tmp_path, caplog, monkeypatch, step
):
    real = Curves.add

    def add(self, tag, value, at):
        if at == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, tag, value, at)

    monkeypatch.setattr(Curves, "add", add)
    data = tiny.archive(tmp_path)
    train.train_and_evaluate(tiny.config(data, {"log.tensorboard": True}), tmp_path / "run")
    assert caplog.text.count("tensorboard/ cannot be written (No space left on device)") == 1
    steps = [r["step"] for r in tiny.records(tmp_path / "run") if r["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
