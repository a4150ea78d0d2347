"""Runs that make no progress, and what ends them."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from imgclass import watchdog
from tests import tiny

LEAVES = """
import sys, threading, time
from imgclass import watchdog
watchdog.LOG_SECONDS = 0.5
with watchdog.Watchdog(float(sys.argv[1]), eval(sys.argv[2])) as watch:
    for number in range(5):
        watch.mark(f"step {number}")
        time.sleep(0.2)
    if sys.argv[3] == "hang":
        threading.Event().wait()
    if sys.argv[3] == "again":
        for _ in range(12):
            time.sleep(0.1)
print("ended by itself")
"""


def watched(seconds, tell, then):
    command = [sys.executable, "-c", LEAVES, str(seconds), tell, then]
    return subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True, timeout=60)


def test_no_mark_for_too_long_ends_the_process_with_all_stacks():
    done = watched(0.6, "lambda line, status: print('told', status, line[:20], flush=True)", "hang")
    assert done.returncode == 70
    assert done.stderr.startswith("no progress for 0.6 s (train.stall_seconds) in: step 4. Ending")
    assert "(most recent call first)" in done.stderr
    assert done.stderr.count("hread 0x") >= 2
    assert " in wait\n" in done.stderr  # where the main thread hangs
    assert done.stdout == "told 70 no progress for 0.6 \n"


def test_the_telling_may_hang_too():
    assert watched(0.6, "lambda *_: time.sleep(100)", "hang").returncode == 70


@pytest.mark.parametrize("seconds", [0, 1.5])
def test_marks_in_time_or_no_limit_leave_it_alone(seconds):
    done = watched(seconds, "None", "again")
    assert (done.returncode, done.stdout) == (0, "ended by itself\n")


def test_nothing_is_watched_before_the_first_mark(monkeypatch):
    left = []
    monkeypatch.setattr(watchdog, "leave", lambda *args, **_: left.append(args))
    with watchdog.Watchdog(0.05):
        time.sleep(0.3)
    assert left == []
    with watchdog.Watchdog(0.05) as watch:  # the control
        watch.mark("a")
        time.sleep(0.3)
    assert left


# Whole runs. Main.py as it is, but for one thing that hangs.
HANGS = {
    # A pipe that nobody writes to, as a file on a disk that does not answer.
    "read": """
from imgclass.data import feed
real = feed.StreamFeed._load
def load(self, step):
    return real(self, step) if step < 5 else open({fifo!r}).read()
feed.StreamFeed._load = load
""",
    "evaluation": """
from imgclass.data import feed
real = feed.EvalFeed._load
def load(self, number):
    return real(self, number) if number < 1 else open({fifo!r}).read()
feed.EvalFeed._load = load
""",
}
CHANGES = {
    "data.feed": "stream", "train.total_steps": 50, "checkpoint.every_steps": 2,
    "eval.every_steps": 7, "eval.batch_size": 4, "train.stall_seconds": 8.0,
    "train.stop_seconds": 4.0,
}  # fmt: skip


def hanging(tmp_path, where, changes=()):
    """Returns the command of a run that hangs in `where`, and its folder."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    changes = CHANGES | dict(changes)
    command = tiny.command(tiny.archive(tmp_path), tmp_path / "run", changes)
    code = (
        f"import runpy, sys\n{HANGS[where].format(fifo=str(fifo))}\n"
        f"sys.argv = {command[1:]!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-c", code], tmp_path / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "doing", "saved"),
    [
        ("read", "step 6", 4),
        ("evaluation", "validation of step 7, batch 1", 6),
    ],
)
def test_a_run_that_hangs_ends_says_where_and_goes_on(tmp_path, where, doing, saved):
    command, folder = hanging(tmp_path, where)
    done = subprocess.run(
        command, env=tiny.environment(), cwd=tiny.ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 70, done.stderr
    log = (folder / "log.txt").read_text()
    for text in (done.stderr, log):
        assert f"no progress for 8 s (train.stall_seconds) in: {doing}. Ending" in text
        assert "in load\n" in text.replace("<string>", "")  # the thread that reads
    assert tiny.saved_steps(folder)[-1] == saved
    changes = CHANGES | {"train.total_steps": 9}
    again = tiny.command(tmp_path / "pictures.npz", folder, changes, "--allow_config_change")
    assert subprocess.run(again, env=tiny.environment(), capture_output=True).returncode == 0
    assert tiny.saved_steps(folder)[-1] == 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "status", "saved"),
    [
        # What hangs is given up; the threads that hang do not keep the process.
        ("read", 75, 5),
        # As long as Python waits for the hanging thread of an evaluation nothing can be saved.
        ("evaluation", 70, 6),
    ],
)
def test_asked_to_stop_while_it_hangs_it_stops_in_bounded_time(tmp_path, where, status, saved):
    command, folder = hanging(tmp_path, where, {"train.stall_seconds": 0.0})
    process = subprocess.Popen(
        command, env=tiny.environment(), cwd=tiny.ROOT, stderr=subprocess.PIPE, text=True
    )
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        until = time.monotonic() + 60
        last = '"step": 5,' if where == "read" else '"step": 7,'
        while (
            not (folder / "metrics.jsonl").exists()
            or last not in (folder / "metrics.jsonl").read_text()
        ):
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(1.0)
        process.terminate()
        began = time.monotonic()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == status, said
    assert time.monotonic() - began < 4 + 10 + 10  # stop_seconds, GRACE, and a busy machine
    assert tiny.saved_steps(folder)[-1] == saved


def test_work_of_any_length_is_not_watched(monkeypatch):
    left = []
    monkeypatch.setattr(watchdog, "leave", lambda line, *_, **__: left.append(line))
    with watchdog.Watchdog(0.1) as watch:
        watch.mark("before")
        watch.rest()
        time.sleep(0.4)
        assert left == []
        watch.mark("after")
        time.sleep(0.4)
    assert "after" in left[0]
