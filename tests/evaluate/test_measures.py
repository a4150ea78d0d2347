"""The figures of a split, against scikit-learn and by hand."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from imgclass.errors import UserError
from imgclass.evaluate import bootstrap, measures
from imgclass.evaluate.outcomes import Outcomes


def outcomes_of(said, labels):
    said = np.asarray(said, np.float32)
    return Outcomes(said, np.asarray(labels, np.int32), np.arange(len(said), dtype=np.int64))


def example(n=300, classes=7, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    return outcomes_of(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels)


def names(classes):
    return [f"class {k}" for k in range(classes)]


def test_seven_classes_equal_scikit_learn():
    said = example()
    found = measures.summarise(said, names(7))
    labels, predicted = said.labels, said.predicted
    assert found["examples"] == 300
    assert found["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    figures = found["figures"]
    assert figures.keys() == {"accuracy", "top5", "balanced_accuracy"}
    assert figures["accuracy"]["value"] == sk.accuracy_score(labels, predicted)
    top5 = sk.top_k_accuracy_score(labels, said.probabilities, k=5)
    assert figures["top5"]["value"] == pytest.approx(top5, rel=1e-12)
    balanced = sk.balanced_accuracy_score(labels, predicted)
    assert figures["balanced_accuracy"]["value"] == pytest.approx(balanced, rel=1e-12)
    for figure in figures.values():
        assert figure["low"] < figure["value"] < figure["high"]
    report = sk.classification_report(labels, predicted, target_names=names(7), output_dict=True)
    for entry in found["classes"]:
        expected = report[entry["name"]]
        assert entry["precision"] == pytest.approx(expected["precision"], rel=1e-12)
        assert entry["recall"] == pytest.approx(expected["recall"], rel=1e-12)
        assert entry["f1"] == pytest.approx(expected["f1-score"], rel=1e-12)
        assert entry["support"] == expected["support"]
    assert [e["predicted"] for e in found["classes"]] == np.bincount(predicted).tolist()
    mean = report["macro avg"]
    expected = {"precision": mean["precision"], "recall": mean["recall"], "f1": mean["f1-score"]}
    assert found["macro"] == {k: pytest.approx(v, rel=1e-12) for k, v in expected.items()}
    assert found["thresholds"] is found["temperature"] is found["calibrated"] is None
    assert found["selective"]["thresholds"] == []


def test_two_classes_have_auroc_and_thresholds():
    said = example(classes=2)
    found = measures.summarise(said, ["no", "yes"], temperature=2.0, prevalence=0.1)
    assert found["figures"].keys() == {"accuracy", "balanced_accuracy", "auroc"}
    area = found["figures"]["auroc"]
    assert area["value"] == sk.roc_auc_score(said.labels, said.probabilities[:, 1])
    assert area["value"] == found["roc"]["auroc"]
    # DeLong et al. (1988): the variance from how each example ranks among those of the other class.
    yes, no = (said.probabilities[said.labels == label, 1] for label in (1, 0))
    above = (yes[:, None] > no) + 0.5 * (yes[:, None] == no)
    variance = above.mean(axis=1).var(ddof=1) / len(yes) + above.mean(axis=0).var(ddof=1) / len(no)
    width = 2 * 1.96 * math.sqrt(variance)
    assert area["high"] - area["low"] == pytest.approx(width, rel=0.05)  # 2000 resamples
    assert found["thresholds"]["positive"] == "yes"
    assert found["thresholds"]["used_prevalence"] == 0.1
    assert found["temperature"] == 2.0
    tempered = measures.at_temperature(said.probabilities, 2.0)
    assert found["calibrated"] == measures.calibration(tempered, said.labels)


def test_the_accuracys_interval_is_that_of_its_rows():
    said = example()
    ((low, high),) = bootstrap.intervals([bootstrap.mean(said.right)], 300)
    figure = measures.figures(said)["accuracy"]
    # top5 is of the same draws, and changes nothing.
    assert (figure["low"], figure["high"]) == (low, high)


def test_classes_without_examples_or_predictions_are_none_in_json():
    said = outcomes_of([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], [0, 0])
    found = measures.summarise(said, names(3), temperature=1.5)
    first, second, third = found["classes"]
    assert (first["precision"], first["recall"], first["support"]) == (1.0, 0.5, 2)
    assert (second["precision"], second["recall"], second["predicted"]) == (0.0, None, 1)
    assert (third["precision"], third["recall"], third["f1"]) == (None, None, None)
    assert found["macro"]["recall"] == 0.5
    assert found["roc"]["auroc"] is None
    assert found["confused"] == [
        {
            "true": 0, "predicted": 1, "true_name": "class 0", "predicted_name": "class 1",
            "count": 1, "share": 0.5,
        }
    ]  # fmt: skip
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_top_k_breaks_ties_by_label():
    said = np.array([[0.4, 0.3, 0.3], [0.2, 0.4, 0.4], [0.25, 0.5, 0.25]], np.float32)
    labels = np.array([2, 1, 0])
    assert measures.top_k(said, labels, 1).tolist() == [False, True, False]
    assert measures.top_k(said, labels, 2).tolist() == [False, True, True]
    assert measures.top_k(said, labels, 3).all()


def test_a_row_with_a_nan_is_never_within_the_top():
    said = np.full((3, 6), 1 / 6, np.float32)
    said[0], said[1, 5] = np.nan, np.nan
    labels = np.array([0, 0, 0])
    assert measures.top_k(said, labels, 5).tolist() == [False, False, True]
    broken = Outcomes(said[:1], labels[:1], np.arange(1))
    top5 = measures.figures(broken)["top5"]
    assert (top5["value"], top5["low"]) == (0.0, 0.0)
    assert top5["high"] == pytest.approx(0.79346, abs=1e-5)  # Wilson's of 0 of 1: z^2 / (1 + z^2)


def test_the_most_confused_come_first():
    matrix = np.array([[5, 3, 0], [1, 8, 3], [0, 7, 0]])
    found = measures.confused(matrix, names(3), most=3)
    assert [(e["true"], e["predicted"], e["count"]) for e in found] == [
        (2, 1, 7), (0, 1, 3), (1, 2, 3),
    ]  # fmt: skip
    assert [e["share"] for e in found] == [1.0, 3 / 8, 3 / 12]
    assert len(measures.confused(matrix, names(3))) == 4  # those that never occur are left out


def test_thresholds_are_found_on_validation_and_told_of_the_split():
    sure = np.array([0.95, 0.9, 0.8, 0.7], np.float32)
    said = np.stack([sure, 1 - sure], axis=1)
    validation = outcomes_of(said, [0, 0, 0, 1])  # right, right, right, wrong
    split = outcomes_of(said, [0, 1, 0, 0])
    found = measures.summarise(split, names(2), validation=validation)["selective"]["thresholds"]
    assert [row["wanted"] for row in found] == [0.005, 0.01, 0.02, 0.05]
    assert found[0] == {
        "wanted": 0.005, "threshold": float(sure[2]), "validation_coverage": 0.75,
        "validation_error": 0.0, "coverage": 0.75, "error": 1 / 3,
    }  # fmt: skip
    never = outcomes_of(said, [1, 1, 1, 1])
    found = measures.summarise(split, names(2), validation=never)["selective"]["thresholds"]
    assert found[3] == {
        "wanted": 0.05, "threshold": None, "validation_coverage": None, "validation_error": None,
        "coverage": None, "error": None,
    }  # fmt: skip


def test_probabilities_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="probabilities of 1 of 2 examples are not finite"):
        measures.summarise(outcomes_of([[0.5, 0.5], [math.nan, math.nan]], [0, 1]), names(2))
    with pytest.raises(UserError, match="no examples"):
        measures.summarise(outcomes_of(np.zeros((0, 2)), []), names(2))
