"""Trials: told of validation, pruned, gone on with after a kill. Real runs and kills at the end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

optuna = pytest.importorskip("optuna")

from imgclass.sweep import declare, findings, pool, search, study  # noqa: E402
from tests import tiny  # noqa: E402
from tests.sweep import declared, processes  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
SPACE = "{'model.dropout': uniform(0.0, 0.5), 'model.hidden': choice((4,), (4, 4))}"
State = optuna.trial.TrialState


def made(folder, trials=3, more="sampler='random', pruner='none'", space=SPACE):
    found = declare.load(str(declared.file(folder, declared.search(space, trials, more))))
    root = declared.root(folder / "root")
    said = []
    begun = study.begin(found, root, "")
    return found, search.Trials(found, begun, root, True, said.append), said


def states(source):
    return [trial.state for trial in source.study.get_trials()]


def test_each_trial_runs_with_its_values_and_is_told_its_best_validation(tmp_path, monkeypatch):
    stub = declared.stub(
        tmp_path, monkeypatch, trial_0={"accuracy": [0.1, 0.4, 0.3]}, trial_1={"accuracy": [0.2]}
    )
    found, source, said = made(tmp_path)
    pool.run(source, 1)
    assert declared.starts(stub) == ["trial-0", "trial-1", "trial-2"]
    trials = source.study.get_trials()
    assert [trial.value for trial in trials] == [0.4, 0.2, 0.5]  # 0.5 is the stub's own
    assert trials[0].intermediate_values == {1: 0.1, 2: 0.4, 3: 0.3}
    assert said[0] == "trial-0: validation accuracy 0.4000"
    best = findings.write(found, source.study, tmp_path / "root")["best"]
    assert (best["trial"], best["accuracy"]) == (2, 0.5)


def test_a_trial_behind_the_median_is_stopped(tmp_path, monkeypatch):
    good = {"accuracy": [0.6, 0.7], "seconds": 0.1}
    plan = {f"trial_{number}": good for number in range(5)}  # the pruner waits for so many
    bad = {"accuracy": [0.1] * 50, "seconds": 60}
    stub = declared.stub(tmp_path, monkeypatch, **plan, trial_5=bad)
    _, source, said = made(tmp_path, 6, "sampler='random', pruner='median'")
    began = time.monotonic()
    pool.run(source, 1)
    assert time.monotonic() - began < 55
    assert states(source) == [State.COMPLETE] * 5 + [State.PRUNED]
    assert said[-1] == "trial-5: pruned"
    assert (tmp_path / "root" / "logs" / "trial-5.txt").read_text() == "saved\n"
    assert declared.starts(stub).count("trial-5") == 1


def test_one_that_fails_is_listed_and_counts(tmp_path, monkeypatch):
    declared.stub(tmp_path, monkeypatch, trial_0={"statuses": [1]}, trial_1={"accuracy": [None]})
    found, source, _ = made(tmp_path, 3)
    monkeypatch.setattr(pool, "POLL", 0.02)
    pool.run(source, 1)
    assert states(source)[0] == State.FAIL
    assert len(states(source)) == 3
    said = findings.write(found, source.study, tmp_path / "root")
    assert said["failed"]["trial-0"] == "status 1: no such luck"


def test_values_that_cannot_be_together_fail_the_trial(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch)
    space = "{'optim.name': choice('sgd', 'adam'), 'optim.momentum': uniform(0.1, 0.9)}"
    _, source, _ = made(tmp_path, 6, space=space)
    pool.run(source, 1)
    names = [trial.params["optim.name"] for trial in source.study.get_trials()]
    assert {"'sgd'", "'adam'"} == set(names)
    for trial in source.study.get_trials():
        adam = trial.params["optim.name"] == "'adam'"
        assert trial.state == (State.FAIL if adam else State.COMPLETE)
        if adam:
            assert "optim.momentum" in trial.user_attrs["reason"]
    assert len(declared.starts(stub)) == names.count("'sgd'")


def test_a_trial_left_running_is_gone_on_with(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch)
    _, dead, _ = made(tmp_path)
    job = dead.take()  # and its sweep is killed
    job.claim.close()
    _, source, said = made(tmp_path)
    pool.run(source, 1)
    assert said[0] == "trial-0: was left running; going on"
    assert states(source) == [State.COMPLETE] * 3
    assert declared.starts(stub) == ["trial-0", "trial-1", "trial-2"]


def test_a_trial_that_somebody_works_on_is_waited_for(tmp_path, monkeypatch):
    declared.stub(tmp_path, monkeypatch)
    monkeypatch.setattr(pool, "ASK", 0.1)
    _, other, _ = made(tmp_path, 2)
    job = other.take()
    _, source, _ = made(tmp_path, 2)
    mine = source.take()
    assert (job.name, mine.name) == ("trial-0", "trial-1")
    assert source.take() is None
    assert not source.over()
    subprocess.run([sys.executable, str(pool.MAIN), *job.words])
    with job.claim:
        other.ended(job, "")
    assert source.over()  # but for its own
    mine.claim.close()


def test_validations_are_those_written_so_far(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert search.validations(path, "accuracy") == []
    lines = [
        {"step": 1, "split": "train", "accuracy": 0.1},
        {"step": 1, "split": "validation", "accuracy": 0.2},
        {"step": 2, "split": "test", "accuracy": 0.9},
        {"step": 2, "split": "validation", "accuracy": 0.3},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "spl')
    assert search.validations(path, "accuracy") == [0.2, 0.3]


LONG = {"train.total_steps": 3000, "checkpoint.every_steps": 50, "eval.every_steps": 500}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_of_the_sweep_and_of_a_trial(tmp_path):
    data = tiny.archive(tmp_path)
    text = f"Search({f'{declared.CNN}:{data}'!r}, {SPACE}, trials=3, pruner='hyperband', "
    text += f"always={ {**declared.ALWAYS, **LONG}!r})"
    path, root = declared.file(tmp_path, text), tmp_path / "root"
    first = processes.sweep(path, root)
    processes.wait_for(lambda: len(tiny.saved_steps(root / "trial-0")) > 0)
    child = processes.holder(root / "trial-0")
    first.kill()
    first.wait()
    if processes.lives(child):
        os.kill(child, signal.SIGKILL)
    with (tmp_path / "said").open("w+") as log:
        assert processes.sweep(path, root, log=log).wait(timeout=300) == 0
        log.seek(0)
        said = log.read()
    assert "trial-0: was left running; going on" in said
    records = [r["step"] for r in tiny.records(root / "trial-0") if r["split"] == "validation"]
    assert records == list(range(500, 3001, 500))
    starts = json.loads((root / "trial-0" / "environment.json").read_text())["starts"]
    assert len(starts) == 2
    study_ = optuna.load_study(study_name="root", storage=f"sqlite:///{root}/study.db")
    trials = study_.get_trials()
    assert len(trials) == 3
    assert trials[0].state == State.COMPLETE
    assert {trial.state for trial in trials} <= {State.COMPLETE, State.PRUNED}
    assert trials[0].intermediate_values == {
        place: record["accuracy"]
        for place, record in enumerate(
            [r for r in tiny.records(root / "trial-0") if r["split"] == "validation"], 1
        )
    }
    for name in ("best.py", "trials.md", "history.svg"):
        assert (root / name).exists()
    assert not list(root.glob("*/test_looks.jsonl"))
    # And the best config is one that runs, on the test split too, as its base does.
    command = [sys.executable, str(tiny.ROOT / "main.py"), f"--config={root / 'best.py'}"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'best'}", "--config.train.total_steps=5"],
        env=tiny.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {r["split"] for r in tiny.records(tmp_path / "best")} == {"train", "validation", "test"}
