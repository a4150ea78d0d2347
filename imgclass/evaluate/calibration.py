"""Whether probabilities mean what they say: ECE, Brier score, NLL, and the temperature that helps.

Functions of probabilities and labels. Nothing is fitted unasked, and a temperature never changes
which class is the likeliest.
"""

from typing import Any

import numpy as np
import scipy.optimize

BINS = 15
TEMPERATURES = (0.05, 20.0)  # between which one is looked for
_SMALLEST = float(np.finfo(np.float32).tiny)  # a float32 probability below it is 0 on many devices


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Measures calibration.

    - 'ece': expected calibration error (Guo et al. 2017, arXiv:1706.04599), the mean over examples
      of |accuracy - mean confidence| of their bin; confidence is the probability of the likeliest
      class, and the bins are (0, 1/bins], (1/bins, 2/bins], ...
    - 'brier': the mean squared distance of the probabilities from the truth, summed over classes
      and so in [0, 2]; with two classes that of class 1 alone, in [0, 1], as scikit-learn has it.
    - 'nll': mean negative log-likelihood of the true class in nats; a probability counts as at
      least 1.2e-38, the smallest normal float32.
    - 'reliability': for each bin 'low', 'high', 'count', and the mean 'confidence' and 'accuracy',
      None in an empty bin.

    Args:
      probabilities: f[n, classes], n at least 1.
      labels: int[n].
      bins: of equal width.
    """
    exact = probabilities.astype(np.float64)
    rows, classes = exact.shape
    confidence, right = exact.max(axis=1), exact.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(bin_of, minlength=bins)
    sure = np.bincount(bin_of, confidence, bins)
    hits = np.bincount(bin_of, right, bins)
    misses = exact.copy()
    misses[np.arange(rows), labels] -= 1
    return {
        "ece": float(np.abs(hits - sure).sum() / rows),
        "brier": float((misses**2).sum() / rows) / (2 if classes == 2 else 1),
        "nll": _nll(exact, labels),
        "bins": bins,
        "reliability": [
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "count": int(counts[i]),
                "confidence": float(sure[i] / counts[i]) if counts[i] else None,
                "accuracy": float(hits[i] / counts[i]) if counts[i] else None,
            }
            for i in range(bins)
        ],
    }


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns T, the temperature at which `at_temperature` has the smallest NLL (Guo et al. 2017).

    Above 1 the model was too sure of itself. Between 0.05 and 20: a model that is always right has
    no best one, and gets one near 0.05. Fit it on validation, and use it on other pictures.
    """
    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        return _nll(_softmax(logits / np.exp(log_temperature)), labels)

    found = scipy.optimize.minimize_scalar(
        loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns f64[n, classes], softmax(logits / temperature).

    Logits are not needed: log p is a row's logits but for a constant.
    """
    return _softmax(_logits(probabilities) / temperature)


def _nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, _SMALLEST)).mean())


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
