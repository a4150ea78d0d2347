"""A run saved on 4 devices goes on on any number of devices or processes, on the same examples."""

import json
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from imgclass import train
from imgclass.data import feed, order
from tests import tiny

SAVED, TOTAL, BATCH = 6, 14, 8  # 50 examples, so a pass over them ends inside the part gone on with
CHANGES = tiny.FULL | {
    "data.feed": "stream", "train.devices": 4, "train.total_steps": TOTAL, "log.every_steps": 2,
    "eval.every_steps": 5, "checkpoint.every_steps": SAVED, "checkpoint.keep": 9,
    # What configs/cnn.py, with which the processes start, would change.
    "optim.eps": 1e-8, "optim.eps_hat": False, "eval.final_test": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def on_four(tmp_path_factory):
    """The data, and a whole run on 4 devices."""
    root = tmp_path_factory.mktemp("four")
    data = tiny.archive(root)
    train.train_and_evaluate(tiny.config(data, CHANGES), root / "run")
    return data, root / "run"


def stopped(whole: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Returns a copy of a run as it was after its save at `SAVED`."""
    shutil.copytree(whole, folder)
    for step in tiny.saved_steps(folder):
        if step > SAVED:
            shutil.rmtree(folder / f"checkpoints/{step:010d}")
    (folder / "result.json").unlink()
    return folder


def assert_goes_on_alike(whole: pathlib.Path, folder: pathlib.Path) -> None:
    for a, b in zip(tiny.records(whole), tiny.records(folder), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5, err_msg=str(a))
        assert a["accuracy"] == b["accuracy"]
    assert tiny.saved_steps(folder)[-1] == TOTAL


def expected(step: int) -> list[int]:
    return order.batch_indices(0, 50, BATCH, step).tolist()


@pytest.mark.parametrize(
    "devices",
    [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
def test_it_goes_on_on_another_number_of_devices(on_four, tmp_path, monkeypatch, devices):
    data, whole = on_four
    folder, seen = stopped(whole, tmp_path / "run"), {}
    real = feed.StreamFeed.batch

    def batch(self, step):
        made = real(self, step)
        assert len(made["image"].sharding.device_set) == devices
        seen[step] = np.asarray(made["index"]).tolist()
        return made

    monkeypatch.setattr(feed.StreamFeed, "batch", batch)
    config = tiny.config(data, CHANGES | {"train.devices": devices})
    train.train_and_evaluate(config, folder, allow_change=True)
    assert seen == {step: expected(step) for step in range(SAVED, TOTAL)}
    assert_goes_on_alike(whole, folder)


# Writes the examples that a process provides of each step.
SPY = """
import json, pathlib, jax
from imgclass.data import feed
real = feed.StreamFeed._load
def load(self, step):
    made = real(self, step)
    path = pathlib.Path({folder!r}) / f"{{step}}-{{jax.process_index()}}"
    path.write_text(json.dumps([self._rows.tolist(), made["index"].tolist()]))
    return made
feed.StreamFeed._load = load
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_it_goes_on_in_another_number_of_processes(on_four, tmp_path, processes):
    data, whole = on_four
    folder, seen = stopped(whole, tmp_path / "run"), tmp_path / "seen"
    seen.mkdir()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    started, logs = [], []
    for number in range(processes):
        flags = ["--allow_config_change"]
        if processes > 1:
            flags += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
            flags += [f"--process_id={number}"]
        words = tiny.command(data, folder, CHANGES | {"train.devices": 0}, *flags)
        code = (
            f"import runpy, sys\n{SPY.format(folder=str(seen))}\nsys.argv = {words[1:]!r}\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        logs.append(tmp_path / f"log{number}")
        with open(logs[-1], "w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", code], env=tiny.environment(), cwd=tiny.ROOT,
                    stdout=log, stderr=log,
                )
            )  # fmt: skip
    try:
        codes = [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert codes == [0] * processes, "\n".join(log.read_text() for log in logs)
    for step in range(SAVED, TOTAL):
        found = [-1] * BATCH
        for number in range(processes):
            rows, indices = json.loads((seen / f"{step}-{number}").read_text())
            assert len(rows) == BATCH // processes
            for row, index in zip(rows, indices, strict=True):
                found[row] = index
        assert found == expected(step)
    assert_goes_on_alike(whole, folder)
