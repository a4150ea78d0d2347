"""The record of looks at a test split."""

import datetime
import json
import os

import pytest

from imgclass import looks
from imgclass.errors import UserError


def test_a_folder_nobody_looked_at(tmp_path):
    assert looks.count(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_every_look_is_a_line_that_says_who_when_and_at_what(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["imgclass", "evaluate", "runs/a b", "--split=test"])
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    looks.record(tmp_path, "evaluate", 366)
    looks.record(tmp_path, "ensemble", 406)
    assert looks.count(tmp_path) == 2
    first, second = map(json.loads, (tmp_path / "test_looks.jsonl").read_text().splitlines())
    assert before <= datetime.datetime.fromisoformat(first.pop("time"))
    command = ["imgclass", "evaluate", "runs/a b", "--split=test"]
    assert first == {"verb": "evaluate", "step": 366, "command": command}
    assert (second["verb"], second["step"]) == ("ensemble", 406)


def test_a_look_that_cannot_be_recorded_is_said(tmp_path):
    (tmp_path / looks.FILE).mkdir()
    with pytest.raises(UserError, match=r"test_looks\.jsonl: cannot be written \(Is a directory\)"):
        looks.record(tmp_path, "evaluate", 1)
    with pytest.raises(UserError, match=r"test_looks\.jsonl: cannot be read"):
        looks.count(tmp_path)


def test_bytes_that_are_no_text_count_as_the_line_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["imgclass", os.fsdecode(b"caf\xe9")])
    looks.record(tmp_path, "report", 1)  # a path may be no UTF-8
    with (tmp_path / looks.FILE).open("ab") as file:
        file.write(b"\xff\n\n")
    assert looks.count(tmp_path) == 2
