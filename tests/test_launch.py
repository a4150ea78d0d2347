"""launch/local.py, with real processes."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--processes=1", "--workdir=a"], "2 or more, or --restarts"),
        (["--processes=0", "--restarts=1", "--workdir=a"], "1 or more"),
        (["--processes=2"], "--workdir is needed"),
    ],
)
def test_what_the_launcher_refuses(flags, words):
    done = subprocess.run([*LAUNCH[:2], *flags], capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_dry_run_prints_the_commands():
    flags = ["--processes=2", "--dry_run", "--config=configs/cnn.py", "--workdir=runs/a b"]
    done = subprocess.run([*LAUNCH[:2], *flags], capture_output=True, text=True)
    first, second = (shlex.split(line) for line in done.stdout.splitlines())
    assert first[1:4] == [str(tiny.ROOT / "main.py"), *flags[2:]]
    assert first[-1] == "--process_id=0"
    assert second == [*first[:-1], "--process_id=1"]
    assert first[4].startswith("--coordinator=127.0.0.1:")
    assert first[5] == "--num_processes=2"


# Writes its tries to a file, and ends as the script says: a status, or a signal to itself.
TRIES = """
import os, pathlib, sys, time
number, script = sys.argv[1], sys.argv[2].split(",")
path = pathlib.Path("tries" + number)
tries = len(path.read_text()) if path.exists() else 0
path.write_text("x" * (tries + 1))
end = int(script[min(tries, len(script) - 1)])
if end < 0:
    os.kill(os.getpid(), -end)
    time.sleep(10)
sys.exit(end)
"""


@pytest.mark.parametrize(
    ("script", "restarts", "status", "tries", "said"),
    [
        ("1,75,69,0", 5, 0, 4, "ended with status 69"),
        ("-9,-6,0", 5, 0, 3, "was ended by SIGKILL"),
        ("-9", 2, 137, 3, "1 restarts left"),
        ("2,0", 5, 2, 1, "ended with status 2"),  # wrong usage is not mended by trying again
        ("1,0", 0, 1, 1, "ended with status 1"),
    ],
)
def test_what_failed_is_started_again(tmp_path, script, restarts, status, tries, said):
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(tiny.ROOT)!r})\n"
        "from launch import local\n"
        "local.GRACE = 1.0\n"
        f"local.commands = lambda *_: [[sys.executable, '-c', {TRIES!r}, n, s]\n"
        f"                             for n, s in (('0', '0'), ('1', {script!r}))]\n"
        f"sys.exit(local.run(2, [], {restarts}))\n"
    )
    done = subprocess.run(
        [sys.executable, str(launcher)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    assert len((tmp_path / "tries1").read_text()) == tries
    assert said in done.stderr
    assert "process 1 " in done.stderr


def child_of(parent, word):
    """Returns the process id of the child with that word in its command line."""
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = [c for c in children if word in pathlib.Path(f"/proc/{c}/cmdline").read_text()]
    return int(found)


def starts(folder):
    return len(json.loads((folder / "environment.json").read_text())["starts"])


@pytest.mark.slow
def test_a_killed_child_is_named_and_the_run_starts_again_to_the_same_end(tmp_path):
    changes = {
        "train.total_steps": 400, "train.devices": 0, "log.every_steps": 5,
        "checkpoint.every_steps": 20, "model.batch_norm": True, "data.feed": "stream",
    }  # fmt: skip
    data = tiny.archive(tmp_path)
    whole = launch(tiny.command(data, tmp_path / "whole", changes))
    assert whole.returncode == 0, whole.stderr
    command = tiny.command(data, tmp_path / "run", changes)
    with open(tmp_path / "log", "w+") as log:
        launcher = subprocess.Popen(
            [*LAUNCH, "--restarts=3", *command[2:]],
            env=tiny.environment(), cwd=tiny.ROOT, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            for kill, after in ((0, 20), (1, 60)):
                until = time.monotonic() + 120
                while not (steps := tiny.saved_steps(tmp_path / "run")) or steps[-1] < after:
                    assert launcher.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.02)
                before = starts(tmp_path / "run")
                os.kill(child_of(launcher.pid, f"--process_id={kill}"), signal.SIGKILL)
                while starts(tmp_path / "run") == before:
                    assert launcher.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.1)
            assert launcher.wait(timeout=240) == 0
        finally:
            launcher.terminate()
            launcher.wait()
        log.seek(0)
        said = log.read()
    assert said.count("starting again") == 2, said
    assert "process 0 was ended by SIGKILL" in said
    tiny.assert_same_bits(tiny.arrays(tmp_path / "whole"), tiny.arrays(tmp_path / "run"))
    assert tiny.records(tmp_path / "whole") == tiny.records(tmp_path / "run")
