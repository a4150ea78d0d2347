"""Scores a split: every example once, on any number of devices. Reads a model, writes nothing."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from imgclass import metrics, parallel
from imgclass.step import EvalStep


def score(
    eval_step: EvalStep, variables: Any, batches: Iterable[dict], num_classes: int
) -> dict[str, float]:
    """Returns the metrics of a split.

    Args:
      eval_step: compiled, from `step.make_eval_step`.
      variables: {'params', 'batch_stats'}.
      batches: global batches whose padding rows are masked (`data.feed.EvalFeed`).
      num_classes: with 2, class 1 is the positive one and 'auroc' is added.

    Returns:
      'examples', 'loss' (nats), 'accuracy' and the others of `metrics.batch_sums`, and
      'balanced_accuracy'.
    """
    window = metrics.Window()
    scores, labels, by_class = [], [], []
    for batch in batches:
        sums, probabilities = eval_step(variables, batch)
        by_class.append(sums.pop("by_class"))
        window.add(sums)
        if num_classes == 2:
            host = parallel.fetch((probabilities, batch["label"], batch["mask"]))
            values, truth, real = map(np.asarray, host)
            scores.append(values[real, 1])
            labels.append(truth[real])
    result: dict[str, float] = {"examples": window.counts().get("loss", 0)}
    result |= window.means()
    if by_class:
        right, counts = np.sum(jax.device_get(by_class), axis=0)
        result["balanced_accuracy"] = metrics.balanced_accuracy(right, counts)
    if scores:
        result["auroc"] = metrics.auroc(np.concatenate(scores), np.concatenate(labels))
    return result


def is_better(metric: str, new: float, old: float | None) -> bool:
    """Returns whether `new` beats `old`; NaN never does, and a tie keeps the earlier."""
    if np.isnan(new):
        return False
    if old is None:
        return True
    return new < old if metric == "loss" else new > old
