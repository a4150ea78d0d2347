"""Calibration figures by hand and against scikit-learn, and the temperature of a known case."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from imgclass.evaluate import calibration as calibrate


def example(n=500, classes=4, seed=0, scale=2.0):
    """Probabilities from random logits, and labels drawn from other, flatter ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, classes)) * scale
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    flat = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    labels = (random.random(n)[:, None] > flat.cumsum(axis=1)).sum(axis=1)
    return probabilities.astype(np.float32), np.minimum(labels, classes - 1).astype(np.int32)


def test_four_examples_by_hand():
    said = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
    labels = np.array([0, 1, 1, 0])  # right, wrong, right, right
    found = calibrate.calibration(said, labels, bins=2)
    # All confidences but the last are in (0.5, 1]: 2 of 3 right, 0.8 on average. 0.5 is in (0, 0.5]
    # and right. ECE = 3/4 |2/3 - 0.8| + 1/4 |1 - 0.5| = 0.1 + 0.125.
    assert found["ece"] == pytest.approx(0.225, rel=1e-12)
    # Of class 1: 0.1^2 + 0.8^2 + 0.3^2 + 0.5^2 = 0.99.
    assert found["brier"] == pytest.approx(0.99 / 4, rel=1e-12)
    expected = -(math.log(0.9) + math.log(0.2) + math.log(0.7) + math.log(0.5)) / 4
    assert found["nll"] == pytest.approx(expected, rel=1e-12)
    low, high = found["reliability"]
    assert low == {"low": 0.0, "high": 0.5, "count": 1, "confidence": 0.5, "accuracy": 1.0}
    assert (high["low"], high["high"], high["count"]) == (0.5, 1.0, 3)
    assert high["confidence"] == pytest.approx(0.8, rel=1e-12)
    assert high["accuracy"] == pytest.approx(2 / 3, rel=1e-12)
    assert found["bins"] == 2


def test_a_bin_without_examples_counts_nothing():
    found = calibrate.calibration(np.array([[1.0, 0.0]]), np.array([0]))
    assert found["ece"] == 0
    empty, *_, last = found["reliability"]
    assert len(found["reliability"]) == 15
    assert (empty["count"], empty["confidence"], empty["accuracy"]) == (0, None, None)
    assert (last["count"], last["confidence"], last["accuracy"]) == (1, 1.0, 1.0)


def test_equal_to_scikit_learn():
    said, labels = example()
    found = calibrate.calibration(said, labels)
    exact = said.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    assert found["nll"] == pytest.approx(log_loss(labels, exact), rel=1e-6)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, exact), rel=1e-6)
    confidence, right = exact.max(axis=1), exact.argmax(axis=1) == labels
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    filled = [row for row in found["reliability"] if row["count"]]
    np.testing.assert_allclose([row["accuracy"] for row in filled], accuracy, rtol=1e-6)
    np.testing.assert_allclose([row["confidence"] for row in filled], mean, rtol=1e-6)
    share = np.array([row["count"] for row in filled]) / len(labels)
    assert found["ece"] == pytest.approx((share * np.abs(accuracy - mean)).sum(), rel=1e-5)


def test_two_classes_have_scikit_learns_brier_score():
    said, labels = example(classes=2)
    expected = brier_score_loss(labels, said[:, 1])
    assert calibrate.calibration(said, labels)["brier"] == pytest.approx(expected, rel=1e-6)


def test_a_probability_of_zero_costs_87_nats():
    found = calibrate.calibration(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert found["nll"] == pytest.approx(126 * math.log(2), rel=1e-12)  # 2^-126


def test_a_temperature_is_a_softmax_of_divided_logits():
    # Logits ln 9 and 0 at T = 2: ln 3 and 0, so 3/4 and 1/4.
    found = calibrate.at_temperature(np.array([[0.9, 0.1]]), 2.0)
    np.testing.assert_allclose(found, [[0.75, 0.25]], rtol=1e-12)
    said, _ = example()
    np.testing.assert_allclose(calibrate.at_temperature(said, 1.0), said, rtol=1e-5)


def test_the_temperature_of_a_model_that_is_always_90_percent_sure_and_75_percent_right():
    # softmax(ln 9 / T) = 3/4 where 9^(1/T) = 3, so T = 2.
    said = np.tile([0.9, 0.1], (40, 1))
    labels = (np.arange(40) % 4 == 0).astype(int)
    found = calibrate.fit_temperature(said, labels)
    assert found == pytest.approx(2.0, rel=1e-4)
    after = calibrate.calibration(calibrate.at_temperature(said, found), labels)
    assert after["ece"] < 1e-4
    assert after["nll"] < calibrate.calibration(said, labels)["nll"]


def test_the_fitted_temperature_has_the_least_loss_on_a_grid():
    said, labels = example(n=4000)
    found = calibrate.fit_temperature(said, labels)
    assert found == pytest.approx(2.0, rel=0.1)  # labels were drawn at half the logits

    def loss(temperature):
        return calibrate.calibration(calibrate.at_temperature(said, temperature), labels)["nll"]

    assert all(loss(found) <= loss(t) + 1e-12 for t in np.linspace(1.5, 2.5, 41))


def test_always_right_has_a_temperature_near_the_lowest_and_always_wrong_the_highest():
    said = np.tile([0.9, 0.1], (4, 1))
    right = calibrate.fit_temperature(said, np.zeros(4, int))
    assert 0.05 <= right < 0.065  # (1/9)^(1/0.065) is 2e-15: from there on the loss is 0 in floats
    assert calibrate.fit_temperature(said, np.ones(4, int)) == pytest.approx(20, rel=1e-3)
