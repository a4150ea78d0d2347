"""Bootstrap intervals, against SciPy's, scikit-learn and the binomial distribution."""

import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from imgclass.evaluate import bootstrap


def drawn(counts):
    """The rows of a resample, from how often each was drawn."""
    return np.repeat(np.arange(len(counts)), counts.astype(int))


def test_resamples_add_up_and_come_in_parts_that_change_nothing(monkeypatch):
    whole = np.concatenate(list(bootstrap.resampled(7, 50)))
    assert whole.shape == (50, 7)
    assert (whole.sum(axis=1) == 7).all()
    monkeypatch.setattr(bootstrap, "_CHUNK", 21)  # three rows at a time
    parts = list(bootstrap.resampled(7, 50))
    assert len(parts) == 17
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    other = np.concatenate(list(bootstrap.resampled(7, 50, seed=1)))
    assert (other != whole).any()


def test_an_example_is_drawn_once_on_average_and_left_out_as_often_as_e_says():
    counts = np.concatenate(list(bootstrap.resampled(100, 4000)))
    # (1 - 1/100)^100 = 0.3660; its standard error over 400,000 cells is below 0.001.
    assert (counts == 0).mean() == pytest.approx(0.99**100, abs=0.003)


def test_the_interval_of_an_accuracy_is_that_of_the_binomial_distribution():
    # 80 of 100 right: a resample's accuracy is Binomial(100, 0.8) / 100, quantiles 72 and 87.
    right = np.arange(100) < 80
    low, high = scipy.stats.binom.ppf([0.025, 0.975], 100, 0.8) / 100
    ((found_low, found_high),) = bootstrap.intervals([bootstrap.mean(right)], 100, 20_000)
    assert found_low == pytest.approx(low, abs=0.0051)
    assert found_high == pytest.approx(high, abs=0.0051)


def test_means_agree_with_scipys_percentile_method():
    values = np.random.default_rng(3).exponential(size=(40, 2))
    found = bootstrap.intervals([bootstrap.mean(column) for column in values.T], 40, 20_000)
    for column, interval in zip(values.T, found, strict=True):
        other = scipy.stats.bootstrap(
            (column,), np.mean, n_resamples=20_000, method="percentile", rng=5
        ).confidence_interval
        # The quantiles of 20,000 draws are uncertain by about 1% of the interval's width.
        np.testing.assert_allclose(interval, other, atol=0.02 * (other.high - other.low))


def test_a_difference_is_paired():
    random = np.random.default_rng(0)
    a = random.random(200) < 0.7
    b = a.copy()
    b[:4] = ~b[:4]
    low, high = bootstrap.of_mean(a.astype(int) - b)
    assert high - low < 0.045  # 4 of 200 differ; unpaired it would be some 0.18 wide


def test_auroc_of_a_resample_is_scikit_learns():
    random = np.random.default_rng(1)
    scores = random.integers(0, 8, 60) / 8  # ties
    positive = random.random(60) < 0.4
    figure = bootstrap.auroc(scores, positive)
    (counts,) = bootstrap.resampled(60, 25)
    expected = [roc_auc_score(positive[rows], scores[rows]) for rows in map(drawn, counts)]
    np.testing.assert_allclose(figure(counts), expected, rtol=1e-12)


def test_balanced_accuracy_of_a_resample_is_scikit_learns():
    random = np.random.default_rng(2)
    labels = random.integers(0, 4, 50) * 2  # classes 1, 3 and 5 have no example
    predicted = np.where(random.random(50) < 0.6, labels, 1)
    figure = bootstrap.balanced_accuracy(predicted == labels, labels)
    (counts,) = bootstrap.resampled(50, 25)
    for row, found in zip(counts, figure(counts), strict=True):
        rows = drawn(row)
        with warnings.catch_warnings():  # of classes that are predicted and not there
            warnings.simplefilter("ignore")
            expected = balanced_accuracy_score(labels[rows], predicted[rows])
        assert found == pytest.approx(expected, rel=1e-12)


def test_a_resample_without_a_class_has_no_say():
    # One positive of three: (2/3)^3 = 30% of resamples lack it, 1/27 have nothing else.
    scores, positive = np.array([0.1, 0.2, 0.9]), np.array([False, False, True])
    figure = bootstrap.auroc(scores, positive)
    assert np.isnan(figure(np.array([[1.0, 2, 0], [0, 0, 3]]))).all()
    assert bootstrap.intervals([figure], 3) == [(1.0, 1.0)]
    ((low, high),) = bootstrap.intervals([bootstrap.auroc(scores, positive & False)], 3)
    assert np.isnan(low)
    assert np.isnan(high)
