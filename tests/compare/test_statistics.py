"""Intervals and tests against figures worked out by hand or printed in textbooks."""

import math

import numpy as np
import pytest
from scipy import stats

from imgclass.compare import statistics
from imgclass.evaluate import bootstrap

# Student (1908), Cushny and Peebles's data: hours of sleep gained by ten patients on two drugs.
FIRST = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], np.float64)
SECOND = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4], np.float64)


def test_t_interval_by_hand():
    # 1, 2, 3: mean 2, sd 1, standard error 1/sqrt(3) = 0.57735, t(0.975, 2) = 4.30265 (tables).
    # Half the width is 2.48413.
    low, high = statistics.mean_interval(np.array([1.0, 2.0, 3.0], np.float64))
    assert (low, high) == pytest.approx((2 - 2.48413, 2 + 2.48413), abs=1e-4)


def test_paired_t_of_students_own_example():
    # Printed in many books: mean 1.58, t = 4.0621, 9 degrees of freedom, p = 0.002833, and the
    # interval 0.7001 to 2.4599.
    found = statistics.paired_t(SECOND, FIRST, "seeds")
    assert found.name == "paired t over seeds"
    assert found.difference == pytest.approx(1.58)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_welch_t_of_the_same_as_if_not_paired():
    # R's documentation, t.test(extra ~ group, sleep): p-value = 0.07939, -3.3654832 to 0.2054832.
    found = statistics.welch_t(FIRST, SECOND)
    assert found.difference == pytest.approx(-1.58)
    assert found.p == pytest.approx(0.07939, abs=1e-5)
    assert (found.low, found.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-6)


def right(*counts):
    """Returns bool pairs: both right, only the first, only the second, neither."""
    pairs = [(True, True), (True, False), (False, True), (False, False)]
    rows = [pair for pair, count in zip(pairs, counts, strict=True) for _ in range(count)]
    return np.array(rows, bool).T


def test_mcnemar_by_hand():
    # 8 pictures only the first has right, 2 only the second. Of Binomial(10, 1/2) 0, 1, 2 and
    # 8, 9, 10 are as far out: 2 (1 + 10 + 45) / 1024 = 0.109375. The difference is 6 of 30.
    found = statistics.mcnemar(*right(15, 8, 2, 5))
    assert found.p == pytest.approx(0.109375)
    assert found.difference == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    assert statistics.mcnemar(*right(15, 2, 8, 5)).p == pytest.approx(0.109375)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 5), (1, 9), (12, 30), (7, 7)])
def test_mcnemar_is_the_tail_of_a_binomial(only_first, only_second):
    n, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    found = statistics.mcnemar(*right(3, only_first, only_second, 4))
    assert found.p == pytest.approx(min(1.0, 2 * tail))


def test_classifiers_that_agree_do_not_differ():
    found = statistics.mcnemar(*right(20, 0, 0, 5))
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2 (= 0.06, not less than the one before), 0.9 x 1.
    assert statistics.holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert statistics.holm([0.4, 0.7]) == pytest.approx([0.8, 0.8])
    assert statistics.holm([]) == []


def test_holm_counts_only_tests_that_were_made():
    corrected = statistics.holm([0.02, math.nan, 0.5])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])


def test_what_does_not_vary_is_neither_certain_nor_chance():
    same = statistics.paired_t(np.array([0.5, 0.25]), np.array([0.5, 0.25]), "seeds")
    assert same.difference == 0.0
    assert math.isnan(same.p)
    assert all(map(math.isnan, statistics.mean_interval(np.array([0.9917, 0.9917]))))
    # Every seed 0.1 better, but for rounding: nothing to estimate a deviation from.
    base = np.array([0.7, 0.8, 0.9], np.float64)
    shifted = statistics.paired_t(base + 0.1, base, "seeds")
    assert shifted.difference == pytest.approx(0.1)
    assert math.isnan(shifted.p)
    assert math.isnan(shifted.low)
    assert math.isnan(statistics.welch_t(np.full(3, 0.5), np.full(3, 0.6)).p)


def too_often(events, trials, rate):
    """Returns whether a count is more than 1 in 1,000 above what a rate would give."""
    return stats.binomtest(events, trials, rate, alternative="greater").pvalue < 0.001


def test_intervals_cover_the_truth_95_times_in_100():
    random, trials, missed = np.random.default_rng(0), 1000, 0
    for _ in range(trials):
        low, high = statistics.mean_interval(random.normal(0.9, 0.02, 4))
        missed += not low < 0.9 < high
    assert abs(missed / trials - 0.05) < 0.021  # 3 standard errors


@pytest.mark.parametrize("paired", [True, False])
def test_without_a_difference_few_families_show_one(paired):
    # Five groups against one baseline that all are the same, 4 seeds each: at most 5% of families
    # have a corrected p below 0.05. Without correction some 15% have.
    random, trials, wrong, plain = np.random.default_rng(1), 150, 0, 0
    for _ in range(trials):
        base, *others = random.normal(0.9, 0.01, (6, 4))
        test = (lambda a, b: statistics.paired_t(a, b, "seeds")) if paired else statistics.welch_t
        p = [test(other, base).p for other in others]
        wrong += min(statistics.holm(p)) < 0.05
        plain += min(p) < 0.05
    assert not too_often(wrong, trials, 0.05)
    assert too_often(plain, trials, 0.05)


def test_without_a_difference_few_families_of_single_runs_show_one(monkeypatch):
    monkeypatch.setattr(bootstrap, "of_mean", lambda values: (0.0, 0.0))  # for speed
    random, trials, wrong = np.random.default_rng(2), 300, 0
    for _ in range(trials):
        hard = random.random(150) * 0.3 + 0.7  # how likely each picture is right: runs agree
        base, *others = random.random((6, 150)) < hard
        wrong += min(statistics.holm([statistics.mcnemar(o, base).p for o in others])) < 0.05
    assert not too_often(wrong, trials, 0.05)
