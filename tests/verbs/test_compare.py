"""`imgclass compare` on runs written by hand, and on two that were trained."""

import csv
import json
import os
import shutil

import pytest

from imgclass import cli, looks, train
from imgclass.evaluate import outcomes
from tests import tiny
from tests.compare import made
from tests.compare.made import first


@pytest.fixture
def two(tmp_path):
    """Two runs that differ in optimizer and seed."""
    return [
        made.make(tmp_path / "a", first(12), 0, {"optim.name": "adam"}, test=first(9)),
        made.make(tmp_path / "b", first(19), 0, {"optim.name": "sgd"}, test=first(19)),
    ]


def ask(capsys, *words):
    """Returns (status, standard output, standard error)."""
    capsys.readouterr()
    try:
        status = cli.main(["compare", *map(str, words)])
    except SystemExit as error:  # argparse
        status = error.code
    return status, *capsys.readouterr()


def test_it_prints_markdown_and_the_better_run_first(capsys, two):
    status, out, err = ask(capsys, *two)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[4].startswith("| sgd | 1 | 0.9500 |")
    assert lines[5].endswith("| baseline |")
    assert "0.0156" in lines[4]  # 7 of 7: 2 / 2^7
    assert "better" in lines[4]


def test_json_is_one_object_on_the_last_line(capsys, two):
    status, out, _ = ask(capsys, *two, "--json", "--metric=loss", f"--baseline={two[1]}")
    found = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
    assert status == 0
    assert (found["metric"], found["split"], found["examples"]) == ("loss", "validation", 20)
    assert [group["verdict"] for group in found["groups"]] == ["baseline", "worse"]
    assert found["groups"][0]["deviation"] is None
    assert found["notes"]


def test_output_is_written_as_its_name_says(capsys, two, tmp_path):
    for name, begins in (("t.md", "accuracy"), ("t.csv", "metric,"), ("t.tex", "%"),
                         ("t.html", "<!DOCTYPE")):  # fmt: skip
        status, out, _ = ask(capsys, *two, f"--output={tmp_path / name}")
        assert (status, out) == (0, f"{tmp_path / name}: 2 groups\n")
        assert (tmp_path / name).read_text().startswith(begins)
    assert ask(capsys, *two, f"--output={tmp_path / 't.txt'}")[0] == 2
    given = ask(capsys, *two, f"--output={tmp_path / 't.txt'}", "--format=latex")
    assert given[0] == 0
    status, _, err = ask(capsys, *two, f"--output={tmp_path / 'no/t.md'}")
    assert (status, err) == (1, f"{tmp_path / 'no/t.md'}: cannot be written "
                                "(No such file or directory)\n")  # fmt: skip


def test_csv_goes_to_standard_output_and_notes_elsewhere(capsys, two):
    _, out, err = ask(capsys, *two, "--format=csv", "--split=test")
    assert [row["mean"] for row in csv.DictReader(out.splitlines())] == ["0.95", "0.45"]
    assert "test is not scored again" in err


def test_plot(capsys, two, tmp_path):
    assert ask(capsys, *two, f"--plot={tmp_path / 'p.svg'}")[0] == 0
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    status, out, err = ask(capsys, *two, "--plot=p.pdf")
    assert (status, out) == (2, "")
    assert err == "--plot=p.pdf: its name has to end in .png or .svg\n"


@pytest.mark.parametrize(
    "words", [(), ("--split=train", "x"), ("--format=word", "x"), ("--by=lr",), ("--metric=f1",)]
)
def test_wrong_usage_is_status_2(capsys, two, words):
    runs = two if words and "x" not in words else ()
    status, out, err = ask(capsys, *runs, *words)
    assert (status, out) == (2, "")
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two tiny runs of one config, seeds 0 and 1, that never looked at test; and their data."""
    root = tmp_path_factory.mktemp("compare")
    pictures = tiny.archive(root)
    with tiny.compiled_once(root / "programs"):
        for seed in (0, 1):
            changes = {"seed": seed, "eval.final_test": False, "optim.lr": 0.01 * (1 + seed)}
            train.train_and_evaluate(tiny.config(pictures, changes), root / f"run-{seed}")
    return root


def test_what_was_not_scored_is_scored_once_and_kept(capsys, trained, caplog):
    runs = [trained / "run-0", trained / "run-1"]
    for run in runs:
        outcomes.path_of(run, "validation").unlink(missing_ok=True)
    found = json.loads(ask(capsys, *runs, "--json")[1])
    assert caplog.text.count("scoring its validation pictures") == 2
    for run in runs:
        stored = outcomes.read(run, "validation")
        result = json.loads((run / "result.json").read_text())["best"]
        assert (stored.step, len(stored.index)) == (result["step"], 13)
        assert stored.right.mean() == pytest.approx(result["accuracy"])
        assert looks.count(run) == 0
    assert {group["test"] for group in found["groups"]} == {"", "McNemar, exact"}
    again = json.loads(ask(capsys, *runs, "--json")[1])
    assert again == found
    assert caplog.text.count("scoring its") == 2


def test_a_look_at_test_is_recorded_scored_or_read(capsys, trained):
    runs = [trained / "run-0", trained / "run-1"]
    first_time = json.loads(ask(capsys, *runs, "--split=test", "--json")[1])
    assert [looks.count(run) for run in runs] == [1, 1]
    assert json.loads(ask(capsys, *runs, "--split=test", "--json")[1]) == first_time
    assert [looks.count(run) for run in runs] == [2, 2]
    assert {group["n"] for group in first_time["groups"]} == {1}
    assert first_time["examples"] == 11


def test_damaged_outcomes_of_validation_are_scored_again(capsys, trained):
    runs = [trained / "run-0", trained / "run-1"]
    before = json.loads(ask(capsys, *runs, "--json")[1])
    outcomes.path_of(runs[0], "validation").write_bytes(b"PK")
    assert json.loads(ask(capsys, *runs, "--json")[1]) == before
    assert len(outcomes.read(runs[0], "validation").index) == 13


def test_outcomes_that_cannot_be_stored_are_used_and_a_line_says_so(
    capsys, caplog, trained, tmp_path
):
    runs = [shutil.copytree(trained / f"run-{seed}", tmp_path / f"run-{seed}") for seed in (0, 1)]
    before = json.loads(ask(capsys, *runs, "--json")[1])
    path = outcomes.path_of(runs[0], "validation")
    path.unlink()
    (runs[0] / f"{path.name}.{os.getpid()}.part").mkdir()  # where it is written first
    assert json.loads(ask(capsys, *runs, "--json")[1]) == before
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.startswith(f"{path}: cannot be written (Is a directory)")
    assert not path.exists()


def test_runs_whose_data_are_gone_are_compared_without_their_pictures(capsys, trained, tmp_path):
    runs = [trained / "run-0", trained / "run-1"]
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for copy in copies:
        outcomes.path_of(copy, "validation").unlink(missing_ok=True)
    archive = trained / "pictures.npz"
    archive.rename(trained / "moved.npz")
    try:
        status, out, _ = ask(capsys, *copies)
    finally:
        (trained / "moved.npz").rename(archive)
    assert status == 0
    assert "No outcomes of single pictures" in out
