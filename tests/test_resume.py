"""A run that was killed, anywhere, ends in the bits and records of one that was not.

A killed process leaves what it had written, so a copy of the run folder taken at some moment is
what a kill at that moment leaves. `snapshots` takes such copies of one run, at moments that cover
the loop and the inside of a save, and each is gone on from. Real kills are at the end.
"""

import contextlib
import json
import pathlib
import shutil
import signal
import subprocess
import time

import orbax.checkpoint as ocp
import pytest

from imgclass import checkpoint, run, train
from tests import tiny

CHANGES = tiny.FULL | {
    "train.total_steps": 13,
    "log.every_steps": 3,  # not aligned with the saves: a window of means is cut by most kills
    "eval.every_steps": 6,
    "checkpoint.every_steps": 4,
    "checkpoint.keep": 1,
    "eval.final_test": True,
}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a folder that is being written to: what vanishes meanwhile is left out."""
    with contextlib.suppress(shutil.Error):
        shutil.copytree(source, target)


def run_with_snapshots(config, folder: pathlib.Path, snapshots: pathlib.Path) -> None:
    """Trains, copying the folder at many moments; the copies' names say when."""
    count = 0

    def snap(name: str) -> None:
        nonlocal count
        count += 1
        copy(folder, snapshots / f"{count:03d}-{name}")

    def around(owner, name, before=True, after=True):
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if before:
                snap(f"before-{name}")
            result = real(*args, **kwargs)
            if after:
                snap(f"after-{name}")
            return result

        patch.setattr(owner, name, wrapped)

    with pytest.MonkeyPatch.context() as patch:
        around(train.Trainer, "advance", before=False)
        around(run.Records, "write", before=False)
        around(ocp.StandardCheckpointer, "save")
        around(checkpoint, "_write_manifest")
        around(checkpoint.Checkpoints, "_prune")
        around(run, "write_json", before=False)
        train.train_and_evaluate(config, folder)


def steps_of(folder: pathlib.Path) -> list[int]:
    return tiny.saved_steps(folder) if (folder / "checkpoints").exists() else []


@pytest.mark.parametrize("feed", ["resident", "stream"])
@pytest.mark.parametrize(
    "share", [pytest.param(17, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
def test_a_kill_anywhere_changes_nothing(data, tmp_path, feed, share):
    config = tiny.config(data, CHANGES | {"data.feed": feed})
    whole = tmp_path / "whole"
    run_with_snapshots(config, whole, tmp_path / "snapshots")
    expected, records = tiny.arrays(whole), tiny.records(whole)
    result = json.loads((whole / "result.json").read_text())
    copies = sorted((tmp_path / "snapshots").iterdir())
    assert len(copies) > 40
    # Every seventeenth, the two feeds not the same ones.
    for folder in copies[(feed == "stream") * (share // 2) :: share]:
        train.train_and_evaluate(config, folder)
        tiny.assert_same_bits(tiny.arrays(folder), expected)
        assert tiny.records(folder) == records, folder.name
        again = json.loads((folder / "result.json").read_text())
        assert again | tiny.TIMINGS == result | tiny.TIMINGS
        # Dying between the last save and the removal of older ones leaves one of those.
        assert set(steps_of(whole)) <= set(steps_of(folder))
        assert len(steps_of(folder)) <= len(steps_of(whole)) + 1


def test_snapshots_do_catch_a_save_half_done(data, tmp_path):
    """The control of the test above: some copies hold arrays without a manifest."""
    config = tiny.config(data, CHANGES)
    run_with_snapshots(config, tmp_path / "whole", tmp_path / "snapshots")
    half = [
        path
        for path in (tmp_path / "snapshots").glob("*/checkpoints/*")
        if not (path / "manifest.json").exists()
    ]
    assert half
    cut = [path for path in (tmp_path / "snapshots").iterdir() if steps_of(path) == [4]]
    assert any(max(r["step"] for r in tiny.records(path)) > 4 for path in cut)


def test_many_kills_in_one_run(data, tmp_path, monkeypatch):
    """Dies at every fourth step it does, so that it goes on two or three at a time."""
    config = tiny.config(data, CHANGES | {"checkpoint.every_steps": 2})
    train.train_and_evaluate(config, tmp_path / "a")
    real = train.Trainer.advance
    done = 0

    def advance(self, state, step, count):
        nonlocal done
        done += 1
        if done % 4 == 0:
            raise KeyboardInterrupt
        return real(self, state, step, count)

    monkeypatch.setattr(train.Trainer, "advance", advance)
    deaths = 0
    while True:
        try:
            train.train_and_evaluate(config, tmp_path / "b")
            break
        except KeyboardInterrupt:
            deaths += 1
    assert deaths >= 4
    tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(tmp_path / "b"))
    assert tiny.records(tmp_path / "a") == tiny.records(tmp_path / "b")


def test_going_back_from_a_damaged_checkpoint_changes_nothing(data, tmp_path, caplog):
    config = tiny.config(data, CHANGES | {"checkpoint.keep": 2})
    run_with_snapshots(config, tmp_path / "a", tmp_path / "snapshots")
    snapshot = next(
        path for path in sorted((tmp_path / "snapshots").iterdir()) if steps_of(path)[-1:] == [8]
    )
    damaged = max(
        (
            path
            for path in (snapshot / "checkpoints/0000000008/arrays").rglob("*")
            if path.is_file()
        ),
        key=lambda path: path.stat().st_size,
    )
    data_ = bytearray(damaged.read_bytes())
    data_[len(data_) // 2] ^= 1
    damaged.write_bytes(data_)
    train.train_and_evaluate(config, snapshot)
    assert "checkpoint of step 8 is damaged" in caplog.text
    tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(snapshot))
    assert tiny.records(tmp_path / "a") == tiny.records(snapshot)


def test_data_with_bad_files_is_gone_on_with_alike(tmp_path):
    root = tmp_path / "pictures"
    for seed, (split, n) in enumerate({"train": 20, "validation": 7}.items()):
        tiny.folder(root, split, n, seed=seed)
    (root / "train/class1/0004.png").write_bytes(b"not a picture")
    changes = {"data.bad_files": "skip", "data.test_split": "", "checkpoint.every_steps": 2,
               "data.standardize": "train", "data.feed": "stream"}  # fmt: skip
    config = tiny.config(root, changes)
    run_with_snapshots(config, tmp_path / "a", tmp_path / "snapshots")
    snapshot = next(
        p for p in sorted((tmp_path / "snapshots").iterdir()) if steps_of(p)[-1:] == [4]
    )
    train.train_and_evaluate(config, snapshot)
    tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(snapshot))
    assert tiny.records(tmp_path / "a") == tiny.records(snapshot)
    stored = json.loads((snapshot / "data.json").read_text())["splits"]["train"]
    assert (stored["examples"], stored["bad_files"][0]["name"]) == (19, "train/class1/0004.png")


# Real processes.

LONG = CHANGES | {"train.total_steps": 100, "checkpoint.every_steps": 7, "log.every_steps": 5,
                  "eval.every_steps": 60}  # fmt: skip


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, env=tiny.environment(), cwd=tiny.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen, condition) -> None:
    """Polls until `condition` holds; fails if the process ends before."""
    for _ in range(60_000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    raise AssertionError("never happened")


def finish(process: subprocess.Popen) -> int:
    error = process.communicate(timeout=240)[1]
    assert process.returncode in (0, 75), error
    return process.returncode


@pytest.mark.parametrize(
    ("feed", "kills"), [("stream", 1), pytest.param("resident", 4, marks=pytest.mark.slow)]
)
def test_real_kills_and_a_real_sigterm(data, tmp_path, feed, kills):
    changes = LONG | {"data.feed": feed}
    whole = start(tiny.command(data, tmp_path / "a", changes))
    command = tiny.command(data, tmp_path / "b", changes)
    folder = tmp_path / "b"

    for _ in range(kills):  # in mid-epoch, inside a save, with at least one behind it
        before = steps_of(folder)
        process = start(command)
        wait_for(process, lambda before=before: steps_of(folder) > before)
        seen = set(folder.glob("checkpoints/*/*tmp*"))
        wait_for(process, lambda seen=seen: set(folder.glob("checkpoints/*/*tmp*")) - seen)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    process = start(command)  # is asked to stop
    now = steps_of(folder)[-1]
    wait_for(process, lambda: steps_of(folder)[-1:] > [now])
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 75
    assert now < steps_of(folder)[-1] < LONG["train.total_steps"]

    assert finish(start(command)) == 0
    assert finish(whole) == 0
    tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(folder))
    assert tiny.records(tmp_path / "a") == tiny.records(folder)
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert len(starts) == kills + 2
