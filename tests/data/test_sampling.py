"""Class-balanced and square-root sampling: shares, fairness within a class, and purity."""

import collections

import numpy as np
import pytest

from imgclass.data import order, sampling

# 100 examples of class 0, 36 of class 1, none of class 2, 4 of class 3; not sorted by class.
COUNTS = (100, 36, 0, 4)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS)).astype(np.int32)
N = 140


def stream(how, rows, seed=0, batch_size=7, repeats=1):
    of = sampling.make_order(seed, LABELS, batch_size, how, repeats)
    return np.concatenate([of(step) for step in range(-(-rows // batch_size))])[:rows]


@pytest.mark.parametrize("how", ["balanced", "sqrt"])
def test_every_epoch_has_the_shares_of_its_classes(how):
    # Square roots 10, 6, 0 and 2 of 140 rows: 77.8, 46.7 and 15.6. Balanced: 46.7 each.
    due = {"sqrt": [140 * 10 / 18, 140 * 6 / 18, 0, 140 * 2 / 18], "balanced": [140 / 3] * 4}[how]
    seen = LABELS[stream(how, 6 * N)].reshape(6, N)
    for number in range(6):
        for label in (0, 1, 3):
            assert abs(np.sum(seen[number] == label) - due[label]) < 2
    for label in (0, 1, 3):  # and no drift: over all six epochs still within a row
        assert abs(np.sum(seen == label) - 6 * due[label]) <= 1
    assert not np.any(seen == 2)


@pytest.mark.parametrize("how", ["balanced", "sqrt"])
def test_examples_of_a_class_come_equally_often(how):
    times = collections.Counter(stream(how, 5 * N + 33).tolist())
    for label in (0, 1, 3):
        own = [times[i] for i in np.flatnonzero(label == LABELS)]
        assert max(own) - min(own) <= 2  # within one by whole epochs; the last is cut in its middle
    whole = collections.Counter(stream(how, 5 * N).tolist())
    for label in (0, 1, 3):
        own = [whole[i] for i in np.flatnonzero(label == LABELS)]
        assert max(own) - min(own) <= 1


def test_classes_are_mixed_within_an_epoch():
    labels = LABELS[stream("balanced", N)]
    for half in (labels[:70], labels[70:]):
        assert all(15 <= np.sum(half == label) <= 32 for label in (0, 1, 3))  # 23.3 expected


@pytest.mark.parametrize("how", ["balanced", "sqrt", "uniform"])
def test_a_step_is_the_same_opened_there_or_walked_to(how):
    walked = [sampling.make_order(3, LABELS, 32, how)(step) for step in range(12)]
    of = sampling.make_order(3, LABELS, 32, how)
    for step in (11, 4, 0, 9):
        np.testing.assert_array_equal(of(step), walked[step])
    other = sampling.make_order(4, LABELS, 32, how)(0)
    assert other.dtype == np.int64
    assert (other != walked[0]).any()


@pytest.mark.parametrize("how", ["balanced", "sqrt"])
def test_batches_cut_one_stream(how):
    np.testing.assert_array_equal(
        stream(how, 300, batch_size=5), stream(how, 300, batch_size=300)
    )  # more than two epochs in one batch


@pytest.mark.parametrize("how", ["balanced", "sqrt"])
@pytest.mark.parametrize("counts", [(1,) * 49, (1, 1, 1), (1, 10_000), (7, 3, 11, 1)])
def test_no_row_is_lost_and_none_is_made(how, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    for epoch in (0, 1, 2, 97, 98):
        indices = sampling.epoch_indices(0, labels, epoch, how)
        assert len(indices) == len(labels)
        if set(counts) == {1}:
            assert sorted(indices.tolist()) == list(range(len(counts)))


def test_uniform_is_the_order_of_old():
    of = sampling.make_order(5, LABELS, 16)
    for step in (0, 8, 20):
        np.testing.assert_array_equal(of(step), order.batch_indices(5, N, 16, step))


@pytest.mark.parametrize("how", ["balanced", "uniform"])
def test_repeats_fill_rows_running(how):
    twice = stream(how, 200, repeats=2, batch_size=10)
    np.testing.assert_array_equal(twice, np.repeat(stream(how, 100), 2))


def test_two_classes_and_seeds_do_not_share_their_shuffles():
    labels = np.repeat([0, 1], 50)
    one = sampling.epoch_indices(0, labels, 0, "balanced")
    first, second = one[one < 50], one[one >= 50] - 50
    assert (first != second).any()
    big = sampling.epoch_indices(2**63 - 1, labels, 0, "balanced")
    assert sorted(big.tolist()) == list(range(100))
