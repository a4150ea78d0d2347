"""Scores by hand: which figure is better, and the metrics of three batches with padding."""

import math

import numpy as np
import pytest

from imgclass import step
from imgclass.data.preprocess import Preprocess
from imgclass.evaluate import score
from tests import tiny

NAN = math.nan


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


@pytest.mark.parametrize(
    ("metric", "new", "old", "better"),
    [
        ("accuracy", 0.5, None, True),  # the first is the best so far
        ("accuracy", 0.0, None, True),
        ("accuracy", 0.6, 0.5, True),
        ("accuracy", 0.5, 0.5, False),  # a tie keeps the earlier
        ("accuracy", 0.4, 0.5, False),
        ("accuracy", NAN, None, False),
        ("accuracy", NAN, 0.1, False),
        ("auroc", 0.9, 0.8, True),
        ("auroc", 0.8, 0.9, False),
        ("loss", 0.5, None, True),
        ("loss", 0.4, 0.5, True),  # of losses the smaller
        ("loss", 0.5, 0.5, False),
        ("loss", 0.6, 0.5, False),
        ("loss", NAN, None, False),
        ("loss", NAN, 5.0, False),
    ],
)
def test_is_better(metric, new, old, better):
    assert score.is_better(metric, new, old) is better


class Lights:
    """A model whose logit of class k is ln 3 where channel k of the first pixel is lit, else 0."""

    def __init__(self, classes):
        self.classes = classes

    def apply(self, variables, x):
        return x[:, 0, 0, : self.classes] * variables["scale"], {}


def batch(lit, labels, real):
    """Rows of one pixel: `lit` has the channel of each that is at 255, or None."""
    images = np.zeros((len(lit), 1, 1, 3), np.uint8)
    for row, channel in enumerate(lit):
        if channel is not None:
            images[row, 0, 0, channel] = 255
    return {
        "image": images,
        "label": np.array(labels, np.int32),
        "index": np.arange(len(lit), dtype=np.int32),
        "mask": np.arange(len(lit)) < real,
    }


def scored(classes, batches):
    eval_step = step.make_eval_step(
        model=Lights(classes), prepare=Preprocess(image_size=(1, 1)), num_classes=classes
    )
    return score.score(eval_step, {"scale": np.float32(math.log(3))}, batches, classes)


def test_three_batches_of_two_classes():
    # softmax([0, ln 3]) = [1/4, 3/4]: a row whose own class is lit costs ln(4/3) nats and is right,
    # one whose other class is lit costs ln 4 and is wrong; without light both have 1/2, which
    # costs ln 2 and is right for class 0 only.
    batches = [
        batch([1, 0, 0, 1], [1, 1, 0, 0], 4),  # right, wrong, right, wrong
        batch([1, 0, None, None], [1, 0, 1, 0], 4),  # right, right, wrong, right
        batch([0, 0, 0, 0], [0, 1, 1, 1], 1),  # right; three rows of padding, all wrong
    ]
    found = scored(2, batches)
    assert found.keys() == {
        "examples", "loss", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc",
    }  # fmt: skip
    assert found["examples"] == 9
    # 5 ln(4/3) + 2 ln 4 + 2 ln 2 = 16 ln 2 - 5 ln 3 = 11.090355 - 5.493061.
    assert found["loss"] == pytest.approx(5.597294 / 9, rel=1e-6)
    assert found["accuracy"] == pytest.approx(6 / 9, rel=1e-12)
    assert found["sensitivity"] == pytest.approx(2 / 4, rel=1e-12)
    assert found["specificity"] == pytest.approx(4 / 5, rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx((2 / 4 + 4 / 5) / 2, rel=1e-12)
    # Positives score 3/4, 1/4, 3/4, 1/2 and negatives 1/4, 3/4, 1/4, 1/2, 1/4. Each 3/4 wins
    # against four and ties with one; 1/4 ties with three; 1/2 wins against three and ties with one.
    assert found["auroc"] == pytest.approx((2 * 4.5 + 1.5 + 3.5) / 20, rel=1e-12)


def test_three_classes_have_no_curve():
    # softmax([ln 3, 0, 0]) = [3/5, 1/5, 1/5].
    found = scored(3, [batch([0, 1], [0, 0], 2), batch([2, 2], [2, 1], 1)])
    assert found.keys() == {"examples", "loss", "accuracy", "balanced_accuracy"}
    assert found["examples"] == 3
    expected = (2 * math.log(5 / 3) + math.log(5)) / 3
    assert found["loss"] == pytest.approx(expected, rel=1e-6)
    assert found["accuracy"] == pytest.approx(2 / 3, rel=1e-12)
    # Half of class 0, all of class 2; class 1 has no picture, and no say.
    assert found["balanced_accuracy"] == pytest.approx(0.75, rel=1e-12)


def test_a_picture_that_gives_nan_is_wrong_and_shows_in_the_loss_unless_it_is_padding():
    class Broken(Lights):
        def apply(self, variables, x):
            logits, features = super().apply(variables, x)
            return logits / x[:, 0, 0, :1], features  # 0 / 0 where channel 0 is dark

    def scored(real):
        eval_step = step.make_eval_step(
            model=Broken(3), prepare=Preprocess(image_size=(1, 1)), num_classes=3
        )
        batches = [batch([0, None], [0, 0], real)]
        return score.score(eval_step, {"scale": np.float32(math.log(3))}, batches, 3)

    assert scored(1) == {
        "examples": 1, "loss": pytest.approx(math.log(5 / 3), rel=1e-6), "accuracy": 1.0,
        "balanced_accuracy": 1.0,
    }  # fmt: skip
    assert math.isnan(scored(2)["loss"])
    assert scored(2)["accuracy"] == 0.5
