"""The figures of a run's log, from what the model said of every example.

They are those of `score.score`, by the same functions; it keeps sums of a running evaluation and no
probabilities. Here the loss of a probability that float32 holds as 0 is that of the smallest it
holds otherwise, 87.3 nats.
"""

import jax.numpy as jnp
import numpy as np

from imgclass import metrics
from imgclass.evaluate.outcomes import Outcomes


def of(outcomes: Outcomes) -> dict[str, float]:
    """Returns 'examples', and what `score.score` returns, under the names that it has there."""
    probabilities, labels = outcomes.probabilities, outcomes.labels
    own = probabilities[np.arange(len(labels)), labels]
    losses = -np.log(np.maximum(own, np.finfo(np.float32).tiny))
    rows = map(jnp.asarray, (probabilities, losses, labels, np.ones(len(labels), bool)))
    scores, losses, truth, real = rows
    window = metrics.Window()
    window.add(metrics.batch_sums(scores, losses, truth, real))
    right, counts = map(np.asarray, metrics.class_sums(scores, truth, real))
    figures: dict[str, float] = {"examples": len(labels), **window.means()}
    figures["balanced_accuracy"] = metrics.balanced_accuracy(right, counts)
    if probabilities.shape[1] == 2:
        figures["auroc"] = metrics.auroc(probabilities[:, 1], labels)
    return figures
