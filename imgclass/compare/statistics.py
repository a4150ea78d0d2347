"""Intervals and tests of differences, in the one form the table needs. SciPy does the arithmetic.

Pure functions of arrays; nothing here knows of runs. Intervals are of 95%, tests two-sided. What
cannot be computed, such as a t test of values that do not vary, is NaN: never 0, never 1.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from imgclass.evaluate import bootstrap

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference of means, first less second, with its interval and p-value.

    Attributes:
      name: of the test that gave `p`.
      difference: in the unit of the values.
      low: lower end of the 95% interval, NaN if there is none.
      high: its upper end.
      p: two-sided, not corrected; NaN if there is none.
    """

    name: str
    difference: float
    low: float
    high: float
    p: float


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the t interval of a mean, mean -+ t(0.975, n - 1) sd / sqrt(n).

    Args:
      values: f64[n], independent, n at least 2; NaN, NaN if they do not vary.

    Source: Student (1908), The Probable Error of a Mean.
    """
    if _constant(values):
        return math.nan, math.nan
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values)
    mean = float(np.mean(values))
    return mean - float(half), mean + float(half)


def paired_t(first: np.ndarray, second: np.ndarray, over: str) -> Comparison:
    """Tests whether the mean of paired differences is 0.

    Args:
      first: f64[n].
      second: f64[n], its pairs.
      over: what the pairs are, for the test's name: 'seeds'.
    """
    name, apart = f"paired t over {over}", first - second
    if len(apart) < 2 or _constant(apart):
        return Comparison(name, float(np.mean(apart)), math.nan, math.nan, math.nan)
    found = stats.ttest_1samp(apart, 0.0)
    interval = found.confidence_interval(LEVEL)
    return Comparison(
        name, float(np.mean(apart)), float(interval.low), float(interval.high), float(found.pvalue)
    )


def welch_t(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Tests whether two independent means are equal, variances apart.

    Args:
      first: f64[n], n at least 2.
      second: f64[m], m at least 2.

    Source: Welch (1947), The Generalization of 'Student's' Problem.
    """
    difference = float(np.mean(first) - np.mean(second))
    if _constant(first) and _constant(second):
        return Comparison("Welch t over seeds", difference, math.nan, math.nan, math.nan)
    found = stats.ttest_ind(first, second, equal_var=False)
    interval = found.confidence_interval(LEVEL)
    return Comparison(
        "Welch t over seeds",
        difference,
        float(interval.low),
        float(interval.high),
        float(found.pvalue),
    )


def mcnemar(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Tests whether two classifiers are right equally often, on the same pictures.

    Of the pictures that only one of them has right, each has half if they are equally good; p is
    the exact binomial one, so that at most 5% of true nulls are rejected on any number of pictures.
    The interval is the bootstrap's over pictures.

    Args:
      first: bool[n], right or not.
      second: bool[n].

    Source: McNemar (1947), Note on the Sampling Error of the Difference Between Correlated
    Proportions or Percentages; Dietterich (1998), Approximate Statistical Tests.
    """
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    apart = first.astype(np.float64) - second.astype(np.float64)
    interval = bootstrap.of_mean(apart)
    return Comparison("McNemar, exact", float(np.mean(apart)), *interval, p)


def holm(p: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number; NaN is no test, stays NaN and is not counted.

    The smallest of m is multiplied by m, the next by m - 1, and none is less than the one before.
    The chance that any true null is rejected at 0.05 is then at most 5%, however they depend.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.
    """
    order = [int(i) for i in np.argsort(p, kind="stable") if not math.isnan(p[i])]
    corrected, least = [math.nan] * len(p), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p[i]))
        corrected[i] = least
    return corrected


def _constant(values: np.ndarray) -> bool:
    """Returns whether values differ by rounding only."""
    return bool(np.ptp(values) <= 1e-12 * np.max(np.abs(values)))
