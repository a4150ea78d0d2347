"""The order of examples: which examples make up step k, a pure function of (seed, n, k).

Nothing here reads data or keeps state, so a run can be stopped, resumed, or spread over other
devices and processes without any example being seen twice or missed.
"""

import functools
from collections.abc import Callable

import numpy as np


@functools.lru_cache(maxsize=2)  # a batch touches two epochs at most unless it spans whole ones
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns int64[n], the shuffled examples of one epoch; read-only.

    Sorting raw Philox words is stable across NumPy versions, which `Generator.permutation` is
    not promised to be (NEP 19). Two equal 64-bit words keep their order; harmless and rare.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order


def batch_indices(seed: int, n: int, batch_size: int, step: int, repeats: int = 1) -> np.ndarray:
    """Returns the examples of a training step.

    Row r of step s stands at position p = s * batch_size + r of one endless stream. With q =
    p // repeats it holds place q % n of the permutation of epoch q // n: `repeats` rows running
    hold one example, each augmented by its own key (Hoffer et al. 2020, arXiv:1901.09335). A batch
    may straddle two epochs, so none is cut short.

    The run's own epochs stay n rows long whatever `repeats` is, as with torchvision's sampler: one
    of them then holds n / repeats different examples. There the rest of the permutation is thrown
    away; here the next epoch goes on with it, so all are seen equally often.

    Args:
      seed: the run's seed.
      n: size of the training split.
      batch_size: rows of the global batch.
      step: updates done before this one.
      repeats: rows that an example fills each time its turn comes.

    Returns:
      int64[batch_size], indices into the training split.

    >>> batch_indices(seed=0, n=4, batch_size=6, step=0)
    array([0, 2, 1, 3, 3, 2])
    >>> batch_indices(seed=0, n=4, batch_size=6, step=0, repeats=2)
    array([0, 0, 2, 2, 1, 1])
    >>> sorted(batch_indices(seed=0, n=4, batch_size=4, step=5).tolist())
    [0, 1, 2, 3]
    """
    return rows_of(lambda epoch: permutation(seed, epoch, n), n, batch_size, step, repeats)


def rows_of(
    epoch_order: Callable[[int], np.ndarray], n: int, batch_size: int, step: int, repeats: int
) -> np.ndarray:
    """Returns a step's rows, int64[batch_size], of epochs of int64[n]; as `batch_indices`."""
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions // repeats, n)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        indices[rows] = epoch_order(int(epoch))[places[rows]]
    return indices
