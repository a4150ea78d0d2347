"""What is gathered from a run folder, and that report.json holds it."""

import json

import pytest

from imgclass.report import content
from tests.report import runs


def test_report_json_is_the_content_and_plain(report):
    folder, gathered, *_ = report
    stored = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert stored == json.loads(json.dumps(gathered))
    assert stored["class_names"] == list(runs.CLASSES)
    assert (stored["split"], stored["examples"], stored["step"]) == ("test", 11, stored["step"])
    assert stored["temperature_fitted_on"] == "validation"


def test_a_picture_of_train_in_test_is_found(report):
    about = report[1]["data"]
    (shared,) = about["duplicates"]
    assert (shared["splits"], shared["pictures"], shared["labels_differ"]) == (
        ["train", "test"], 1, 1,
    )  # fmt: skip
    assert {"shared_pictures", "label_conflict"} <= {f["code"] for f in about["findings"]}


def test_only_what_differs_from_the_defaults(report):
    changed = report[1]["config"]["changed"]
    assert changed["augment.brightness"] == {"default": 0.0, "run": 0.5}
    assert changed["train.total_steps"] == {"default": None, "run": 6}
    assert changed["train.total_epochs"] == {"default": 10.0, "run": None}
    assert "augment.contrast" not in changed
    assert "seed" not in changed


def test_curves_are_the_records_in_order(tmp_path):
    lines = [
        {"step": 1, "epoch": 0.5, "split": "train", "loss": 2.0, "accuracy": 0.25},
        {"step": 2, "epoch": 1.0, "split": "train", "loss": None, "accuracy": 0.5},
        {"step": 2, "epoch": 1.0, "split": "validation", "loss": 1.5},
        {"step": 2, "epoch": 1.0, "split": "test", "loss": 9.0},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '\nnull\n{"step": 3, "ep')
    assert content.curves(tmp_path) == {
        "train": {"epoch": [0.5, 1.0], "loss": [2.0, None], "accuracy": [0.25, 0.5]},
        "validation": {"epoch": [1.0], "loss": [1.5], "accuracy": [None]},
    }
    assert content.curves(tmp_path / "nothing") == {}


def test_long_curves_are_thinned_and_keep_their_ends():
    assert content.thinned(list(range(9)), 3) == [0, 4, 8]
    assert content.thinned([1, 2], 3) == [1, 2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["main.py", "--config=c.py", "--workdir=runs/a"], "python main.py --config=c.py"),
        (["main.py", "-workdir", "runs/a", "--debug"], "python main.py --debug"),
        (["x/main.py", "--config=c.py:a b"], "python x/main.py '--config=c.py:a b'"),
        (["/usr/bin/imgclass", "import"], "/usr/bin/imgclass import"),
    ],
)
def test_the_command_to_get_it_again(words, line):
    assert content.again(words) == line
