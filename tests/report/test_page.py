"""The page: valid, escaped, without a network or a script, and bounded however many classes."""

import json
import re

import numpy as np
import pytest

from imgclass.evaluate import measures
from imgclass.evaluate.outcomes import Outcomes
from imgclass.report import charts, page
from tests.report import html, runs


@pytest.fixture(scope="module")
def read(report):
    return html.Page((report[0] / "report.html").read_text())


def test_it_is_well_formed(read):
    assert not read.problems
    assert [tag for tag, _ in read.tags if tag == "h1"] == ["h1"]


def test_every_section_says_how_to_read_it(report, read):
    page_text = (report[0] / "report.html").read_text()
    sections = re.findall(r'<section id="(\w+)"><h2>[^<]+</h2><p class="how">[^<]+</p>', page_text)
    assert sections == [
        "headline", "curves", "confusion", "classes", "ranking", "calibration", "selective",
        "errors", "pairs", "seen", "data", "config", "again",
    ]  # fmt: skip
    links = [a["href"] for tag, a in read.tags if tag == "a"]
    assert links == [f"#{name}" for name in sections]


def test_names_from_outside_are_text(read):
    assert "script" not in {tag for tag, _ in read.tags}
    assert not [a for _, a in read.tags if any(name.startswith("on") for name in a)]
    assert runs.CLASSES[0] in read.text
    assert runs.CLASSES[1] in read.text
    assert runs.FILE in read.text


def test_a_name_that_is_no_text_can_be_drawn():
    drawn = charts.lines(
        "curves", {charts.short("cl\udcff $x$"): ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])}, "x", "y"
    )
    assert "cl\\udcff $x$" in drawn


def test_nothing_is_fetched(report, read):
    for tag, attributes in read.tags:
        for name in ("src", "href", "xlink:href"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:")), tag
    text = (report[0] / "report.html").read_text()
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)


def test_the_colours_are_the_theme_s(report):
    # Drawn in stand-ins; what is left of black or of matplotlib's own colours would be unreadable.
    svgs = re.findall(r"<svg.*?</svg>", (report[0] / "report.html").read_text(), re.DOTALL)
    assert len(svgs) == 7  # loss, accuracy, ROC, PR, two of reliability, risk
    for svg in svgs:
        assert not re.findall(r"#[0-9a-f]{6}\b(?!;?\))", re.sub(r'"#\w+"|\(#\w+\)', "", svg))
        assert "var(--series-1)" in svg


def test_figures_are_those_of_the_outcomes(report, read):
    _, content, _, _, scored = report
    test = scored["test"]
    accuracy = np.mean(test.probabilities.argmax(1) == test.labels)
    assert content["measures"]["figures"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-12)
    assert f"{accuracy:.2%}" in read.text
    assert f"{len(test)} pictures of test" in read.text
    assert "the test split was looked at once" in read.text


def test_two_classes_have_a_table_of_thresholds(report, read):
    _, _, _, _, scored = report
    test = scored["test"]
    called = test.probabilities[:, 1] >= 0.5
    positive = test.labels == 1
    row = [
        "0.50",
        f"{(called & positive).sum() / positive.sum():.1%}",
        f"{(~called & ~positive).sum() / (~positive).sum():.1%}",
    ]
    assert "".join(row) in read.text


def many(classes, report):
    """Content of a run with so many classes, each with 2 pictures, half of them right."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 2).astype(np.int32)
    said = rng.uniform(0.0, 1.0, (2 * classes, classes)).astype(np.float32)
    said[np.arange(0, 2 * classes, 2), labels[::2]] = 2.0
    said /= said.sum(1, keepdims=True)
    names = [f"class {i} " + "long" * 10 for i in range(classes)]
    found = Outcomes(said, labels, np.arange(2 * classes))
    figures = measures.summarise(found, names, 1.0)
    return report[1] | {"class_names": names, "measures": json.loads(json.dumps(figures))}


def test_keys_that_were_changed_on_the_way_are_told(report):
    changed = {"config_changed": ["optim.lr: 0.1 then, <0.5> now"]}
    made = page.render(report[1] | changed, page.Pictures([], [], [], True))
    assert "Changed since: optim.lr: 0.1 then, &lt;0.5&gt; now." in made
    assert "Changed since" not in page.render(report[1], page.Pictures([], [], [], True))


def test_many_classes_are_bounded(report):
    shown = page.Pictures([], [], [], True)
    few, lots = (page.render(many(classes, report), shown) for classes in (40, 160))
    assert not html.Page(lots).problems
    assert len(lots) < 1.25 * len(few)
    assert "30 classes of lowest F1, of 160" in lots
    assert len(re.findall(r"<th scope='col'>", lots)) <= 20


def test_a_missing_past_is_not_invented(report):
    """An imported run has no records, no command and no result."""
    nothing = {"curves": {}, "environment": None, "command": None, "result": None, "starts": 0,
               "config_changed": []}  # fmt: skip
    text = page.render(report[1] | nothing, page.Pictures([], [], [], True))
    assert not html.Page(text).problems
    assert "metrics.jsonl holds no records" in text
    assert "how it was trained is not recorded" in text


def test_robustness_is_shown_where_it_was_measured(report):
    about = {"step": report[1]["step"], "split": "test", "examples": 5, "accuracy": 0.8,
             "accuracy_interval": [0.4, 1.0]}  # fmt: skip
    fog = {"accuracy": [0.8, 0.7, 0.6, 0.5, 0.4], "error": 0.4, "extra": False}
    second = about | {"against": "<other>", "accuracy": 0.321}
    robust = {
        "corruptions": about | {"mean_error": 0.4, "by_corruption": {"fog": fog}},
        "attacks": about | {"by_attack": [about | {"attack": "pgd", "epsilon": 2 / 255}]},
        "shift": about | {"second": second},
    }
    shown = page.Pictures([], [], [], True)
    read = html.Page(page.render(report[1] | {"robustness": robust}, shown))
    assert not read.problems
    for word in ("fog80.0%70.0%60.0%50.0%40.0%40.0%", "PGD2/25580.0%", "<other>532.1%"):
        assert word in read.text
    assert "another step" not in read.text
    robust["attacks"]["step"] = -1
    assert "another step" in page.render(report[1] | {"robustness": robust}, shown)
