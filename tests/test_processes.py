"""Two real processes train as one, fail as one, and one goes on with what two began.

And what becomes of the one when the other is killed, stuck, late or never comes.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from imgclass import run
from tests import tiny

CHANGES = {
    "model.batch_norm": True, "augment.flip": True, "optim.ema_decay": 0.9, "train.devices": 0,
    "train.total_steps": 12, "eval.every_steps": 5, "eval.batch_size": 5, "log.every_steps": 3,
    "checkpoint.every_steps": 4, "eval.final_test": True, "model.dropout": 0.2,
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def start(command: list[str], log) -> subprocess.Popen:
    return subprocess.Popen(
        command, env=tiny.environment(), cwd=tiny.ROOT, stdout=log, stderr=subprocess.STDOUT
    )


def start_two(data, workdir, changes, logs, *flags):
    joined = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", *flags]
    return [
        start(tiny.command(data, workdir, changes, *joined, f"--process_id={i}"), log)
        for i, log in enumerate(logs)
    ]


def wait(processes, logs, code=0):
    try:
        codes = [process.wait(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for log in logs:
        log.seek(0)
    texts = [log.read() for log in logs]
    assert codes == [code] * len(codes), "\n-----\n".join(texts)
    return texts


def assert_same_figures(a, b):
    assert [(r["step"], r["split"]) for r in a] == [(r["step"], r["split"]) for r in b]
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-5)
        assert left.get("examples") == right.get("examples")


def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    data = tiny.archive(tmp_path)  # 50, 13 and 11 pictures: no batch of 8 or 6 divides them
    logs = [open(tmp_path / f"log{i}", "w+") for i in range(4)]  # noqa: SIM115
    try:
        alone = start(tiny.command(data, tmp_path / "one", CHANGES), logs[2])
        two = tmp_path / "two"
        wait([alone], [logs[2]])
        texts = wait(start_two(data, two, CHANGES, logs[:2]), logs[:2])
        assert_same_figures(tiny.records(tmp_path / "one"), tiny.records(two))
        assert [r["examples"] for r in tiny.records(two) if "examples" in r] == [13, 13, 13, 11]
        # Only the lead says and writes anything.
        assert "step 12/12" in texts[0]
        assert "step 12/12" not in texts[1]
        assert sorted(path.name for path in two.iterdir()) == [
            "checkpoints", "config.json", "data.json", "environment.json", "lock", "log.txt",
            "metrics.jsonl", "result.json", "test_looks.jsonl",
        ]  # fmt: skip
        assert tiny.saved_steps(two) == tiny.saved_steps(tmp_path / "one")
        for name, value in tiny.arrays(tmp_path / "one").items():
            np.testing.assert_allclose(
                tiny.arrays(two)[name], value, rtol=1e-3, atol=1e-5, err_msg=name
            )

        # One process goes on where two stopped.
        longer = CHANGES | {"train.total_steps": 15}
        alone = start(tiny.command(data, two, longer, "--allow_config_change"), logs[3])
        wait([alone], [logs[3]])
        assert [r["step"] for r in tiny.records(two) if r["split"] == "train"] == [3, 6, 9, 12, 15]
        assert tiny.saved_steps(two)[-1] == 15
    finally:
        for log in logs:
            log.close()


# What process 1 would do alone is made to differ; each prints what it then met.
PAIR = """
import json, pathlib, sys
import jax, numpy as np
number, address, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize(address, 2, number)
from imgclass import checkpoint, parallel
from imgclass.errors import UsageError, UserError

met = {}

def meet(name, function):
    try:
        met[name] = function()
    except Exception as error:
        met[name] = [type(error).__name__, str(error), getattr(error, "exit_status", None)]

def fail(which, error):
    with parallel.together():
        if number == which:
            raise error

meet("nothing", lambda: fail(2, ValueError()))
meet("user", lambda: fail(0, UsageError("no such thing: \u00e9\\nsecond line")))
meet("bug", lambda: fail(1, KeyError("x")))
meet("told", lambda: parallel.on_lead(lambda: {"a": [1, None, 0.1 + number]}))
meet("lead fails", lambda: parallel.on_lead(lambda: 1 // number))
meet("same", lambda: parallel.check_same("config", "a"))
meet("other", lambda: parallel.check_same("config", "a" * number))

mesh = parallel.make_mesh(0, 2)
def state(value):
    return parallel.put_whole(mesh)({"w": np.full(3, value, np.float32)})
like = {"w": jax.ShapeDtypeStruct((3,), np.float32, sharding=parallel.whole(mesh))}
with checkpoint.Checkpoints(folder / "c") as saved:
    for step in (10, 20):
        saved.save(step, state(step), {"step": step}, None)
    saved.wait()
    # A stale view of a shared disk: neither the last manifest nor its step is there yet.
    steps, verify = saved.steps, checkpoint.verify
    if number == 1:
        saved.steps = lambda: steps()[:1]
        checkpoint.verify = lambda path: "stale"
    found = saved.restore(like)
    met["restored"] = [found[1]["step"], float(np.asarray(found[0]["w"].addressable_data(0))[0])]
    saved.steps, checkpoint.verify = steps, verify
    # The manifest is the lead's to write; the other learns of its failure where both wait.
    write = checkpoint._write_manifest
    def full(*_):
        raise OSError(28, "No space left on device")
    checkpoint._write_manifest = full
    saved.save(30, state(30), {}, None)
    meet("manifest", saved.wait)
    checkpoint._write_manifest = write
(folder / "file").touch()
with checkpoint.Checkpoints(folder / "file") as saved:
    meet("mkdir", lambda: saved.save(1, state(1), {}, None))
print(json.dumps(met))
"""


def test_two_processes_fail_as_one_and_restore_the_same(tmp_path):
    logs = [open(tmp_path / f"log{i}", "w+") for i in range(2)]  # noqa: SIM115
    try:
        address = f"127.0.0.1:{free_port()}"
        words = [[sys.executable, "-c", PAIR, str(i), address, str(tmp_path)] for i in range(2)]
        texts = wait([start(*both) for both in zip(words, logs, strict=True)], logs)
    finally:
        for log in logs:
            log.close()
    lead, other = (json.loads(text.splitlines()[-1]) for text in texts)
    assert lead["nothing"] is other["nothing"] is None
    assert lead["user"] == ["UsageError", "no such thing: \u00e9\nsecond line", 2]
    assert other["user"] == ["UserError", "process 0 failed: no such thing: \u00e9", 2]
    assert lead["bug"] == ["UserError", "process 1 failed: KeyError: 'x'", 1]
    assert other["bug"] == ["KeyError", "'x'", None]
    assert lead["told"] == other["told"] == {"a": [1, None, 0.1]}
    assert lead["lead fails"][0] == "ZeroDivisionError"
    assert other["lead fails"][1].startswith("process 0 failed: ZeroDivisionError: ")
    assert lead["same"] is other["same"] is None
    assert lead["other"] == other["other"]
    assert lead["other"][::2] == ["UsageError", 2]
    assert lead["other"][1].startswith("the processes differ in their config: that of process 1")
    assert lead["restored"] == other["restored"] == [20, 20.0]
    assert lead["manifest"][0] == other["manifest"][0] == "UserError"
    assert "No space left on device" in lead["manifest"][1]
    assert other["manifest"][1].startswith("process 0 failed: ")
    assert "No space left on device" in other["manifest"][1]
    assert "could not be written" in lead["mkdir"][1]
    assert other["mkdir"][1].startswith("process 0 failed: NotADirectoryError: ")


def test_a_start_refused_on_one_is_refused_on_both(tmp_path):
    data = tiny.archive(tmp_path)
    logs = [open(tmp_path / f"log{i}", "w+") for i in range(4)]  # noqa: SIM115
    try:
        with run.locked(tmp_path / "run"):
            texts = wait(start_two(data, tmp_path / "run", CHANGES, logs[:2]), logs[:2], code=1)
        assert f"in use by process {os.getpid()} on" in texts[0].splitlines()[-1]
        assert texts[1].splitlines()[-1].startswith("process 0 failed: ")
        assert "in use by process" in texts[1]

        joined = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
        processes = [
            start(tiny.command(data, tmp_path / "run", CHANGES | {"optim.lr": rate}, *joined,
                               f"--process_id={i}"), logs[2 + i])
            for i, rate in enumerate((0.1, 0.2))
        ]  # fmt: skip
        for text in wait(processes, logs[2:], code=2):
            assert text.splitlines()[-1].startswith("the processes differ in their config")
        assert not (tmp_path / "run").exists()
    finally:
        for log in logs:
            log.close()


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both_and_both_go_on(tmp_path):
    """Split parameters as well, so that each process saves and restores its own half."""
    data = tiny.archive(tmp_path)
    changes = CHANGES | {
        "train.total_steps": 300, "checkpoint.every_steps": 20, "log.every_steps": 10,
        "eval.every_steps": 100, "train.fsdp": True, "model.filters": (64,), "model.hidden": (64,),
    }  # fmt: skip
    logs = [open(tmp_path / f"log{i}", "w+") for i in range(6)]  # noqa: SIM115
    try:
        wait(start_two(data, tmp_path / "a", changes, logs[:2]), logs[:2])
        processes = start_two(data, tmp_path / "b", changes, logs[2:4])
        while not tiny.saved_steps(tmp_path / "b"):
            assert processes[0].poll() is None
            time.sleep(0.01)
        processes[1].send_signal(signal.SIGTERM)  # not the lead
        wait(processes, logs[2:4], code=75)
        assert tiny.saved_steps(tmp_path / "b")[-1] < 300
        wait(start_two(data, tmp_path / "b", changes, logs[4:]), logs[4:])
        tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(tmp_path / "b"))
        assert tiny.records(tmp_path / "a") == tiny.records(tmp_path / "b")
    finally:
        for log in logs:
            log.close()


# Faults. Main.py as it is, but for what a fault does to one of the two.

LASTING = CHANGES | {
    "train.total_steps": 100_000, "data.feed": "stream", "checkpoint.every_steps": 5,
    "eval.every_steps": 1000, "log.every_steps": 5, "train.stop_seconds": 10.0,
}  # fmt: skip


@contextlib.contextmanager
def two(tmp_path, changes, *flags, patches=("", "")):
    """Starts two processes, each after its own patch. Yields them, and what reads their logs."""
    joined = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", *flags]
    data, started, logs = tiny.archive(tmp_path), [], []
    try:
        for i, patch in enumerate(patches):
            words = tiny.command(data, tmp_path / "run", changes, *joined, f"--process_id={i}")
            code = (
                f"import runpy, sys\n{patch}\nsys.argv = {words[1:]!r}\n"
                "runpy.run_path(sys.argv[0], run_name='__main__')"
            )
            logs.append(tmp_path / f"log{i}")
            with open(logs[-1], "w") as log:
                started.append(start([sys.executable, "-c", code], log))
        yield started, lambda: [log.read_text() for log in logs]
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for_save(started, folder):
    until = time.monotonic() + 120
    while not tiny.saved_steps(folder):
        assert all(process.poll() is None for process in started)
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_frozen_process_is_named_and_ends_the_other_in_time(tmp_path, number):
    with two(tmp_path, LASTING, "--heartbeat_seconds=5") as (started, said):
        wait_for_save(started, tmp_path / "run")
        started[1].send_signal(number)
        began = time.monotonic()
        assert started[0].wait(timeout=60) == 69, said()[0]
        assert time.monotonic() - began < 5 + 10 + 10  # the bound, and a busy machine
        line = "process 1 failed: lost, no sign of life for 5 s"
        assert line in said()[0].splitlines()
        assert line in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_a_killed_process_0_ends_the_other_at_once(tmp_path):
    """It holds the store through which the others learn all else."""
    with two(tmp_path, LASTING, "--heartbeat_seconds=5") as (started, said):
        wait_for_save(started, tmp_path / "run")
        started[0].kill()
        began = time.monotonic()
        assert started[1].wait(timeout=60) == 69, said()[1]
        assert time.monotonic() - began < 10
        line = "process 0 failed: lost, its connection from 127.0.0.1 broke"
        assert line in said()[1].splitlines()


@pytest.mark.slow
def test_without_heartbeats_the_watchdog_ends_the_one_that_waits(tmp_path):
    changes = LASTING | {"train.stall_seconds": 6.0}
    with two(tmp_path, changes, "--heartbeat_seconds=1000") as (started, said):
        wait_for_save(started, tmp_path / "run")
        started[1].send_signal(signal.SIGSTOP)
        assert started[0].wait(timeout=60) == 70, said()[0]
        assert "no progress for 6 s (train.stall_seconds) in: " in said()[0]
        assert "(most recent call first)" in said()[0]


# By then the other one waits in that collective: of a save, or of the agreement on what comes next.
DIES = """
import os, time
from jax.experimental import multihost_utils
real, calls = multihost_utils.process_allgather, []
def process_allgather(*args, **kwargs):
    calls.append(0)
    if len(calls) == {call}:
        time.sleep(1)
        os.kill(os.getpid(), 9)
    return real(*args, **kwargs)
multihost_utils.process_allgather = process_allgather
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", [40, 60])
def test_a_process_lost_in_a_collective_is_named(tmp_path, call):
    """JAX raises a ValueError there and no error of its own."""
    patches = ["", DIES.format(call=call)]
    with two(tmp_path, LASTING, "--heartbeat_seconds=5", patches=patches) as (started, said):
        assert started[1].wait(timeout=150) == -9, said()[1]
        assert started[0].wait(timeout=60) == 69, said()[0]
        assert "process 1 failed: lost, no sign of life for 5 s" in said()[0].splitlines()


# At step 12, outside everything that the processes do together.
FAILS = """
from imgclass.data import feed
from imgclass.errors import UserError
real = feed.StreamFeed._load
def load(self, step):
    if step == 12:
        raise {error}
    return real(self, step)
feed.StreamFeed._load = load
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("UserError('bad.png: truncated')", "bad.png: truncated"),
        ("KeyError('x')", "KeyError: 'x'"),
    ],
    ids=["user", "bug"],
)
def test_the_failure_of_one_reaches_the_other_soon(tmp_path, which, error, line):
    patches = ["", ""]
    patches[which] = FAILS.format(error=error)
    with two(tmp_path, LASTING, patches=patches) as (started, said):
        assert started[which].wait(timeout=150) == 1, said()[which]
        began = time.monotonic()
        assert started[1 - which].wait(timeout=60) == 1, said()[1 - which]
        assert time.monotonic() - began < 20  # far from the 60 s of a heartbeat
        assert line in said()[which]
        assert f"process {which} failed: {line}" in said()[1 - which].splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["compile", "evaluation"])
def test_asked_to_stop_in_any_phase_both_stop(tmp_path, phase):
    """A signal to the process that does not lead, while it does not look."""
    slow = """
import time
from imgclass.{module} import {owner}
real = {owner}.{name}
def slowly(self, *args):
    {marker}.touch()
    time.sleep({seconds})
    return real(self, *args)
{owner}.{name} = slowly
"""
    marker = tmp_path / "there"
    where = {
        "compile": {"module": "trainer", "owner": "Trainer", "name": "advance", "seconds": 600},
        "evaluation": {"module": "data.feed", "owner": "EvalFeed", "name": "_load", "seconds": 1},
    }[phase]
    patch = slow.format(marker=f"__import__('pathlib').Path({str(marker)!r})", **where)
    changes = LASTING | {"eval.every_steps": 8, "eval.batch_size": 2}
    with two(tmp_path, changes, patches=(patch, patch)) as (started, said):
        until = time.monotonic() + 120
        while not marker.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1.0)
        started[1].terminate()
        began = time.monotonic()
        statuses = [process.wait(timeout=100) for process in started]
        assert statuses == [75, 75], "\n-----\n".join(said())
        assert time.monotonic() - began < 60
    saved = tiny.saved_steps(tmp_path / "run")
    assert saved == [] if phase == "compile" else saved


def test_a_process_that_does_not_come_is_not_waited_for_longer_than_said(tmp_path):
    changes = CHANGES
    with two(tmp_path, changes, "--join_seconds=5", patches=[""]) as (started, said):
        assert started[0].wait(timeout=60) == 69
        (line,) = [line for line in said()[0].splitlines() if "came" in line]
        assert line.startswith("not all processes came within 5 s (process 0 of 2, coordinator 127")
    assert not (tmp_path / "run").exists()


LATE = """
import time, jax
from jax._src import distributed
real = distributed.State.initialize
def initialize(self, *args, **kwargs):
    real(self, *args, **kwargs)
    time.sleep(35)
distributed.State.initialize = initialize
"""


@pytest.mark.slow
def test_a_process_may_be_late_for_the_first_collective(tmp_path):
    """Gloo waits 30 s for a connection, and the 300 s of JAX are over when all have met."""
    with two(tmp_path, CHANGES, patches=["", LATE]) as (started, said):
        statuses = [process.wait(timeout=200) for process in started]
        assert statuses == [0, 0], "\n-----\n".join(said())


@pytest.mark.slow
def test_process_0_fills_the_cache_and_the_other_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    data = tiny.archive(tmp_path)
    changes = CHANGES | {"data.cache": "raw", "data.feed": "stream"}
    logs = [open(tmp_path / f"log{i}", "w+") for i in range(4)]  # noqa: SIM115
    try:
        wait([start(tiny.command(data, tmp_path / "plain", CHANGES), logs[2])], [logs[2]])
        texts = wait(start_two(data, tmp_path / "two", changes, logs[:2]), logs[:2])
        assert [text.count("decoding 50 training pictures") for text in texts] == [1, 0]
        assert_same_figures(tiny.records(tmp_path / "plain"), tiny.records(tmp_path / "two"))
    finally:
        for log in logs:
            log.close()
