"""The figures of the log, from outcomes: those of `score.score` on the same rows."""

import numpy as np
import pytest

from imgclass.evaluate import figures
from imgclass.evaluate.outcomes import Outcomes
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


def outcomes(probabilities, labels):
    rows = np.asarray(probabilities, np.float32)
    return Outcomes(rows, np.asarray(labels, np.int32), np.arange(len(rows)))


def test_three_classes_by_hand():
    # Right, right, wrong; losses -ln 0.5, -ln 0.8, -ln 0.25.
    said = outcomes([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.5, 0.25, 0.25]], [0, 1, 1])
    found = figures.of(said)
    assert found.keys() == {"examples", "loss", "accuracy", "balanced_accuracy"}
    assert found["examples"] == 3
    assert found["loss"] == pytest.approx(np.log([2, 1.25, 4]).mean(), rel=1e-6)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_two_classes_by_hand():
    said = outcomes([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]], [0, 0, 1, 1])
    found = figures.of(said)
    assert (found["sensitivity"], found["specificity"]) == (0.5, 1.0)
    assert found["auroc"] == pytest.approx(0.75)
    assert "top5" not in found


def test_six_classes_have_a_top5():
    rows = np.full((2, 6), 0.1)
    rows[:, 0], rows[1, 5] = 0.5, 0.05
    assert figures.of(outcomes(rows, [0, 5]))["top5"] == 0.5


def test_a_probability_of_0_is_a_finite_loss():
    assert figures.of(outcomes([[1.0, 0.0]], [1]))["loss"] == pytest.approx(87.3365, rel=1e-5)
