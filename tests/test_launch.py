"""launch/local.py, with real processes."""

import json
import os
import signal
import subprocess
import sys
import time

from tests import tiny

LAUNCH = [sys.executable, str(tiny.ROOT / "launch" / "local.py"), "--processes=2"]


def launch(command, **options):
    """Runs main.py's `command` through the launcher."""
    return subprocess.run(
        [*LAUNCH, *command[2:]],
        env=tiny.environment(),
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_two_processes_make_one_run(tmp_path):
    changes = {"train.total_steps": 3, "train.devices": 0}
    command = tiny.command(tiny.archive(tmp_path), tmp_path / "run", changes)
    done = launch(command)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 3
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert start["processes"] == 2


def test_the_status_of_a_failed_process_is_the_launchers(tmp_path):
    command = tiny.command(tmp_path / "missing.npz", tmp_path / "run", {"train.devices": 0})
    assert launch(command).returncode == 2


def test_ctrl_c_saves_and_the_status_says_so(tmp_path):
    """A terminal sends Ctrl-C to its whole foreground group, and once is enough for all."""
    changes = {"train.total_steps": 100_000, "train.devices": 0, "log.every_steps": 5}
    command = tiny.command(tiny.archive(tmp_path), tmp_path / "run", changes)
    with open(tmp_path / "log", "w+") as log:
        launcher = subprocess.Popen(
            [*LAUNCH, *command[2:]],
            env=tiny.environment(),
            cwd=tiny.ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            metrics = tmp_path / "run" / "metrics.jsonl"
            until = time.monotonic() + 90
            while not (metrics.exists() and metrics.read_text()):
                assert launcher.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            assert tiny.saved_steps(tmp_path / "run") == []
            os.killpg(launcher.pid, signal.SIGINT)
            status = launcher.wait(timeout=90)
        finally:
            launcher.terminate()
            launcher.wait()
        log.seek(0)
        assert status == 75, log.read()
    assert len(tiny.saved_steps(tmp_path / "run")) == 1


CHILD = """
import pathlib, signal, sys, time
number = sys.argv[1]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
pathlib.Path("ready" + number).touch()
while len(asked) < 2:
    time.sleep(0.02)
    if asked and number == sys.argv[2]:  # saves at once; the other takes its time
        sys.exit(75)
while True:
    time.sleep(1)
"""


def test_asked_to_stop_it_waits_and_asked_again_it_kills(tmp_path):
    """One child saves at once, the other never ends."""
    script = tmp_path / "launcher.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(tiny.ROOT)!r})\n"
        "from launch import local\n"
        "local.GRACE = 0.5\n"
        f"local.commands = lambda *_: [[sys.executable, '-c', {CHILD!r}, n, '0'] for n in '01']\n"
        "sys.exit(local.run(2, []))\n"
    )
    launcher = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path)
    try:
        until = time.monotonic() + 20
        while not all((tmp_path / f"ready{n}").exists() for n in "01"):
            assert time.monotonic() < until
            time.sleep(0.05)
        launcher.send_signal(signal.SIGTERM)
        time.sleep(1.5)  # three times GRACE
        assert launcher.poll() is None
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=10) == 75
    finally:
        launcher.terminate()
        launcher.wait()


def test_one_process_needs_no_launcher():
    done = subprocess.run([*LAUNCH[:2], "--processes=1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "2 or more" in done.stderr
