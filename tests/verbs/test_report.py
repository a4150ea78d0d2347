"""`imgclass report RUN`: two files, JSON, and a look at test only where asked for."""

import json

import pytest

from imgclass import cli, looks, train
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run on an archive with 13 validation and 11 test pictures."""
    root = tmp_path_factory.mktemp("run")
    with tiny.compiled_once(root / "programs"):
        train.train_and_evaluate(tiny.config(tiny.archive(root)), root / "run")
        yield root / "run"


def ask(capsys, *words):
    capsys.readouterr()
    status = cli.main(["report", *map(str, words)])
    return status, *capsys.readouterr()


def test_validation_unless_test_is_asked_for(folder, capsys):
    assert not (folder / "report.html").exists()  # tiny's config says log.report=False
    status, out, err = ask(capsys, folder)
    assert (status, err) == (0, "")
    assert "validation, 13 pictures: accuracy " in out.splitlines()[0]
    assert out.splitlines()[1].startswith(f"{folder / 'report.html'}: ")
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert looks.count(folder) == 0
    status, out, _ = ask(capsys, folder, "--split=test", "--json")
    found = json.loads(out.splitlines()[-1], parse_constant=pytest.fail)
    assert (status, found["split"], found["examples"], found["test_looks"]) == (0, "test", 11, 1)
    assert found == json.loads((folder / "report.json").read_text())
    assert looks.count(folder) == 1


def test_no_run(tmp_path, capsys):
    status, out, err = ask(capsys, tmp_path)
    assert (status, out) == (1, "")
    assert "is not a run folder" in err
