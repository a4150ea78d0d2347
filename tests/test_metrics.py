"""Metric sums and windows, against hand counts and scikit-learn."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from imgclass import metrics


def sums_of(logits, labels, mask=None, losses=None):
    logits = jnp.asarray(logits, jnp.float32)
    n = logits.shape[0]
    losses = jnp.zeros(n, jnp.float32) if losses is None else jnp.asarray(losses, jnp.float32)
    mask = jnp.ones(n, bool) if mask is None else jnp.asarray(mask)
    got = jax.jit(metrics.batch_sums)(logits, losses, jnp.asarray(labels, jnp.int32), mask)
    return {name: (float(total), int(count)) for name, (total, count) in got.items()}


def test_three_classes_by_hand():
    # Rows 0 and 2 are right, row 1 is wrong, row 3 is padding that would have been right.
    logits = [[2, 1, 0], [2, 1, 0], [0, 0, 5], [9, 0, 0]]
    got = sums_of(logits, [0, 1, 2, 0], [True, True, True, False], [0.5, 1.25, 0.25, 100.0])
    assert got == {"loss": (2.0, 3), "accuracy": (2.0, 3)}


def test_nothing_leaks_from_padding():
    logits = [[1.0, 0.0], [np.nan, np.nan]]
    got = sums_of(logits, [0, 1], [True, False], [0.5, np.nan])
    assert got["loss"] == (0.5, 1)
    assert got["accuracy"] == (1.0, 1)
    assert got["sensitivity"] == (0.0, 0)
    assert got["specificity"] == (1.0, 1)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_nan_logit_on_a_real_row_shows_in_the_loss_and_is_wrong(label):
    got = sums_of([[np.nan, 1.0, 0.0]], [label], losses=[np.nan])
    assert math.isnan(got["loss"][0])
    assert got["accuracy"] == (0.0, 1)


def test_ties_go_to_the_smaller_class():
    assert sums_of([[1, 1, 0]] * 3, [0, 1, 2])["accuracy"] == (1.0, 3)


def test_top5_by_hand():
    # Logits 6..0: label 4 is fifth, label 5 is sixth. All equal: classes 0 to 4 are on top.
    falling, flat = [6, 5, 4, 3, 2, 1, 0], [0] * 7
    assert sums_of([falling] * 2, [4, 5])["top5"] == (1.0, 2)
    assert sums_of([flat] * 7, range(7))["top5"] == (5.0, 7)
    assert sums_of([[np.nan] * 7], [0])["top5"] == (0.0, 1)


def test_balanced_accuracy_against_scikit_learn():
    """Three batches of 4 classes, the rarest with 3 examples and the last with none.

    Its balanced_accuracy_score warns of a class that is predicted and not there.
    """
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat([0, 1, 2], [70, 17, 3])).astype(np.int32)
    logits = (random.standard_normal((90, 4)) + 1.5 * np.eye(4)[labels]).astype(np.float32)
    totals = np.zeros((2, 4), np.int64)
    for rows in np.split(np.arange(90), 3):
        mask = np.ones(32, bool)
        mask[30:] = False  # two rows of padding that would be right
        padded = np.concatenate([rows, rows[:2]])
        pair = jax.jit(metrics.class_sums)(logits[padded], labels[padded], mask)
        totals += np.asarray(pair)
    np.testing.assert_array_equal(totals[1], [70, 17, 3, 0])
    expected = sklearn.metrics.recall_score(
        labels, logits.argmax(1), labels=[0, 1, 2], average="macro"
    )
    assert 0.3 < expected < 0.95
    np.testing.assert_allclose(metrics.balanced_accuracy(*totals), expected, rtol=1e-12)


def test_balanced_accuracy_of_ties_and_nan():
    # Ties go to class 0; a row with a NaN is wrong.
    logits = jnp.array([[1.0, 1.0], [1.0, 1.0], [jnp.nan, 5.0], [0.0, 5.0]])
    right, counts = metrics.class_sums(logits, jnp.array([0, 1, 1, 1]), jnp.ones(4, bool))
    assert (right.tolist(), counts.tolist()) == ([1, 1], [1, 3])
    assert metrics.balanced_accuracy(np.array([1, 1]), np.array([1, 3])) == (1 + 1 / 3) / 2
    assert math.isnan(metrics.balanced_accuracy(np.zeros(2), np.zeros(2)))


@pytest.mark.parametrize(("classes", "expected"), [(5, False), (6, True)])
def test_top5_needs_more_than_five_classes(classes, expected):
    assert ("top5" in sums_of(np.zeros((1, classes)), [0])) is expected


def test_top1_and_top5_agree_with_scikit_learn():
    from sklearn.metrics import top_k_accuracy_score

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 9)), rng.integers(0, 9, 200)
    got = sums_of(logits, labels)
    for name, k in (("accuracy", 1), ("top5", 5)):
        expected = top_k_accuracy_score(labels, logits, k=k, labels=range(9), normalize=False)
        assert got[name] == (expected, 200)


def test_sensitivity_and_specificity_by_hand():
    # Labels 1 1 1 0 0, predictions 1 1 0 0 1: 2 of 3 positives, 1 of 2 negatives.
    logits = [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1]]
    got = sums_of(logits, [1, 1, 1, 0, 0])
    assert got["sensitivity"] == (2.0, 3)
    assert got["specificity"] == (1.0, 2)


def test_batch_sums_refuses_rows_that_do_not_match():
    with pytest.raises(ValueError, match=r"losses \(1,\)"):
        metrics.batch_sums(
            jnp.zeros((2, 3)), jnp.zeros(1), jnp.zeros(2, jnp.int32), jnp.ones(2, bool)
        )


def test_a_short_last_batch_counts_once():
    # 4 right then 1 wrong is 4/5; a mean of batch means is (1 + 0) / 2.
    window = metrics.Window()
    window.add({"accuracy": (jnp.float32(4), jnp.int32(4))})
    window.add({"accuracy": (jnp.float32(0), jnp.int32(1))})
    assert window.means() == {"accuracy": 0.8}
    assert window.counts() == {"accuracy": 5}


def test_a_metric_that_counted_nothing_is_left_out():
    window = metrics.Window()
    window.add({"loss": (jnp.float32(1), 2), "sensitivity": (jnp.float32(0), 0)})
    assert window.means() == {"loss": 0.5}
    assert metrics.Window().means() == {}


def test_stacked_steps_fold_like_single_ones():
    values = np.random.default_rng(1).normal(size=50).astype(np.float32)
    one_by_one, stacked = metrics.Window(), metrics.Window()
    for value in values:
        one_by_one.add({"loss": (value, 1)})
    stacked.add({"loss": (jnp.asarray(values), jnp.ones(50, jnp.int32))})
    assert one_by_one.to_json() == stacked.to_json()


@pytest.mark.parametrize("split", [0, 1, 37, 100])
def test_a_window_split_by_a_restart_is_bit_identical(split):
    # Magnitudes from 1e-8 to 1e8, so that another order of additions gives another sum.
    rng = np.random.default_rng(2)
    values = (rng.normal(size=100) * 10.0 ** rng.integers(-8, 9, 100)).astype(np.float32)
    whole, first = metrics.Window(), metrics.Window()
    for value in values:
        whole.add({"loss": (value, 3)})
    for value in values[:split]:
        first.add({"loss": (value, 3)})
    second = metrics.Window.from_json(first.to_json())
    for value in values[split:]:
        second.add({"loss": (value, 3)})
    assert second.means() == whole.means()
    assert second.to_json() == whole.to_json()
    if split == 37:
        backwards = metrics.Window()
        for value in values[::-1]:
            backwards.add({"loss": (value, 3)})
        assert backwards.means() != whole.means()


def test_totals_are_float64():
    # 2^24 + 1 is lost in float32.
    window = metrics.Window()
    window.add({"loss": (np.float32(2**24), 1)})
    window.add({"loss": (np.float32(1), 0)})
    assert window.means() == {"loss": 2.0**24 + 1}


def test_json_is_strict_even_with_nan():
    window = metrics.Window()
    window.add({"loss": (jnp.float32(jnp.nan), 1), "x": (jnp.float32(jnp.inf), 1)})

    def refuse(token):
        raise AssertionError(token)

    assert json.loads(window.to_json(), parse_constant=refuse)["loss"] == ["nan", "1.0"]
    restored = metrics.Window.from_json(window.to_json()).means()
    assert math.isnan(restored["loss"])
    assert restored["x"] == math.inf


def test_reset_forgets_pending_and_folded_sums():
    window = metrics.Window()
    window.add({"loss": (1.0, 1)})
    window.drain()
    window.add({"loss": (1.0, 1)})
    window.reset()
    assert window.means() == {}


def test_auroc_by_counting_pairs():
    # Positives 0.35 and 0.8 against negatives 0.1 and 0.4: 3 of 4 pairs in order. A tie is half.
    assert metrics.auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert metrics.auroc(np.array([0.5, 0.5]), np.array([0, 1])) == 0.5


@pytest.mark.parametrize(
    ("scores", "labels"), [([0.1, 0.2], [1, 1]), ([], []), ([np.nan, 0.2], [0, 1])]
)
def test_auroc_is_nan_where_it_is_undefined(scores, labels):
    assert math.isnan(metrics.auroc(np.array(scores, float), np.array(labels, int)))


def test_auroc_refuses_a_third_class():
    with pytest.raises(ValueError, match=r"got \[0, 1, 2\]"):
        metrics.auroc(np.array([0.1, 0.2, 0.3]), np.array([0, 1, 2]))
