"""An ablation is finished by whatever starts it, once; real runs and real kills at the end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from imgclass import cli
from imgclass.sweep import Ablation, ablation, declare, pool, runs
from tests import tiny
from tests.sweep import declared, processes

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
CHANGES = {"plain": {}, "drop": {"model.dropout": 0.5}}


def made(folder, changes=CHANGES, seeds=2):
    always = declared.ALWAYS
    each = runs.of_ablation(Ablation(declared.CNN, changes, seeds, always), folder / "root")
    return ablation.Missing(each, folder / "root", "accuracy", lambda line: None)


def test_what_is_missing_runs_and_what_is_done_does_not(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch)
    pool.run(made(tmp_path, seeds=1), 1)
    assert declared.starts(stub) == ["plain-0", "drop-0"]
    pool.run(made(tmp_path), 1)
    assert declared.starts(stub) == ["plain-0", "drop-0", "plain-1", "drop-1"]


def test_one_that_fails_stops_no_other_and_is_tried_again_next_time(tmp_path, monkeypatch):
    stub = declared.stub(tmp_path, monkeypatch, plain_0={"statuses": [1, 0]})
    source = made(tmp_path)
    pool.run(source, 1)
    assert source.failed == {"plain-0": "status 1: no such luck"}
    assert len(declared.starts(stub)) == 4
    source = made(tmp_path)
    pool.run(source, 1)
    assert source.failed == {}
    assert declared.starts(stub)[4:] == ["plain-0"]


def test_two_sweeps_share_the_runs_and_what_failed(tmp_path, monkeypatch):
    """Two sources as two processes would have them: claims are of open files, not of processes."""
    plan = {name: {"seconds": 0.3} for name in ("plain_0", "plain_1", "plain_2", "plain_3")}
    stub = declared.stub(tmp_path, monkeypatch, **plan, drop_0={"statuses": [1]})
    monkeypatch.setattr(pool, "ASK", 0.1)
    first, second = made(tmp_path, seeds=4), made(tmp_path, seeds=4)
    turns = iter([first, second] * 8)
    jobs = []
    while True:  # by turns, until both have nothing to take
        job = next(turns).take()
        if job is None:
            break
        jobs.append(job)
    assert sorted(job.name for job in jobs) == sorted(one for one in first._runs)
    for number, job in enumerate(jobs):
        mine = (first, second)[number % 2]
        subprocess.run([sys.executable, str(pool.MAIN), *job.words], capture_output=True)
        with job.claim:
            mine.ended(job, "status 1" if job.name == "drop-0" else "")
    pool.run(first, 1)
    pool.run(second, 1)
    assert sorted(declared.starts(stub)) == sorted(first._runs)
    assert first.failed == second.failed == {"drop-0": "status 1"}


LONG = {"train.total_steps": 4000, "checkpoint.every_steps": 50, "eval.every_steps": 500}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_of_the_sweep_and_of_a_run_and_two_at_once(tmp_path):
    data = tiny.archive(tmp_path)
    path = declared.file(tmp_path, declared.ablation(CHANGES, 2, str(data), LONG))
    root = tmp_path / "root"
    first = processes.sweep(path, root)
    processes.wait_for(lambda: len(tiny.saved_steps(root / "plain-0")) > 0)
    child = processes.holder(root / "plain-0")
    first.kill()
    first.wait()
    assert processes.lives(child)  # what was begun goes on, and is still claimed
    with (tmp_path / "second").open("w+") as log:
        both = [processes.sweep(path, root, log=log), processes.sweep(path, root, "--json")]
        time.sleep(1)
        if processes.lives(child):
            os.kill(child, signal.SIGKILL)  # and is gone on with when it is killed as well
        assert [one.wait(timeout=300) for one in both] == [0, 0]
        log.seek(0)
        said = log.read()
    assert "| plain | 2 |" in said
    assert "| drop | 2 |" in said
    total = 0
    for name in ("plain-0", "plain-1", "drop-0", "drop-1"):
        records = [r["step"] for r in tiny.records(root / name) if r["split"] == "validation"]
        assert records == list(range(500, 4001, 500))
        total += len(json.loads((root / name / "environment.json").read_text())["starts"])
    assert total == 5  # each once, and the one that was killed once more
    assert (root / "plot.svg").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_the_children_and_the_same_command_goes_on(number, status, tmp_path):
    path = declared.file(tmp_path, declared.ablation({"plain": {}}, 1, always=LONG))
    root = tmp_path / "root"
    begun = processes.sweep(path, root)
    processes.wait_for(lambda: len(tiny.saved_steps(root / "plain-0")) > 0)
    child = processes.holder(root / "plain-0")
    begun.send_signal(number)
    assert begun.wait(timeout=200) == status
    assert not processes.lives(child)
    assert tiny.saved_steps(root / "plain-0")
    assert not (root / "plain-0" / "result.json").exists()
    assert processes.sweep(path, root).wait(timeout=300) == 0
    starts = json.loads((root / "plain-0" / "environment.json").read_text())["starts"]
    assert len(starts) == 2


@pytest.mark.slow
def test_the_table_names_changes(tmp_path):
    """Real tiny runs, in this process: `compare` wants whole run folders."""
    from imgclass import train

    data = tiny.archive(tmp_path)
    path = declared.file(tmp_path, declared.ablation(CHANGES, 2, str(data)))
    root = tmp_path / "root"
    with tiny.compiled_once(tmp_path / "programs"):
        found = declare.load(str(path))
        for one in runs.of_ablation(found, root):
            train.train_and_evaluate(one.config, one.folder)
        table = ablation.finish(found, runs.of_ablation(found, root), root)
    assert {row.settings for row in table.rows} == {("plain",), ("drop",)}
    assert table.keys == ("change",)
    by_name = {row.settings[0]: row for row in table.rows}
    assert by_name["plain"].verdict == "baseline"
    for name, row in by_name.items():
        results = [json.loads((root / f"{name}-{s}" / "result.json").read_text()) for s in (0, 1)]
        assert list(row.values) == [r["best"]["accuracy"] for r in results]
    assert "| change | n | mean |" in (root / "table.md").read_text()
    assert "<svg" in (root / "plot.svg").read_text()
    assert not list(root.glob("*/test_looks.jsonl"))
    assert all("test" not in {r["split"] for r in tiny.records(f)} for f in root.glob("*-[01]"))


def test_nothing_is_started_where_a_folder_holds_another_run(tmp_path, monkeypatch, capsys):
    stub = declared.stub(tmp_path, monkeypatch)
    from imgclass import config as config_lib

    path = declared.file(tmp_path, declared.ablation(CHANGES, 1))
    old = tmp_path / "root" / "drop-0"
    old.mkdir(parents=True)
    config = runs.parse(declared.CNN, {**declared.ALWAYS, "model.dropout": 0.4})
    (old / "config.json").write_text(config_lib.to_json(config))
    assert cli.main(["sweep", str(path), f"--root={tmp_path / 'root'}"]) == 2
    assert "model.dropout: 0.4 then, 0.5 now" in capsys.readouterr().err
    assert declared.starts(stub) == []


def of(root, changes, seeds=2, **always):
    declared_ = Ablation(declared.CNN, changes, seeds, {**declared.STEPS, **always})
    return declared_, {one.name: one for one in runs.of_ablation(declared_, root)}


def test_a_table_without_the_first_change_says_so_and_names_what_is_missing(tmp_path):
    changes = {"bad": {"model.dropout": 0.1}, **CHANGES, "late": {"model.dropout": 0.2}}
    found, each = of(tmp_path, changes)
    for name, right in (("plain-0", 15), ("plain-1", 16), ("drop-1", 18)):
        declared.finished(each[name], right)
    table = ablation.finish(found, list(each.values()), tmp_path)
    assert table.notes[:4] == (
        "No run of the first change bad finished; compared with plain.",
        "bad: no finished run.",
        "drop: no finished run with seed 0.",
        "late: no finished run.",
    )
    assert {r.settings[0]: r.verdict for r in table.rows}["plain"] == "baseline"
    assert all(f"- {note}\n" in (tmp_path / "table.md").read_text() for note in table.notes)


def test_a_whole_table_has_no_such_notes(tmp_path):
    _, each = of(tmp_path, CHANGES)
    for one in each.values():
        declared.finished(one, 15)
    assert ablation.notes(list(each.values()), "plain") == []


def test_a_run_without_validation_figures_is_not_said_to_be_not_finite(tmp_path):
    _, each = of(tmp_path, {"a": {}, "b": {}, "c": {}}, 1)
    said = []
    source = ablation.Missing(list(each.values()), tmp_path, "accuracy", said.append)
    for name, best in (("a", None), ("b", {"accuracy": None}), ("c", {"accuracy": 0.5})):
        folder = each[f"{name}-0"].folder
        folder.mkdir()
        result = {"best": best, "final": None, "wall_seconds": 1.0}
        (folder / "result.json").write_text(json.dumps(result))
    assert source.take() is None
    assert said == [
        "a-0: no validation accuracy, 1 s",
        "b-0: validation accuracy not finite, 1 s",
        "c-0: validation accuracy 0.5000, 1 s",
    ]
