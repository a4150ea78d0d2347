"""`imgclass predict --abstain-below`. The rest of the verb is in tests/test_cli.py."""

import csv
import json

import numpy as np
import pytest

from imgclass import train
from imgclass.evaluate import measures, outcomes, restore
from imgclass.evaluate import predict as prediction
from imgclass.evaluate.predict import Prediction
from tests import tiny
from tests.tiny import ask


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of six steps in run/, and its pictures."""
    root = tmp_path_factory.mktemp("run")
    for seed, (split, n) in enumerate({"train": 30, "validation": 12, "test": 12}.items()):
        tiny.folder(root / "pictures", split, n, seed=seed)
    with tiny.compiled_quickly():
        train.train_and_evaluate(tiny.config(root / "pictures"), root / "run")
    return root


def test_the_picture_a_threshold_is_of_keeps_its_label():
    sure = np.float32(0.7312345)  # 0.73123449...
    said = Prediction("x.png", np.array([sure, 1 - sure], np.float32))
    assert not said.is_below(float(sure))
    assert not said.is_below(float(f"{sure:.9g}"))
    assert said.is_below(float(np.nextafter(sure, np.float32(1))))
    assert not said.is_below(None)
    assert Prediction("x.png", np.full(2, np.nan, np.float32)).is_below(0.1)


def test_unsure_pictures_get_no_label_and_the_others_err_as_wanted(capsys, place, tmp_path):
    found = restore.restore(place / "run")
    said = outcomes.of_split(found, outcomes.open_data(found), "validation")
    middle = float(np.sort(said.confidence)[6])
    wanted = float((~said.right)[said.confidence >= middle].mean())
    threshold = measures.threshold_for_error(said.confidence, said.right, wanted)
    words = ("predict", place / "run", place / "pictures" / "validation", "--top=2",
             f"--abstain-below={threshold!r}")  # fmt: skip

    status, out, _ = ask(capsys, *words, "--json")
    assert status == 0
    answer = json.loads(out.splitlines()[-1])
    rows = answer["predictions"]
    expected = int((said.confidence < np.float32(threshold)).sum())
    assert answer["abstained"] == expected == sum(row["abstained"] for row in rows)
    assert answer["abstain_below"] == threshold
    labelled = [row for row in rows if not row["abstained"]]
    wrong = [row for row in labelled if row["label"] not in row["path"].split("/")[-2]]
    assert len(wrong) <= wanted * len(labelled)
    for row in rows:
        assert row["abstained"] == (row["label"] is None) == (row["probability"] < threshold)
        assert row["probability"] == row["top"][0]["probability"]

    output = tmp_path / "rows.csv"
    status, out, _ = ask(capsys, *words, f"--output={output}")
    assert (status, out) == (0, f"{output}: 12 pictures, {expected} without a label\n")
    with output.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [
        "path", "label", "probability", "label_2", "probability_2", "abstained", "error",
    ]  # fmt: skip
    for line, row in zip(table, rows, strict=True):
        likeliest = row["top"][0]["label"]
        given = ("", likeliest) if row["abstained"] else (likeliest, "")
        assert (line["label"], line["abstained"]) == given
        assert line["label_2"] == row["top"][1]["label"]
        assert line["error"] == ""

    status, out, _ = ask(capsys, *words)
    assert out.count(": abstained (") == expected


def test_a_threshold_of_1_abstains_and_without_one_there_is_no_column(capsys, place, tmp_path):
    picture = next((place / "pictures" / "test").rglob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    output = tmp_path / "rows.csv"
    words = ("predict", place / "run", picture, broken, "--top=1", f"--output={output}")
    assert ask(capsys, *words, "--abstain-below=1")[0] == 1  # the broken one
    header, unsure, bad = output.read_text().splitlines()
    assert header == "path,label,probability,abstained,error"
    assert unsure.split(",")[1] == ""
    assert unsure.split(",")[3].startswith("class")
    assert bad.split(",")[1:4] == ["", "", ""]
    assert ask(capsys, *words)[0] == 1
    assert output.read_text().splitlines()[0] == "path,label,probability,error"


def test_probabilities_that_are_no_numbers_are_null(capsys, place, monkeypatch):
    picture = str(next((place / "pictures" / "test").rglob("*.png")))
    broken = Prediction(picture, np.full(3, np.nan, np.float32))
    monkeypatch.setattr(prediction, "predict", lambda *_: iter([broken]))
    status, out, _ = ask(capsys, "predict", place / "run", picture, "--json")
    assert status == 0
    (row,) = json.loads(out, parse_constant=pytest.fail)["predictions"]
    assert row["probability"] is None


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "nan", "half", ""])
def test_what_is_no_probability(capsys, text):
    status, _, err = ask(capsys, "predict", "run", "x.png", f"--abstain-below={text}")
    assert status == 2
    assert f"{text!r} is not a number above 0 and at most 1" in err
