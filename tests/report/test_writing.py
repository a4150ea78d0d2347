"""Which split a report is of, and what happens where it cannot be written."""

import shutil

import pytest

from imgclass import report as report_lib
from imgclass.errors import UserError


class Splits:
    def __init__(self, **sizes):
        self.splits = {role: range(size) for role, size in sizes.items()}


def test_test_has_to_be_asked_for():
    assert report_lib.default_split(Splits(train=3, validation=2, test=2)) == "validation"
    assert report_lib.default_split(Splits(train=3, validation=0, test=2)) == "train"


def test_the_temperature_needs_validation():
    every = Splits(train=3, validation=2, test=2)
    assert report_lib.needed(every, "test") == ["validation", "test"]
    assert report_lib.needed(every, "validation") == ["validation"]
    assert report_lib.needed(Splits(train=3, test=2), "test") == ["test"]


def test_large_data_is_not_read_for_duplicates(report, tmp_path):
    folder, _, found, data, scored = report
    shutil.copytree(folder, tmp_path / "run", dirs_exist_ok=True)
    moved = type(found)(tmp_path / "run", found.task, found.variables, found.step, found.data)
    content = report_lib.write(moved, data, scored, "test", most_compared=42)
    assert sum(content["data"]["splits"].values()) == 43
    assert content["data"]["compared"] is False
    assert "not compared here" in (tmp_path / "run/report.html").read_text()


def test_a_report_that_cannot_be_written_says_so(report, tmp_path):
    folder, _, found, data, scored = report
    shutil.copytree(folder, tmp_path / "run", dirs_exist_ok=True)
    (tmp_path / "run/report.html").unlink()
    (tmp_path / "run/report.html").mkdir()
    moved = type(found)(tmp_path / "run", found.task, found.variables, found.step, found.data)
    with pytest.raises(UserError, match=r"run: the report cannot be written \(Is a directory\)"):
        report_lib.write(moved, data, scored, "test")
