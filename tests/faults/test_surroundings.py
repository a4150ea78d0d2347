"""What happens around a run: clocks, cut logs, lost files, no network, other threads, odd names."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from imgclass import cli, train
from imgclass.data import load
from imgclass.data.digits import open_digits
from imgclass.errors import UserError
from tests import tiny
from tests.faults.places import NO_NETWORK, needs_namespaces, python


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


CHANGES = tiny.FULL | {"train.total_steps": 6, "checkpoint.every_steps": 2, "data.feed": "stream"}


@pytest.fixture(scope="module")
def usual(data, tmp_path_factory):
    """What an undisturbed run ends in."""
    folder = tmp_path_factory.mktemp("usual")
    train.train_and_evaluate(tiny.config(data, CHANGES), folder)
    return folder


def at_step(monkeypatch, step, happen):
    """Makes something happen when a run is about to take `step`."""
    real = train.Trainer.advance

    def advance(self, state, at, count):
        if at == step:
            happen()
        return real(self, state, at, count)

    monkeypatch.setattr(train.Trainer, "advance", advance)


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_changes_nothing(data, tmp_path, usual, monkeypatch, jump):
    real = time.time

    def set_clock():
        monkeypatch.setattr(time, "time", lambda: real() + jump)

    at_step(monkeypatch, 3, set_clock)
    train.train_and_evaluate(tiny.config(data, CHANGES), tmp_path)
    tiny.assert_same_bits(tiny.arrays(tmp_path), tiny.arrays(usual))
    assert tiny.records(tmp_path) == tiny.records(usual)


def test_logs_that_are_cut_or_removed_meanwhile_stop_nothing(
    data, tmp_path, usual, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)

    def cut():
        os.truncate(tmp_path / "log.txt", 10)
        (tmp_path / "metrics.jsonl").unlink()

    at_step(monkeypatch, 3, cut)
    train.train_and_evaluate(tiny.config(data, CHANGES), tmp_path)
    tiny.assert_same_bits(tiny.arrays(tmp_path), tiny.arrays(usual))
    assert "step 6/6" in (tmp_path / "log.txt").read_text()


def test_damaged_lines_of_the_log_are_left_out_and_said(data, tmp_path, usual, monkeypatch, caplog):
    def die():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 5, die)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(tiny.config(data, CHANGES), tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\xff" + lines[0] + b"".join(lines[1:]))
    train.train_and_evaluate(tiny.config(data, CHANGES), tmp_path)
    assert f"{path}: 1 damaged lines left out" in caplog.text
    assert tiny.records(tmp_path) == tiny.records(usual)[1:]


def test_other_threads_and_another_feed_go_on_with_the_same_batches(
    data, tmp_path, usual, monkeypatch
):
    def die():
        raise KeyboardInterrupt

    for step, changes in ((3, {}), (5, {"data.threads": 1, "data.prefetch": 1})):
        with monkeypatch.context() as patch:
            at_step(patch, step, die)
            with pytest.raises(KeyboardInterrupt):
                train.train_and_evaluate(
                    tiny.config(data, CHANGES | changes), tmp_path, allow_change=True
                )
    last = tiny.config(data, CHANGES | {"data.feed": "resident", "data.threads": 5})
    train.train_and_evaluate(last, tmp_path, allow_change=True)
    tiny.assert_same_bits(tiny.arrays(tmp_path), tiny.arrays(usual))
    assert tiny.records(tmp_path) == tiny.records(usual)


def test_a_picture_that_vanishes_while_training_is_named(tmp_path, monkeypatch):
    root = tiny.folder(tiny.folder(tmp_path / "p", "train", 40), "validation", 9, seed=1)
    changes = {"data.test_split": "", "data.feed": "stream", "train.batch_size": 1,
               "train.total_steps": 40, "data.prefetch": 1, "data.threads": 1}  # fmt: skip

    def remove():
        for path in root.glob("train/class1/*.png"):
            path.unlink()

    at_step(monkeypatch, 3, remove)
    with pytest.raises(UserError, match=r"cannot read .*train/class1/\d+\.png: No such file"):
        train.train_and_evaluate(tiny.config(root, changes), tmp_path / "run")


def test_a_decoding_thread_that_fails_ends_the_run_with_its_error(data, tmp_path, monkeypatch):
    """Threads cannot be killed alone: what can happen to one is an error, which has to arrive."""
    real = load.examples
    calls = []

    def loaded(*args, **named):
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError("decode")
        return real(*args, **named)

    monkeypatch.setattr(load, "examples", loaded)
    with pytest.raises(MemoryError, match="decode"):
        train.train_and_evaluate(tiny.config(data, CHANGES), tmp_path)


OPENS = "from imgclass.data.digits import open_digits; print(len(open_digits().splits['train']))"


@needs_namespaces
def test_the_default_data_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = python(OPENS, before=NO_NETWORK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1442\n", "")


def test_a_preparation_that_was_killed_is_done_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", OPENS], env=os.environ | tiny.environment(), cwd=tiny.ROOT
    )
    while not any(path.is_file() and path.stat().st_size for path in tmp_path.rglob("*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    train_split = open_digits().splits["train"]
    assert len(train_split) == 1442
    assert len(train_split.read(range(1442))) == 1442


ODD = ["a\nb", "caf\u00e9", "%s {0} $(touch evil) `x`", "-rf", "\x1b[2J", "a,b\"c'", "caf\udce9"]


def test_names_of_classes_files_and_folders_may_be_odd(tmp_path, monkeypatch):
    """Training, a restart, and every command over such names; the last is not even text."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "pictures \udce9\n"
    images, _ = tiny.pictures(4)
    for label in ODD:
        (root / label).mkdir(parents=True)
        for number, image in enumerate(images):
            (root / label / f"{number} {label}.png").write_bytes(tiny.png(image))
    (root / "-rf" / "bad\udce9.png").write_bytes(b"")
    changes = {"data.bad_files": "skip", "train.total_steps": 2, "data.validation_fraction": 0.25,
               "data.test_split": "", "checkpoint.every_steps": 1}  # fmt: skip
    workdir = tmp_path / "run %s {x} \u00e9\n$(touch evil)"
    before = set(tmp_path.iterdir())
    for _ in range(2):
        train.train_and_evaluate(tiny.config(root, changes), workdir)
    assert cli.main(["evaluate", str(workdir)]) == 0
    assert cli.main(["predict", str(workdir), str(root / "-rf" / "0 -rf.png"), "--json"]) == 0
    assert cli.main(["predict", str(workdir), str(root), "--output=out.csv"]) == 1  # one is bad
    assert set(tmp_path.iterdir()) - before == {workdir, tmp_path / "out.csv"}
    stored = json.loads((workdir / "data.json").read_text())
    assert stored["class_names"] == sorted(ODD)
    bad = [entry for about in stored["splits"].values() for entry in about["bad_files"]]
    assert [entry["name"] for entry in bad] == ["-rf/bad\udce9.png"]
