"""What follows from the order of scores: ROC and precision-recall curves, thresholds, abstaining.

Curves are thinned for drawing; areas are of the whole curve. No threshold is chosen here but the
one asked for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_POINTS = 200  # of a curve
MOST_CURVES = 20  # classes; with more, areas only
THRESHOLDS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
NAN = float("nan")


def roc(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Returns the ROC curves, of each class against the rest; with two classes that of class 1.

    'auroc' is the mean of the areas of the classes that have both examples and counter-examples,
    NaN if there is none; 'curves' a list of 'name', 'auroc', and, with at most 20 classes, 'fpr'
    and 'tpr': false and true positive rates, both ascending from 0 to 1.

    Args:
      probabilities: f[n, classes].
      labels: int[n].
      names: of the classes, by label.
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # takes a second to load

    curves: list[dict[str, Any]] = []
    for label in _curve_labels(len(names)):
        truth, scores = labels == label, probabilities[:, label]
        curve: dict[str, Any] = {"name": names[label], "auroc": NAN}
        if truth.any() and not truth.all():
            curve["auroc"] = float(roc_auc_score(truth, scores))
            if len(names) <= MOST_CURVES:
                fpr, tpr, _ = roc_curve(truth, scores)
                curve |= {"fpr": _thinned(fpr), "tpr": _thinned(tpr)}
        curves.append(curve)
    return {"auroc": _mean([curve["auroc"] for curve in curves]), "curves": curves}


def precision_recall(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Returns precision-recall curves, for the classes and with the arguments of `roc`.

    'average_precision' (scikit-learn's: precision weighted by the steps of recall) in place of
    'auroc', 'recall' (from 1 to 0) and 'precision' in place of 'fpr' and 'tpr', and 'share' of the
    class, which is the precision of guessing.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    curves: list[dict[str, Any]] = []
    for label in _curve_labels(len(names)):
        truth, scores = labels == label, probabilities[:, label]
        share = float(truth.mean())
        curve: dict[str, Any] = {"name": names[label], "share": share, "average_precision": NAN}
        if truth.any():
            curve["average_precision"] = float(average_precision_score(truth, scores))
            if len(names) <= MOST_CURVES:
                precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
                curve |= {"recall": _thinned(recall), "precision": _thinned(precision)}
        curves.append(curve)
    mean = _mean([curve["average_precision"] for curve in curves])
    return {"average_precision": mean, "curves": curves}


def _curve_labels(classes: int) -> Sequence[int]:
    return [1] if classes == 2 else range(classes)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else NAN


def _thinned(values: np.ndarray) -> list[float]:
    """Returns up to `MOST_POINTS` of the values, evenly spaced by rank, both ends among them."""
    if len(values) > MOST_POINTS:
        values = values[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)]
    return [float(value) for value in values]


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float, float]:
    """Returns (PPV, NPV) by Bayes' theorem; NaN where nothing is called so.

    >>> round(predictive_values(0.9, 0.8, 0.5)[0], 6)  # 0.45 / (0.45 + 0.1)
    0.818182
    """
    true_positive, false_negative = sensitivity * prevalence, (1 - sensitivity) * prevalence
    true_negative = specificity * (1 - prevalence)
    false_positive = (1 - specificity) * (1 - prevalence)
    return (
        _share(true_positive, true_positive + false_positive),
        _share(true_negative, true_negative + false_negative),
    )


def thresholds(
    scores: np.ndarray,
    positive: np.ndarray,
    at: Sequence[float] = THRESHOLDS,
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Returns what calling an example positive from a score on would mean, for two classes.

    Args:
      scores: f[n], the probability of the positive class.
      positive: bool[n].
      at: thresholds; a score equal to one is called positive.
      prevalence: in (0, 1), share of positives where the model is to be used. None is that of the
        split, which is often not that of a clinic.

    Returns:
      'prevalence' of the split, 'used_prevalence', for which the predictive values are, and 'rows'
      of 'threshold', the counts 'tp', 'fp', 'tn', 'fn', 'sensitivity', 'specificity', 'ppv' and
      'npv'; a share of nothing is NaN.
    """
    own = float(positive.mean())
    used = own if prevalence is None else prevalence
    rows = []
    for threshold in at:
        called = scores >= threshold
        tp, fp = int((called & positive).sum()), int((called & ~positive).sum())
        fn, tn = int(positive.sum()) - tp, int((~positive).sum()) - fp
        sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
        if prevalence is None:  # the same as by Bayes, without its rounding
            ppv, npv = _share(tp, tp + fp), _share(tn, tn + fn)
        else:
            ppv, npv = predictive_values(sensitivity, specificity, prevalence)
        rows.append(
            {
                "threshold": float(threshold),
                "tp": tp,
                "fp": fp,
                "tn": tn,
                "fn": fn,
                "sensitivity": sensitivity,
                "specificity": specificity,
                "ppv": ppv,
                "npv": npv,
            }
        )
    return {"prevalence": own, "used_prevalence": used, "rows": rows}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else NAN


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Returns the error among the examples a model is surest of, for every share of them.

    Args:
      confidence: f[n], n at least 1.
      right: bool[n].

    Returns:
      'coverage' and 'risk' (the error among those accepted), surest first, a point for each
      distinct confidence, thinned; and 'aurc' (Geifman and El-Yaniv 2017, arXiv:1705.08500), the
      mean over k of the risk of the k surest. Equally sure ones count as in random order.
    """
    _, coverage, risk, errors = _accepting(confidence, right)
    count = len(right)
    covered = np.arange(1, count + 1)
    # Within a group of equally sure examples the expected errors grow along a straight line.
    sizes = np.concatenate([[0.0], coverage * count])
    expected = np.interp(covered, sizes, np.concatenate([[0.0], errors]))
    return {
        "coverage": _thinned(coverage),
        "risk": _thinned(risk),
        "aurc": float((expected / covered).mean()),
    }


def threshold_for_error(confidence: np.ndarray, right: np.ndarray, wanted: float) -> float | None:
    """Returns the lowest confidence from which on accepted examples err at most `wanted`.

    Fit it on validation. On other pictures the error is about that, not at most that: see
    `accepted`.

    Args:
      confidence: f[n], of the likeliest class.
      right: bool[n].
      wanted: share of accepted examples that may be wrong, in [0, 1].

    Returns:
      A confidence that occurs; None if no threshold does it.
    """
    levels, _, risk, _ = _accepting(confidence, right)
    enough = np.flatnonzero(risk <= wanted)
    return float(levels[enough[-1]]) if len(enough) else None


def accepted(confidence: np.ndarray, right: np.ndarray, threshold: float) -> tuple[float, float]:
    """Returns (coverage, error) of accepting what has at least a confidence; error NaN of none."""
    taken = confidence >= threshold
    return float(taken.mean()), _share(int((taken & ~right).sum()), int(taken.sum()))


def _accepting(
    confidence: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct confidences, falling; of accepting each: coverage, risk and errors."""
    levels, place = np.unique(confidence, return_inverse=True)
    counts = np.bincount(place)[::-1].cumsum()
    errors = np.bincount(place, ~right)[::-1].cumsum()
    return levels[::-1], counts / len(right), errors / counts, errors
