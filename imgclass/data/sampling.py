"""Which examples make up a step where classes are to be seen other than as often as they occur.

Like `order`, which it stands in for, a pure function of (seed, labels, step) and nothing else. An
epoch keeps its length; a rare class's examples come several times in it, a common one's not all.
"""

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np

from imgclass.data import order

_STREAM = 2**32  # beyond any class: keeps a class's draws apart from those of `order`


def make_order(
    seed: int, labels: np.ndarray, batch_size: int, how: str = "uniform", repeats: int = 1
) -> Callable[[int], np.ndarray]:
    """Returns the function from a step to its examples, int64[batch_size].

    A class c of n_c examples is drawn in proportion to n_c^q: q = 1 'uniform', over examples;
    q = 1/2 'sqrt'; q = 0 'balanced', over classes. Source: Kang et al. (2020), arXiv:1910.09217,
    eq. 1. They draw each row anew; here `epoch_indices` deals them out evenly.

    Args:
      seed: the run's seed.
      labels: int[n], the training split's.
      batch_size: rows of the global batch.
      how: 'uniform', which is `order.batch_indices`, 'sqrt' or 'balanced'.
      repeats: as for `order.batch_indices`.
    """
    labels = np.asarray(labels)
    if how == "uniform":
        return functools.partial(
            order.batch_indices, seed, len(labels), batch_size, repeats=repeats
        )
    # A batch touches two epochs at most unless it spans whole ones.
    of_epoch = functools.lru_cache(maxsize=2)(
        functools.partial(epoch_indices, seed, labels, how=how)
    )
    return lambda step: order.rows_of(of_epoch, len(labels), batch_size, step, repeats)


def epoch_indices(seed: int, labels: np.ndarray, epoch: int, how: str) -> np.ndarray:
    """Returns the examples of one epoch in order, int64[n].

    The run's rows are one endless stream of which class c owns the share s_c. After e epochs it
    has had floor(e * n * S_c) - floor(e * n * S_(c-1)) rows, S the running sum of s, so every
    epoch has its due to within one row. Row j of a class holds example j % n_c of the class's
    shuffle number j // n_c: all of its examples come equally often, whatever the epochs' edges.
    `order.permutation` then shuffles the epoch.

    Args:
      seed: the run's seed.
      labels: int[n].
      epoch: from 0.
      how: 'sqrt' or 'balanced'.
    """
    n = len(labels)
    counts = np.bincount(labels)
    # Whole numbers throughout: rounding could lose a row. Roots in units of 2^-20.
    share = [math.isqrt(c << 40) if how == "sqrt" else min(c, 1) for c in counts.tolist()]
    ends = list(itertools.accumulate(share))

    def rows_before(epoch: int) -> np.ndarray:
        return np.diff([epoch * n * end // ends[-1] for end in ends], prepend=0)

    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    begin, end = rows_before(epoch), rows_before(epoch + 1)
    drawn = [
        examples[_dealt(seed, label, len(examples), begin[label], end[label])]
        for label, examples in enumerate(by_class)
        if len(examples)
    ]
    return np.concatenate(drawn)[order.permutation(seed, epoch, n)]


def _dealt(seed: int, label: int, count: int, begin: int, end: int) -> np.ndarray:
    """Returns int64[end - begin], places in a class: its shuffles one after the other, cut out."""
    if begin == end:
        return np.empty(0, np.int64)
    first, last = begin // count, (end - 1) // count
    shuffles = []
    for number in range(first, last + 1):
        key = np.array([seed, number], np.uint64)
        words = np.random.Philox(key=key, counter=[0, 0, 0, _STREAM + label]).random_raw(count)
        shuffles.append(np.argsort(words, kind="stable"))
    return np.concatenate(shuffles)[begin - first * count : end - first * count]
