"""`imgclass sweep` as a user meets it; a stub stands in for main.py."""

import json
import shlex

import pytest

from imgclass import cli
from imgclass.sweep import declare, runs
from tests.sweep import declared

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it


def ask(capsys, *words):
    capsys.readouterr()
    status = cli.main(["sweep", *map(str, words)])
    return status, *capsys.readouterr()


def test_a_failure_is_listed_at_the_end_with_its_reason(tmp_path, monkeypatch, capsys):
    """The stub's folders are no runs that could be compared, so all of these fail."""
    declared.stub(tmp_path, monkeypatch, a_0={"statuses": [1, 1]}, b_0={"statuses": [2, 2]})
    path = declared.file(tmp_path, declared.ablation({"a": {}, "b": {}}, 1))
    status, out, err = ask(capsys, path, f"--root={tmp_path / 'root'}")
    assert (status, err) == (1, "")
    assert out.splitlines()[-3:] == [
        "Failed:", "  a-0: status 1: no such luck", "  b-0: status 2: no such luck"
    ]  # fmt: skip
    status, out, err = ask(capsys, path, f"--root={tmp_path / 'again'}", "--json")
    assert status == 1
    assert json.loads(out)["failed"].keys() == {"a-0", "b-0"}
    assert "a-0: failed: status 1: no such luck" in err


def test_a_search_ends_in_a_file_to_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    stub = declared.stub(tmp_path, monkeypatch, trial_1={"accuracy": [0.9]})
    text = declared.search("{'model.dropout': uniform(0.1, 0.5)}", 3, "pruner='none'")
    root = declared.root(tmp_path / "root")
    path = declared.file(tmp_path, text)
    status, out, _ = ask(capsys, path, f"--root={root}")
    assert status == 0
    assert out.splitlines()[-1] == f"  python main.py --config={root / 'best.py'}"
    status, out, _ = ask(capsys, path, f"--root={root}", "--json")
    found = json.loads(out.splitlines()[-1])
    assert (status, found["trials"], found["failed"]) == (0, {"complete": 3}, {})
    assert (found["best"]["trial"], found["best"]["accuracy"]) == (1, 0.9)
    assert len(declared.starts(stub)) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--slurm=--gpus=1",), "--slurm: flags for --launcher=slurm"),
        (("--storage=sqlite:///x.db",), "--storage: an ablation needs none"),
    ],
)
def test_flags_without_effect_are_refused(words, said, tmp_path, capsys):
    path = declared.file(tmp_path, declared.ablation({"a": {}}, 1))
    status, _, err = ask(capsys, path, f"--root={tmp_path / 'root'}", *words)
    assert status == 2
    assert said in err
    assert not (tmp_path / "root").exists()


def test_a_search_is_no_job_array(tmp_path, capsys):
    pytest.importorskip("optuna")
    path = declared.file(tmp_path, declared.search("{'model.dropout': uniform(0.1, 0.5)}", 3))
    status, _, err = ask(capsys, path, f"--root={tmp_path / 'root'}", "--launcher=slurm")
    assert status == 2
    assert "on each node" in err


def test_runs_that_cannot_stand_in_one_table_lose_nothing_but_the_table(tmp_path, capsys):
    root = tmp_path / "root"
    text = declared.ablation({"a": {}, "b": {"model.dropout": 0.5}}, 1, always=declared.STEPS)
    path = declared.file(tmp_path, text)
    first, second = runs.of_ablation(declare.load(str(path)), root)
    declared.finished(first, 15)
    declared.finished(second, 16, class_names=["dog", "cat"])
    status, out, err = ask(capsys, path, f"--root={root}")
    assert (status, len(err.splitlines())) == (1, 1)
    assert err.startswith(f"no table: {second.folder} cannot be ranked with {first.folder}: its cl")
    status, out, _ = ask(capsys, path, f"--root={root}", "--json")
    said = json.loads(out)
    assert (status, said["done"], said["changes"]) == (1, 2, [])
    assert said["problem"] == err.strip()


def test_nothing_starts_without_validation_and_on_test_there_is_a_warning(
    tmp_path, monkeypatch, capsys
):
    stub = declared.stub(tmp_path, monkeypatch, a_0={"statuses": [1]}, b_0={"statuses": [1]})
    changes = {"a": {}, "b": {"data.validation_split": ""}}
    words = declared.file(tmp_path, declared.ablation(changes, 1)), f"--root={tmp_path / 'root'}"
    status, _, err = ask(capsys, *words)
    assert (status, err[:27]) == (2, "b: data.validation_split=''")
    assert declared.starts(stub) == []
    always = {"data.validation_split": "test"}
    declared.file(tmp_path, declared.ablation({"a": {}, "b": {}}, 1, always=always))
    _, _, err = ask(capsys, *words)
    assert err.startswith("warning: Validation is the test split in a, b (data.validation_split)")


def test_the_last_line_of_a_search_is_a_shells_words(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    declared.stub(tmp_path, monkeypatch)
    path = declared.file(tmp_path, declared.search("{'model.dropout': uniform(0.1, 0.5)}", 1))
    root = declared.root(tmp_path / "a $b")
    _, out, _ = ask(capsys, path, f"--root={root}")
    assert shlex.split(out.splitlines()[-1])[-1] == f"--config={root / 'best.py'}"
