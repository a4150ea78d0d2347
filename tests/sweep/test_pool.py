"""Processes: as many as asked for, claimed once, started again after a kill, stopped cleanly.

A stub stands in for main.py; test_ablation.py has real runs and real kills.
"""

import os
import pathlib
import signal
import threading
import time

import pytest

from imgclass.errors import UserError
from imgclass.signals import Preempted
from imgclass.sweep import pool
from tests.sweep import declared


class Listed:
    """A source of named runs, which notes how each ended."""

    def __init__(self, folder: pathlib.Path, *names: str):
        self.folder, self.left, self.reasons = folder, list(names), {}

    def take(self):
        if not self.left:
            return None
        name = self.left.pop(0)
        claim = pool.claim(self.folder / "claims" / name)
        words = (f"--workdir={self.folder / name}",)
        return pool.Job(name, words, self.folder / f"{name}.txt", claim)

    def look(self, job):
        return job.name.startswith("stop") and (self.folder / job.name).exists()

    def ended(self, job, reason):
        self.reasons[job.name] = reason

    def over(self):
        return not self.left


def test_all_run_and_what_failed_says_why(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch, b={"statuses": [1]}, c={"statuses": [2]})
    source = Listed(tmp_path, "a", "b", "c", "d")
    pool.run(source, 2)
    assert source.reasons == {
        "a": "", "b": "status 1: no such luck", "c": "status 2: no such luck", "d": "",
    }  # fmt: skip
    assert sorted(declared.starts(stub)) == ["a", "b", "c", "d"]


def test_what_a_process_says_at_once_is_not_missed(tmp_path, monkeypatch):
    declared.stub(tmp_path, monkeypatch, a={"statuses": [1]})
    start = pool.subprocess.Popen

    def slow(*words, **settings):  # the sweep comes to itself when the child has ended
        child = start(*words, **settings)
        child.wait()
        return child

    monkeypatch.setattr(pool.subprocess, "Popen", slow)
    source = Listed(tmp_path, "a")
    pool.run(source, 1)
    assert source.reasons == {"a": "status 1: no such luck"}


def test_jobs_run_side_by_side_each_with_its_share_of_the_cores(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch, a={"seconds": 0.6}, b={"seconds": 0.6})
    before = os.sched_getaffinity(0)
    began = time.monotonic()
    pool.run(Listed(tmp_path, "a", "b"), 2)
    assert os.sched_getaffinity(0) == before
    cores = [int(line.split()[1]) for line in (stub / "starts.txt").read_text().splitlines()]
    if len(before) > 1:
        assert sum(cores) == len(before)
    assert time.monotonic() - began < 60


def test_a_killed_run_is_started_again_but_not_for_ever(tmp_path, monkeypatch):
    stub = declared.stub(
        tmp_path, monkeypatch, a={"statuses": [-9, 75, 0]}, b={"statuses": [-9, -9, -9, 0]}
    )
    source = Listed(tmp_path, "a", "b")
    pool.run(source, 1)
    assert source.reasons == {"a": "", "b": "ended by SIGKILL, 3 times"}
    assert declared.starts(stub) == ["a"] * 3 + ["b"] * 3


def test_a_run_that_is_told_to_stop_is_not_started_again(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch, **{"stop": {"seconds": 60}})
    source = Listed(tmp_path, "stop")
    pool.run(source, 1)
    assert source.reasons == {"stop": "status 75: saved"}
    assert declared.starts(stub) == ["stop"]


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)]
)
def test_a_signal_lets_runs_save_and_starts_no_more(number, error, tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch, a={"seconds": 60}, b={"seconds": 60})
    source = Listed(tmp_path, "a", "b", "c")

    def send():
        while len(declared.starts(stub)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(error):
        pool.run(source, 2)
    sender.join()
    assert source.left == ["c"]
    assert source.reasons == {}  # neither done nor failed: the same command goes on
    for name in "ab":
        assert (tmp_path / f"{name}.txt").read_text() == "saved\n"
        claim = pool.claim(tmp_path / "claims" / name)
        assert claim is not None
        claim.close()


def test_a_claim_is_held_by_whoever_works_on_it(tmp_path):
    path = tmp_path / "claims" / "a"
    held = pool.claim(path)
    assert pool.claim(path) is None
    child = os.dup(held.fileno())  # as a process inherits it
    held.close()
    assert pool.claim(path) is None
    os.close(child)
    again = pool.claim(path)
    assert again is not None
    again.close()


def test_a_claim_that_cannot_be_written(tmp_path):
    (tmp_path / "claims").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        pool.claim(tmp_path / "claims" / "a")


def test_an_error_of_the_source_stops_the_processes(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch, a={"seconds": 60})

    class Failing(Listed):
        def look(self, job):
            if declared.starts(stub):
                raise UserError("the storage is gone")
            return False

    with pytest.raises(UserError, match="the storage is gone"):
        pool.run(Failing(tmp_path, "a"), 1)
    assert (tmp_path / "a.txt").read_text() == "saved\n"
