"""A run writes its report by itself, and is no failed run where that cannot be done."""

import json
import logging

import pytest

from imgclass import looks, report, train
from imgclass.errors import UserError
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.mark.parametrize("tested", [False, True])
def test_the_report_is_of_the_best_weights(tmp_path, tested):
    changes = {
        "log.report": True, "eval.final_test": tested, "eval.every_steps": 2,
        "checkpoint.every_steps": 2,
    }  # fmt: skip
    train.train_and_evaluate(tiny.config(tiny.archive(tmp_path), changes), tmp_path / "run")
    found = json.loads((tmp_path / "run/report.json").read_text())
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert found["split"] == "validation"
    assert ("test accuracy" in (tmp_path / "run/report.html").read_text()) == tested
    assert found["step"] == result["best"]["step"]
    assert found["examples"] == 13
    assert found["measures"]["figures"]["accuracy"]["value"] == pytest.approx(
        result["best"]["accuracy"]
    )
    assert looks.count(tmp_path / "run") == tested
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize(
    ("error", "words", "traceback"),
    [
        (UserError("the disk is full"), "no report (the disk is full); ", False),
        (ZeroDivisionError("a bug"), "no report, which is a bug; ", True),
    ],
)
def test_a_report_that_fails_fails_no_run(tmp_path, monkeypatch, caplog, error, words, traceback):
    def fails(*args):
        raise error

    monkeypatch.setattr(report, "write", fails)
    config = tiny.config(tiny.archive(tmp_path), {"log.report": True})
    with caplog.at_level(logging.WARNING, "imgclass"):
        state = train.train_and_evaluate(config, tmp_path / "run")
    assert int(state.step) == 6
    assert (tmp_path / "run/result.json").exists()
    (record,) = [record for record in caplog.records if "report" in record.msg]
    folder = tmp_path / "run"
    assert record.getMessage() == f"{words}imgclass report {folder} writes its report"
    assert bool(record.exc_info) == traceback


def test_a_finished_run_without_its_report_writes_it(tmp_path):
    config = tiny.config(tiny.archive(tmp_path), {"log.report": True})
    train.train_and_evaluate(config, tmp_path / "run")
    written = json.loads((tmp_path / "run/report.json").read_text())
    (tmp_path / "run/report.html").unlink()
    train.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run/report.html").exists()
    assert json.loads((tmp_path / "run/report.json").read_text())["measures"] == written["measures"]
