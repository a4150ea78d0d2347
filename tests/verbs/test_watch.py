"""`imgclass watch`: once, in lines, on a terminal; how it ends, and with which status."""

import fcntl
import json
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from imgclass import cli
from imgclass import config as config_lib
from imgclass.verbs import watch
from tests import tiny

RECORDS = [
    {"step": 4, "epoch": 0.67, "split": "train", "loss": 0.9, "accuracy": 0.5,
     "images_per_second": 40.0, "data_wait": 0.25},
    {"step": 4, "epoch": 0.67, "split": "validation", "loss": 0.8, "accuracy": 0.625},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A run that was killed after 4 of 12 steps."""
    made = tmp_path / "cnn-1"
    made.mkdir()
    config = tiny.config("unused", {"train.total_steps": 12})
    (made / "config.json").write_text(config_lib.to_json(config))
    (made / "data.json").write_text(json.dumps({"splits": {"train": {"examples": 48}}}))
    (made / "lock").write_text("1 on host")
    (made / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
    return made


def finish(folder):
    (folder / "result.json").write_text('{"steps": 12}')


def test_once(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert cli.main(["watch", str(folder), "--once"]) == 0
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert lines[0].endswith("  stopped")
    assert "step 4/12  33%  epoch 0.67" in lines
    assert max(map(len, lines)) <= 40
    assert "\x1b" not in "".join(lines)


def test_json(folder, capsys):
    assert cli.main(["watch", str(folder), "--once", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    view = json.loads(line)
    assert view.pop("age_seconds") >= 0.0
    assert view == {
        "run": str(folder), "state": "stopped", "step": 4, "total": 12, "epoch": 4 * 8 / 48,
        "eta_seconds": None, "images_per_second": 40.0, "data_wait": 0.25, "silent": False,
        "best_metric": "accuracy", "train": RECORDS[0], "validation": RECORDS[1],
        "best": RECORDS[1],
    }  # fmt: skip


def test_it_ends_with_the_run(folder, capsys, monkeypatch):
    """Where nobody looks at a screen: a line for each change, the last frame, and nothing twice."""
    sleeps = []

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 2:
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(RECORDS[0] | {"step": 12}) + "\n")
        if len(sleeps) == 4:
            finish(folder)

    monkeypatch.setattr(watch.time, "sleep", sleep)
    assert cli.main(["watch", str(folder)]) == 0
    out = capsys.readouterr().out
    assert [line.split(",")[1] for line in out.splitlines() if line.startswith(f"{folder}:")] == [
        " step 4/12", " step 12/12", " step 12/12",
    ]  # fmt: skip
    assert "finished" in out
    assert sleeps == [watch.REFRESH] * 4


def test_a_run_that_stays_dead_is_left_with_status_1(folder, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    assert cli.main(["watch", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    assert now[0] == watch.PATIENCE


def test_an_imported_run_is_not_waited_for(folder, capsys):
    (folder / "metrics.jsonl").unlink()
    (folder / "data.json").write_text(json.dumps({"splits": {"train": {"examples": 0}}}))
    assert cli.main(["watch", str(folder)]) == 0
    assert "no training to watch" in capsys.readouterr().out


def test_what_is_no_run_is_an_error(tmp_path, capsys):
    assert cli.main(["watch", str(tmp_path / "nowhere"), "--once"]) == 1
    assert "there is no such folder" in capsys.readouterr().err


# A shell that runs the tests in the background has SIGINT ignored; one at a terminal has not.
AT_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from imgclass import cli
cli.console()
"""


def on_terminal(folder, columns, **environment):
    """Starts the command on a terminal; returns the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, "watch", str(folder)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=plain | {"TERM": "xterm", "PYTHONPATH": str(tiny.ROOT)} | environment,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(terminal, words, seconds=60.0):
    text, end = "", time.monotonic() + seconds
    while words not in text and time.monotonic() < end:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                text += os.read(terminal, 65536).decode()
            except OSError:  # closed
                break
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_given_back_however_it_ends(folder, number):
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process, terminal = on_terminal(folder, 40)
        text = read_until(terminal, "accuracy")
        process.send_signal(number)
        text += read_until(terminal, "\x00", 30.0)  # to the end: unread, it would fill and block
        assert process.wait(20) == 128 + number
        os.close(terminal)
    assert text.startswith("\x1b[?1049h")
    assert text.count("\x1b[?25h\x1b[?1049l") == 1
    assert "Traceback" not in text
    assert "\x1b[36m" in text  # colours


def test_on_a_terminal_without_colours_it_ends_with_the_run(folder):
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process, terminal = on_terminal(folder, 40, NO_COLOR="1")
        text = read_until(terminal, "accuracy")
        assert "running" in text
        finish(folder)
    text += read_until(terminal, "\x00", 30.0)
    assert process.wait(20) == 0
    os.close(terminal)
    screen, after = text.rsplit("\x1b[?1049l", 1)  # the last frame stays
    assert "finished" in after
    assert "\x1b[3" not in text
    assert "step 4/12  33%" in screen


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys; from imgclass import cli; "
        "from imgclass.watch import frame, look; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'flax', 'numpy'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
