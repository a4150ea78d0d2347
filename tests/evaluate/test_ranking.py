"""Curves and thresholds, against scikit-learn, textbook numbers and brute force."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from imgclass.evaluate import ranking

NAMES = ("a", "b", "c")


def example(n, classes, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return said.astype(np.float32), labels.astype(np.int32)


def test_two_classes_have_the_curves_of_class_1():
    said, labels = example(80, 2)
    found = ranking.roc(said, labels, ("no", "yes"))
    assert found["auroc"] == roc_auc_score(labels, said[:, 1])
    (curve,) = found["curves"]
    assert curve["name"] == "yes"
    fpr, tpr, _ = roc_curve(labels, said[:, 1])
    np.testing.assert_array_equal(curve["fpr"], fpr)
    np.testing.assert_array_equal(curve["tpr"], tpr)

    found = ranking.precision_recall(said, labels, ("no", "yes"))
    (curve,) = found["curves"]
    assert found["average_precision"] == average_precision_score(labels, said[:, 1])
    precision, recall, _ = precision_recall_curve(labels, said[:, 1], drop_intermediate=True)
    np.testing.assert_array_equal(curve["precision"], precision)
    np.testing.assert_array_equal(curve["recall"], recall)
    assert curve["share"] == labels.mean()


def test_more_classes_have_the_mean_of_one_against_the_rest():
    said, labels = example(90, 3)
    found = ranking.roc(said, labels, NAMES)
    exact = said.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    expected = roc_auc_score(labels, exact, multi_class="ovr", average="macro")
    assert found["auroc"] == pytest.approx(expected, rel=1e-6)
    assert [curve["name"] for curve in found["curves"]] == ["a", "b", "c"]
    by_class = [roc_auc_score(labels == k, said[:, k]) for k in range(3)]
    assert [curve["auroc"] for curve in found["curves"]] == by_class
    found = ranking.precision_recall(said, labels, NAMES)
    by_class = [average_precision_score(labels == k, said[:, k]) for k in range(3)]
    assert [curve["average_precision"] for curve in found["curves"]] == by_class
    assert found["average_precision"] == pytest.approx(np.mean(by_class), rel=1e-12)


def test_a_class_that_is_not_there_has_no_area_and_no_say():
    said, labels = example(60, 3)
    there = labels < 2
    found = ranking.roc(said[there], labels[there], NAMES)
    assert math.isnan(found["curves"][2]["auroc"])
    assert found["curves"][2].keys() == {"name", "auroc"}
    expected = [roc_auc_score(labels[there] == k, said[there, k]) for k in (0, 1)]
    assert found["auroc"] == pytest.approx(np.mean(expected), rel=1e-12)
    found = ranking.precision_recall(said[there], labels[there], NAMES)
    assert math.isnan(found["curves"][2]["average_precision"])
    assert math.isnan(ranking.roc(said[labels == 0], labels[labels == 0], NAMES)["auroc"])


def test_long_curves_are_thinned_and_many_left_out():
    said, labels = example(5000, 2)
    (curve,) = ranking.roc(said, labels, ("no", "yes"))["curves"]
    fpr, tpr, _ = roc_curve(labels, said[:, 1])
    assert len(fpr) > 200 == len(curve["fpr"]) == len(curve["tpr"])
    assert (curve["fpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 1, 1)
    assert set(zip(curve["fpr"], curve["tpr"], strict=True)) <= set(zip(fpr, tpr, strict=True))
    said, labels = example(300, 21)
    names = [str(k) for k in range(21)]
    for found in (
        ranking.roc(said, labels, names),
        ranking.precision_recall(said, labels, names),
    ):
        assert len(found["curves"]) == 21
        assert not {"fpr", "recall"} & found["curves"][0].keys()


def test_thresholds_by_hand():
    scores = np.array([0.9, 0.8, 0.6, 0.5, 0.4, 0.2])
    positive = np.array([True, True, False, True, False, False])
    found = ranking.thresholds(scores, positive, at=(0.5, 0.7, 0.95))
    assert found["prevalence"] == found["used_prevalence"] == 0.5
    half, high, none = found["rows"]
    assert half == {
        "threshold": 0.5, "tp": 3, "fp": 1, "tn": 2, "fn": 0, "sensitivity": 1.0,
        "specificity": 2 / 3, "ppv": 0.75, "npv": 1.0,
    }  # fmt: skip
    assert (high["tp"], high["fp"], high["tn"], high["fn"]) == (2, 0, 3, 1)
    assert (high["sensitivity"], high["ppv"], high["npv"]) == (2 / 3, 1.0, 0.75)
    assert (none["tp"], none["fp"], none["sensitivity"], none["npv"]) == (0, 0, 0.0, 0.5)
    assert math.isnan(none["ppv"])


def test_predictive_values_at_another_prevalence_are_the_textbooks():
    # Sensitivity 99%, specificity 99%, 1 in 100 ill: half of those called ill are.
    ppv, npv = ranking.predictive_values(0.99, 0.99, 0.01)
    assert ppv == pytest.approx(0.5, rel=1e-12)
    assert npv == pytest.approx(0.9801 / 0.9802, rel=1e-12)
    # By counting: of 100 with 10 ill, 2/3 and 1/3 are called ill where scores say so.
    scores = np.array([0.9, 0.8, 0.1, 0.9, 0.2, 0.1])
    positive = np.array([True, True, True, False, False, False])
    found = ranking.thresholds(scores, positive, at=(0.5,), prevalence=0.1)
    assert (found["prevalence"], found["used_prevalence"]) == (0.5, 0.1)
    (row,) = found["rows"]
    assert row["ppv"] == pytest.approx((20 / 3) / (20 / 3 + 30), rel=1e-12)
    assert row["npv"] == pytest.approx(60 / (60 + 10 / 3), rel=1e-12)


def test_bayes_at_the_splits_own_prevalence_is_counting():
    said, labels = example(200, 2)
    positive = labels == 1
    counted = ranking.thresholds(said[:, 1], positive)
    by_bayes = ranking.thresholds(said[:, 1], positive, prevalence=counted["prevalence"])
    for a, b in zip(counted["rows"], by_bayes["rows"], strict=True):
        assert a == {key: pytest.approx(value, rel=1e-9) for key, value in b.items()}


def test_risk_and_coverage_by_hand():
    confidence = np.array([0.6, 0.9, 0.8, 0.7])
    right = np.array([False, True, False, True])
    found = ranking.risk_coverage(confidence, right)
    assert found["coverage"] == [0.25, 0.5, 0.75, 1.0]
    assert found["risk"] == [0, 1 / 2, 1 / 3, 1 / 2]
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4, rel=1e-12)


def test_equally_sure_ones_count_as_in_random_order():
    confidence = np.array([0.9, 0.8, 0.8, 0.8, 0.5])
    right = np.array([True, False, True, False, True])
    found = ranking.risk_coverage(confidence, right)
    assert found["coverage"] == [0.2, 0.8, 1.0]
    assert found["risk"] == [0, 0.5, 0.4]
    areas = []
    for order in itertools.permutations([False, True, False]):
        wrong = ~np.array([True, *order, True])
        areas.append((wrong.cumsum() / np.arange(1, 6)).mean())
    assert found["aurc"] == pytest.approx(np.mean(areas), rel=1e-12)


def test_the_threshold_is_the_lowest_that_does_it():
    confidence = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    right = np.array([True, False, True, True, True, False])
    # Error from each on, surest first: 0, 1/2, 1/3, 1/4, 1/5, 1/3. It is not monotone.
    for wanted, expected in [(0, 0.95), (0.2, 0.6), (0.19, 0.95), (0.25, 0.6), (0.34, 0.5)]:
        found = ranking.threshold_for_error(confidence, right, wanted)
        assert found == np.float32(expected)
        assert ranking.accepted(confidence, right, found)[1] <= wanted
    coverage, error = ranking.accepted(confidence, right, 0.6)
    assert (coverage, error) == (5 / 6, 1 / 5)


def test_no_threshold_does_it():
    confidence, right = np.array([0.9, 0.8]), np.array([False, True])
    assert ranking.threshold_for_error(confidence, right, 0.4) is None
    coverage, error = ranking.accepted(confidence, right, 0.99)
    assert coverage == 0
    assert math.isnan(error)


def test_equally_sure_examples_are_accepted_together():
    confidence, right = np.array([0.9, 0.9, 0.5]), np.array([True, False, True])
    assert ranking.threshold_for_error(confidence, right, 0.1) is None
    assert ranking.threshold_for_error(confidence, right, 0.4) == 0.5
