"""Holding examples out: a pure function of labels, a fraction, a seed, and groups if there are any.

The choice has to be the same on every machine and for years, so it rests on the raw output of a
counter-based bit generator and a stable sort, and on nothing that may change with a release.
"""

import numpy as np

# One stream of random numbers a purpose; the numbers are part of the contract, like a file format.
VALIDATION_TAG, TEST_TAG = 1, 2


def carve(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    tag: int = VALIDATION_TAG,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Chooses examples to hold out, class by class.

    The result has round(fraction * n) examples, spread over classes in proportion (largest
    remainder), except that a class of two or more examples keeps at least one on each side, even
    if the result grows by it, and a class of one stays where it is. With groups, whole groups are
    moved in random order for as long as that brings the class counts nearer to those numbers.

    Args:
      labels: int[n], the class of each example.
      fraction: share to hold out, in [0, 1).
      seed: any integer; equal seeds give equal choices on every machine and NumPy version.
      tag: which purpose this choice serves, so that two carvings are independent.
      groups: int[n] in [0, g), or None. Examples of a group stay together.

    Returns:
      int64[k], ascending positions of the examples held out.
    """
    labels = np.asarray(labels)
    if groups is None:
        groups = np.arange(len(labels))
    classes, class_of = np.unique(labels, return_inverse=True)
    units, unit_of = np.unique(groups, return_inverse=True)
    # Raw output, not Generator.permutation: NumPy promises the bits of a bit generator for ever,
    # but not what its distributions make of them (NEP 19).
    key = np.array([seed % 2**64, tag], np.uint64)
    order = np.argsort(np.random.Philox(key=key).random_raw(len(units)), kind="stable")
    targets = _targets(np.bincount(class_of, minlength=len(classes)), fraction)
    if len(units) == len(labels):
        ranked = class_of[np.argsort(unit_of)][order]
        taken = [order[ranked == c][: targets[c]] for c in range(len(classes))]
        chosen = np.concatenate(taken) if taken else np.zeros(0, np.int64)
    else:
        chosen = _choose_groups(class_of, unit_of, order, targets)
    return np.flatnonzero(np.isin(unit_of, chosen)).astype(np.int64)


def _targets(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Returns how many examples of each class to hold out, int64[classes]."""
    total = int(np.floor(fraction * counts.sum() + 0.5))
    if total == 0:
        return np.zeros_like(counts)
    most = np.maximum(counts - 1, 0)
    # Rounded, so that 0.29 * 100 = 28.999999999999996 counts as the 29 that was meant.
    share = np.round(fraction * counts, 9)
    targets = np.clip(np.floor(share).astype(np.int64), np.minimum(most, 1), most)
    while targets.sum() < min(total, most.sum()):
        lacking = np.where(targets < most, share - targets, -np.inf)
        targets[np.argmax(lacking)] += 1
    return targets


def _choose_groups(
    class_of: np.ndarray, unit_of: np.ndarray, order: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Returns the groups to hold out; see `carve`."""
    by_unit = np.argsort(unit_of, kind="stable")
    bounds = np.searchsorted(unit_of[by_unit], np.arange(len(order) + 1))
    contents = [
        np.unique(class_of[by_unit[bounds[u] : bounds[u + 1]]], return_counts=True)
        for u in range(len(order))
    ]
    left = np.bincount(class_of, minlength=len(targets))
    held = np.zeros_like(left)
    chosen = np.zeros(len(order), bool)

    def toggle(unit: int) -> None:
        classes, counts = contents[unit]
        moved = -counts if chosen[unit] else counts
        held[classes] += moved
        left[classes] -= moved
        chosen[unit] = not chosen[unit]

    def improves(unit: int) -> bool:
        classes, counts = contents[unit]
        lacking = targets[classes] - held[classes]
        after = lacking + counts if chosen[unit] else lacking - counts
        # Chi-square, so that missing a rare class by one weighs more than missing a common one.
        return ((lacking**2 - after**2) / np.maximum(targets[classes], 1)).sum() > 1e-9

    def can_go(unit: int) -> bool:
        classes, counts = contents[unit]
        return bool(np.all(left[classes] > counts))

    moving = True
    while moving:  # every move lowers the distance, so this ends
        moving = False
        for unit in order:
            if improves(unit) and (chosen[unit] or can_go(unit)):
                toggle(unit)
                moving = True
    for wanted in np.flatnonzero((targets > 0) & (held == 0)):
        # A class whose groups were all too big: its smallest, if training keeps some of each class.
        fitting = [u for u in order if wanted in contents[u][0] and not chosen[u] and can_go(u)]
        if fitting and held[wanted] == 0:
            toggle(min(fitting, key=lambda u: contents[u][1].sum()))
    return np.flatnonzero(chosen)
