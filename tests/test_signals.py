"""Signals: how often they are asked about, and what they do when, in every phase of a run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from imgclass import build, checkpoint, parallel, scoring, signals, train
from imgclass.data import dataset, feed
from imgclass.plan import make_plan
from tests import tiny

WAITS = """
import logging, sys, time
from imgclass import signals
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with signals.catch_stop() as stop:
    {settle}
    print("ready", flush=True)
    {wait}
"""
# A compiler or a collective that Python's own handlers have to wait for: a mutex locked twice.
IN_C = (
    "import ctypes; lock, m = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)"
    "; lock(m); lock(m)"
)
WAIT = {"python": "while True: time.sleep(0.01)", "c": IN_C}


@pytest.mark.parametrize("wait", WAIT.values(), ids=WAIT)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_stops_at_once(number, wait):
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", WAITS.format(settle="stop.unsaved()", wait=wait)],
        cwd=tiny.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        said = process.stdout.readline()
        assert said.startswith(f"{number.name}: stopping")
        assert said.endswith("once more stops at once\n")
        time.sleep(0.2)
        assert process.poll() is None  # only asked
        process.send_signal(number)
        assert process.wait(timeout=10) == 128 + number  # as shells report it
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("settle", "status", "said"),
    [
        ("pass", 75, "SIGTERM: stopped before the first step; nothing to save"),
        ("stop.settle(signals.Preempted('all saved'))", 75, "all saved"),
        ("stop.unsaved()", 70, "SIGTERM: not stopped within 0.5 s (train.stop_seconds)"),
    ],
    ids=["nothing yet", "all saved", "not saved"],
)
def test_stuck_when_asked_to_stop_it_ends_all_the_same(settle, status, said):
    code = WAITS.format(settle=settle, wait=WAIT["c"])
    code = code.replace("catch_stop()", "catch_stop(0.5)").replace(
        "with signals", "signals.GRACE = 0.5\nwith signals"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=tiny.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(timeout=10) == status
        assert process.stderr is not None
        assert process.stderr.readline().startswith(said)


def test_off_the_main_thread_signals_are_left_alone():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    seen = []

    def work():
        with signals.catch_stop() as stop:
            seen.append(bool(stop))
            seen.extend(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, *before]


def test_a_stop_before_the_first_step_saved_nothing():
    stop = signals.StopRequest()
    assert not stop
    assert "a signal: stopped" in str(stop.too_early())  # another process's
    stop.name = "SIGTERM"
    error = stop.too_early()
    assert str(error) == "SIGTERM: stopped before the first step; nothing to save"
    assert error.exit_status == 75


@pytest.mark.parametrize(
    ("owner", "name"),
    [(dataset, "open_dataset"), (build, "make"), (build.Task, "initial_state")],
    ids=["data", "model", "state"],
)
def test_a_signal_before_the_first_step_ends_the_run_there(tmp_path, monkeypatch, owner, name):
    config = tiny.config(tiny.archive(tmp_path), {"train.total_steps": 2})
    real = getattr(owner, name)

    def asked(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, asked)
    monkeypatch.setattr(train.Trainer, "advance", None)  # not to be called
    words = "^SIGTERM: stopped before the first step; nothing to save$"
    with pytest.raises(signals.Preempted, match=words):
        train.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run").exists() == (name == "initial_state")  # its config is written then
    assert not (tmp_path / "run" / "checkpoints").exists()


PHASES = tiny.FULL | {
    "data.feed": "stream", "train.total_steps": 9, "eval.every_steps": 4, "eval.batch_size": 4,
    "checkpoint.every_steps": 3, "checkpoint.keep": 1, "eval.final_test": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def whole(programs, tmp_path_factory):
    """The data, and the run that no signal reached."""
    data = tiny.archive(tmp_path_factory.mktemp("data"))
    folder = tmp_path_factory.mktemp("whole")
    train.train_and_evaluate(tiny.config(data, PHASES), folder)
    return data, folder


def asking(real, when):
    """Returns `real`, which on the call that `when` holds for asks the process to stop first."""

    def asked(*args):
        if when(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.0)  # the wait that is given up
        return real(*args)

    return asked


@pytest.mark.parametrize(
    ("owner", "name", "when", "saved"),
    [
        (feed.StreamFeed, "batch", lambda self, step: step == 5, [5]),
        (train.Trainer, "advance", lambda self, state, step, count: step == 5, [5]),
        (feed.EvalFeed, "_load", lambda self, number: number == 2, [4]),
        (checkpoint, "_write_manifest", lambda path, step, record: step == 6, [6, 7, 8, 9]),
        (scoring.Scorer, "test", lambda *_: True, [9]),
        (train.runlog.RunLog, "finish", lambda *_: True, None),
    ],
    ids=["data", "step", "evaluation", "save", "test", "end"],
)
def test_a_signal_in_any_phase_saves_and_the_run_goes_on_to_the_same_end(
    whole, tmp_path, monkeypatch, owner, name, when, saved
):
    data, folder = whole
    config = tiny.config(data, PHASES)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, asking(getattr(owner, name), when))
        if saved is None:  # too late to be stopped, and nothing is left to be done
            train.train_and_evaluate(config, tmp_path)
            return
        with pytest.raises(signals.Preempted, match="SIGTERM: stopped after step"):
            train.train_and_evaluate(config, tmp_path)
    assert tiny.saved_steps(tmp_path)[-1] in saved
    train.train_and_evaluate(config, tmp_path)
    tiny.assert_same_bits(tiny.arrays(tmp_path), tiny.arrays(folder))
    assert tiny.records(tmp_path) == tiny.records(folder)
    results = [json.loads((path / "result.json").read_text()) for path in (folder, tmp_path)]
    assert results[0] | tiny.TIMINGS == results[1] | tiny.TIMINGS


def test_an_evaluation_cut_short_at_the_last_step_is_made_up_for(whole, tmp_path, monkeypatch):
    """Also by a run that is killed before it has said so in the checkpoint, and asked once more."""
    data, folder = whole
    config = tiny.config(data, PHASES)
    last = asking(feed.EvalFeed._load, lambda self, number: number == 0)
    for step in (4, 8, 9):
        with monkeypatch.context() as patch:
            patch.setattr(feed.EvalFeed, "_load", last)
            with pytest.raises(signals.Preempted, match=f"stopped after step {step} of 9"):
                train.train_and_evaluate(config, tmp_path)
        with monkeypatch.context() as patch:  # evaluates, and dies before it has noted that

            def killed(*_):
                raise KeyboardInterrupt

            patch.setattr(checkpoint.Checkpoints, "amend", killed)
            with pytest.raises(KeyboardInterrupt):
                train.train_and_evaluate(config, tmp_path)
        if step < 9:  # goes on to just before the next evaluation
            with monkeypatch.context() as patch:
                patch.setattr(
                    train.Trainer,
                    "advance",
                    asking(train.Trainer.advance, lambda self, state, at, n, s=step: at == s),
                )
                with pytest.raises(signals.Preempted, match=f"stopped after step {step} of 9"):
                    train.train_and_evaluate(config, tmp_path)
    train.train_and_evaluate(config, tmp_path)
    tiny.assert_same_bits(tiny.arrays(tmp_path), tiny.arrays(folder))
    assert tiny.records(tmp_path) == tiny.records(folder)
    record = checkpoint.Checkpoints(tmp_path / "checkpoints").record(9)
    before = checkpoint.Checkpoints(folder / "checkpoints").record(9)
    assert record | {"seconds": 0} == before | {"seconds": 0}


# A run that kills itself, by a signal that nothing can catch, at a moment that no timer would hit.
KILLS = {
    "compiling": """
import threading
from imgclass.trainer import Trainer
real = Trainer.advance
def advance(self, *args):
    threading.Timer(0.2, kill).start()
    return real(self, *args)
Trainer.advance = advance
""",
    "evaluating": """
from imgclass.data import feed
real = feed.EvalFeed._load
def load(self, number):
    return real(self, number) if number < 2 else kill()
feed.EvalFeed._load = load
""",
    "removing an old step": """
import pathlib, shutil
real = shutil.rmtree
def rmtree(path, *args, **options):
    if pathlib.Path(path).name == "0000000003" and pathlib.Path(path, "arrays").exists():
        real(pathlib.Path(path, "arrays", "d"))
        kill()
    return real(path, *args, **options)
shutil.rmtree = rmtree
""",
}


@pytest.mark.slow
def test_killed_at_chosen_moments_it_goes_on_to_the_same_end(tmp_path):
    data = tiny.archive(tmp_path)

    def train_in(name, patch=""):
        words = tiny.command(data, tmp_path / name, PHASES)
        code = (
            "import os, runpy, sys\ndef kill(*_): os.kill(os.getpid(), 9)\n"
            f"{patch}\nsys.argv = {words[1:]!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
        )
        return subprocess.run(
            [sys.executable, "-c", code], env=tiny.environment(), capture_output=True, text=True
        )

    assert train_in("whole").returncode == 0
    for name, patch in KILLS.items():
        done = train_in(name, patch)
        assert done.returncode == -signal.SIGKILL, (name, done.stderr)
        left = [path.name for path in (tmp_path / name / "checkpoints").glob("*")]
        assert ("0000000003" in left) == (name != "compiling"), name
        done = train_in(name)
        assert done.returncode == 0, (name, done.stderr)
        tiny.assert_same_bits(tiny.arrays(tmp_path / name), tiny.arrays(tmp_path / "whole"))
        assert tiny.records(tmp_path / name) == tiny.records(tmp_path / "whole"), name


@pytest.mark.parametrize(
    ("log", "dispatch", "expected"),
    [
        (1000, 1, [0, 50, 100, 150]),
        (1000, 16, [0, 64, 112, 160]),  # the first dispatch that ends at or after 50, 100, 150
        (40, 8, [0, 40, 56, 80, 104, 120, 152, 160]),
    ],
)
def test_processes_ask_each_other_often_enough(monkeypatch, log, dispatch, expected):
    config = tiny.config("unused", {"train.total_steps": 160, "log.every_steps": log})
    plan = make_plan(config, 50)
    asked = []
    monkeypatch.setattr(train.jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel, "any_process", lambda flag: bool(asked.append(step)))
    before = -1
    for step in range(0, 161, dispatch):
        assert not train._agreed(signals.StopRequest(), plan, before, step)
        before = step
    assert asked == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_tears_nothing(tmp_path, number):
    """Both come while a save is being written and the main thread sleeps in C."""
    patch = """
import pathlib, time
from imgclass import checkpoint
real = checkpoint._write_manifest
def write(target, step, record):
    if step == 6:
        pathlib.Path({there!r}).touch()
        time.sleep(30)
    real(target, step, record)
checkpoint._write_manifest = write
"""
    data, there = tiny.archive(tmp_path), tmp_path / "there"
    words = tiny.command(data, tmp_path / "run", PHASES)
    code = (
        f"import runpy, sys\n{patch.format(there=str(there))}\nsys.argv = {words[1:]!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=tiny.environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while not there.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        time.sleep(0.5)
        assert process.poll() is None  # it waits for the save
        began = time.monotonic()
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + number, said
    assert said.splitlines()[-1] == (
        f"{number.name} again: stopped at once; the last checkpoint stands"
    )
    assert tiny.saved_steps(tmp_path / "run")[-1] < 6
    again = subprocess.run(words, env=tiny.environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert checkpoint.verify(tmp_path / "run/checkpoints/0000000009")["step"] == 9
