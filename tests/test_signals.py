"""Signals: how often they are asked about, and what they do when."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from imgclass import build, parallel, signals, train
from imgclass.data import dataset
from imgclass.plan import make_plan
from tests import tiny

WAITS = """
import logging, sys, time
from imgclass import signals
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with signals.catch_stop() as stop:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_stops_at_once(number):
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", WAITS],
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
        assert process.wait(timeout=10) == -number
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


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

    def asked(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(owner, name, asked)
    monkeypatch.setattr(train.Trainer, "advance", None)  # not to be called
    words = "^SIGTERM: stopped before the first step; nothing to save$"
    with pytest.raises(signals.Preempted, match=words):
        train.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run").exists() == (name == "initial_state")  # its config is written then
    assert not (tmp_path / "run" / "checkpoints").exists()


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
