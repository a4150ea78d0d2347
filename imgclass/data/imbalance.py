"""Making a balanced set long-tailed: which examples are kept, a pure function of labels and a seed.

For studies of class imbalance on sets that have none. What to do about an imbalance is elsewhere:
`sampling.py`, and class weights, focal loss and logit adjustment in `losses.py`.
"""

import numpy as np

_TAG = 3  # of this purpose; 1 and 2 are carve.py's, of the same seed


def long_tail(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Thins classes out so that their sizes fall exponentially, in the order of their numbers.

    Of the K classes that occur, the k-th from 0 keeps n_max * ratio^(-k / (K - 1)) examples,
    rounded down but at least 1, where n_max is the size of the largest. A class that has fewer
    keeps all that it has.

    Args:
      labels: int[n], the class of each example.
      ratio: size of the first class over that of the last, at least 1.
      seed: any integer; equal seeds keep the same examples on every machine and NumPy version. A
        larger ratio keeps a part of what a smaller one keeps.

    Returns:
      int64[k], ascending positions of the examples kept.

    Source: Cui et al. (2019), arXiv:1901.05555, section 5.1, with the counts of Cao et al. (2019),
    arXiv:1906.07413: of CIFAR-10 at 100, 5000 to 50 and 12,406 in all.

    >>> labels = np.repeat([0, 1, 2], 10)
    >>> np.bincount(labels[long_tail(labels, 10.0, seed=0)]).tolist()
    [10, 3, 1]
    """
    labels = np.asarray(labels)
    # Raw output and a stable sort, as in carve.py: NumPy promises the bits for ever.
    key = np.array([seed % 2**64, _TAG], np.uint64)
    order = np.argsort(np.random.Philox(key=key).random_raw(len(labels)), kind="stable")
    classes, counts = np.unique(labels, return_counts=True)
    kept = [
        order[labels[order] == label][: _size(counts.max(), ratio, place, len(classes))]
        for place, label in enumerate(classes)
    ]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)


def _size(largest: int, ratio: float, place: int, classes: int) -> int:
    share = ratio ** (-place / max(classes - 1, 1))
    # Rounded first, so that 49.99999999999999 counts as the 50 that was meant.
    return max(1, int(np.floor(np.round(largest * share, 9))))
