"""How sure a figure is: percentile bootstrap intervals over the examples of a split.

The interval is about the examples: another sample of as many pictures would have given about such
a figure. It knows nothing of how training would go with another seed, which `compare` measures.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

RESAMPLES = 2000
SEED = 0
COVERED = 0.95
_CHUNK = 2**22  # numbers in memory at a time

Interval = tuple[float, float]
Figure = Callable[[np.ndarray], np.ndarray]  # counts f64[part, n] -> f64[part]


def resampled(n: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """Yields how often each of n examples was drawn, f64[part, n], `resamples` rows in all.

    Every row is n draws with replacement, and adds up to n.
    """
    random = np.random.default_rng(seed)
    part = max(1, _CHUNK // n)
    for start in range(0, resamples, part):
        rows = min(part, resamples - start)
        drawn = random.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def intervals(
    figures: Sequence[Figure],
    n: int,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Interval]:
    """Returns the 95% interval of each figure, by the percentile method (Efron, 1979).

    A resample for which a figure is NaN (no example of a class was drawn) has no say in it.

    Args:
      figures: functions of counts, as `resampled` yields them; all see the same draws.
      n: examples, at least 1.
      resamples: how many.
      seed: of the draws.
    """
    parts = [
        np.stack([figure(counts) for figure in figures], axis=1)
        for counts in resampled(n, resamples, seed)
    ]
    tail = (1 - COVERED) / 2
    found = []
    for column in np.concatenate(parts).T:
        known = column[~np.isnan(column)]
        low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
        found.append((float(low), float(high)))
    return found


def mean(rows: np.ndarray) -> Figure:
    """Returns the mean of number[n], of each resample.

    Of a difference of two models, row by row, it gives the paired bootstrap.
    """
    values = np.asarray(rows, np.float64)
    return lambda counts: counts @ values / len(values)


def of_mean(values: np.ndarray) -> Interval:
    """Returns the 95% interval of the mean of number[n]."""
    return intervals([mean(values)], len(values))[0]


def of_share(right: np.ndarray) -> Interval:
    """Returns the 95% interval of the share of bool[n] that is true.

    Where all are, or none, no resample differs; then it is Wilson's, 0.979 to 1 for 180 of 180.

    Source: Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.
    """
    if right.any() and not right.all():
        return of_mean(right)
    found = stats.binomtest(int(right.sum()), len(right)).proportion_ci(COVERED, method="wilson")
    return float(found.low), float(found.high)


def balanced_accuracy(right: np.ndarray, labels: np.ndarray) -> Figure:
    """Returns `metrics.balanced_accuracy` of each resample."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)

    def figure(counts: np.ndarray) -> np.ndarray:
        drawn = counts[:, order]
        seen = np.add.reduceat(drawn, starts, axis=1)
        with np.errstate(invalid="ignore"):
            recall = np.add.reduceat(drawn * right[order], starts, axis=1) / seen
        return np.nanmean(recall, axis=1)

    return figure


def auroc(scores: np.ndarray, positive: np.ndarray) -> Figure:
    """Returns the area under the ROC curve of each resample.

    The area is the chance that a positive scores above a negative, ties half: one sum over the
    distinct scores. NaN where a resample lacks a class.

    Args:
      scores: f[n], larger means more surely positive.
      positive: bool[n].
    """
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    truth = positive[order]

    def figure(counts: np.ndarray) -> np.ndarray:
        drawn = counts[:, order]
        positives = np.add.reduceat(drawn * truth, starts, axis=1)
        negatives = np.add.reduceat(drawn * ~truth, starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return (positives * below).sum(axis=1) / pairs

    return figure
