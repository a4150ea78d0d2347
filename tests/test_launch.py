"""launch/local.py, with real processes."""

import json
import subprocess
import sys

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


def test_one_process_needs_no_launcher():
    done = subprocess.run([*LAUNCH[:2], "--processes=1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "2 or more" in done.stderr
