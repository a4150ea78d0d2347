"""Metrics as (sum, count) pairs, and the host-side window that turns them into means.

Sums and counts travel; a mean is made once, at the edge, because a mean of batch means is wrong
as soon as one batch is short. Curves that need every score at once (AUROC) are NumPy functions.
Nothing here decides when to log.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[jax.Array, jax.Array]


def batch_sums(
    logits: jax.Array, losses: jax.Array, labels: jax.Array, mask: jax.Array
) -> dict[str, Pair]:
    """Sums one batch's metrics over its real rows.

    A row is right at top k if fewer than k classes rank before its label: those with a larger
    logit, and those with an equal one and a smaller class number. So top-1 is argmax, and equal
    logits everywhere put classes 0 to k-1 on top. A row with a NaN logit is wrong.

    Args:
      logits: f32[batch, K]. Padding rows may hold anything, NaN too.
      losses: f32[batch], nats. NaN on a real row makes the sum NaN; on padding it is ignored.
      labels: i32[batch], each in [0, K). Ignored where `mask` is false.
      mask: bool[batch], true for real rows.

    Returns:
      name -> (sum f32[], count i32[]): 'loss', 'accuracy' (top-1), 'top5' where K > 5; where
      K == 2 also 'sensitivity' (right among real rows of class 1, the positive class) and
      'specificity' (right among those of class 0).

    Raises:
      ValueError: at trace time, if the leading dimensions differ.
    """
    if not logits.shape[0] == losses.shape[0] == labels.shape[0] == mask.shape[0]:
        raise ValueError(
            f"leading dimensions differ: logits {logits.shape}, losses {losses.shape}, "
            f"labels {labels.shape}, mask {mask.shape}"
        )
    num_classes = logits.shape[1]
    labels = labels[:, None]
    own = jnp.take_along_axis(logits, labels, axis=1, mode="clip")
    earlier = jnp.arange(num_classes, dtype=labels.dtype)[None, :] < labels
    before = jnp.sum((logits > own) | ((logits == own) & earlier), axis=1)
    # Every comparison with NaN is false, which would rank a NaN row first.
    known = ~jnp.any(jnp.isnan(logits), axis=1)
    right = known & (before == 0)

    # where, not multiply: NaN * 0 is NaN.
    sums = {
        "loss": (jnp.sum(jnp.where(mask, losses, 0.0)), _count(mask)),
        "accuracy": _share(right, mask),
    }
    if num_classes > 5:
        sums["top5"] = _share(known & (before < 5), mask)
    if num_classes == 2:
        positive = labels[:, 0] == 1
        sums["sensitivity"] = _share(right, mask & positive)
        sums["specificity"] = _share(right, mask & ~positive)
    return sums


def class_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Pair:
    """Counts one batch's real rows by class, for `balanced_accuracy`.

    Args:
      logits: f32[batch, K]. A row is right as `batch_sums` has it.
      labels: i32[batch], each in [0, K). Ignored where `mask` is false.
      mask: bool[batch], true for real rows.

    Returns:
      (rows that are right i32[K], rows i32[K]).
    """
    known = ~jnp.any(jnp.isnan(logits), axis=1)
    right = known & (jnp.argmax(logits, axis=1) == labels)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool) & mask[:, None]
    return jnp.sum(own & right[:, None], axis=0, dtype=jnp.int32), jnp.sum(
        own, axis=0, dtype=jnp.int32
    )


def balanced_accuracy(right: np.ndarray, counts: np.ndarray) -> float:
    """The mean over classes of the share that is right; scikit-learn's `balanced_accuracy_score`.

    Args:
      right: number[K], examples of each class that are right.
      counts: number[K], examples of each class. One without any is left out of the mean.

    Returns:
      In [0, 1]; NaN without examples.

    >>> balanced_accuracy(np.array([90, 1, 0]), np.array([100, 2, 0]))
    0.7
    """
    present = counts > 0
    if not present.any():
        return float("nan")
    return float(np.mean(right[present] / counts[present]))


def _count(rows: jax.Array) -> jax.Array:
    return jnp.sum(rows, dtype=jnp.int32)


def _share(right: jax.Array, among: jax.Array) -> Pair:
    return _count(right & among).astype(jnp.float32), _count(among)


class Window:
    """Running totals over steps, on the host, in float64.

    `add` only keeps references, so a step is never waited for; `drain` fetches and folds them,
    one step after the other. The order of additions is thus the order of steps wherever drains
    and restarts fall, and the totals are the same to the last bit.

    >>> window = Window()
    >>> window.add({'loss': (3.0, 2), 'top5': (0.0, 0)})
    >>> window.add({'loss': (1.0, 2), 'top5': (0.0, 0)})
    >>> window.means()
    {'loss': 1.0}
    """

    def __init__(self) -> None:
        self._pending: list[Mapping[str, tuple[Any, Any]]] = []
        self._totals: dict[str, tuple[float, float]] = {}

    def add(self, sums: Mapping[str, tuple[Any, Any]]) -> None:
        """Takes name -> (sum, count): scalars, or arrays with one entry a step, in order."""
        self._pending.append(sums)

    def drain(self) -> None:
        """Waits for what was added and folds it into the totals."""
        pending, self._pending = self._pending, []
        for sums in jax.device_get(pending):
            for name, (values, counts) in sums.items():
                total, seen = self._totals.get(name, (0.0, 0.0))
                for value, count in zip(np.ravel(values), np.ravel(counts), strict=True):
                    total += float(value)
                    seen += float(count)
                self._totals[name] = (total, seen)

    def means(self) -> dict[str, float]:
        """Drains, and returns sum / count of each metric; one that counted nothing is left out."""
        self.drain()
        return {name: total / seen for name, (total, seen) in self._totals.items() if seen}

    def counts(self) -> dict[str, int]:
        """Drains, and returns how many rows each metric has counted."""
        self.drain()
        return {name: int(seen) for name, (_, seen) in self._totals.items()}

    def reset(self) -> None:
        """Forgets everything, pending sums included."""
        self._pending, self._totals = [], {}

    def to_json(self) -> str:
        """Drains, and returns the exact totals as a JSON object of name -> [sum, count].

        Numbers are written as strings: repr round-trips a float, and JSON has no NaN.
        """
        self.drain()
        return json.dumps({name: [repr(x) for x in pair] for name, pair in self._totals.items()})

    @classmethod
    def from_json(cls, text: str) -> "Window":
        """Restores what `to_json` wrote, bit for bit."""
        window = cls()
        for name, (total, seen) in json.loads(text).items():
            window._totals[name] = (float(total), float(seen))
        return window


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties half.

    Args:
      scores: float[n], larger means more surely class 1.
      labels: int[n], 0 or 1.

    Returns:
      In [0, 1]; NaN when a class is absent or a score is NaN, for then no area is defined.

    Raises:
      ValueError: a label is neither 0 nor 1.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    present = set(np.unique(labels).tolist())
    if not present <= {0, 1}:
        raise ValueError(f"auroc is for labels 0 and 1, got {sorted(present)}")
    if len(present) < 2 or np.isnan(scores).any():
        return float("nan")
    # Imported late: scikit-learn takes a second to load, and most runs never ask.
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))
