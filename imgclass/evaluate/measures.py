"""Every figure of a split, from its outcomes: `summarise`, and the functions it is made of.

scikit-learn does the arithmetic where it has the measure. What depends on a threshold is in
`ranking`, what on the size of probabilities in `calibration`, how sure a mean is in `bootstrap`;
the names others use are here too. Nothing is scored, drawn or written.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgclass import metrics, run
from imgclass.errors import UserError
from imgclass.evaluate import bootstrap
from imgclass.evaluate.calibration import at_temperature, calibration, fit_temperature
from imgclass.evaluate.outcomes import Outcomes
from imgclass.evaluate.ranking import (
    accepted,
    precision_recall,
    predictive_values,
    risk_coverage,
    roc,
    threshold_for_error,
    thresholds,
)

__all__ = [
    "accepted",
    "at_temperature",
    "calibration",
    "confused",
    "confusion",
    "figures",
    "fit_temperature",
    "per_class",
    "precision_recall",
    "predictive_values",
    "risk_coverage",
    "roc",
    "summarise",
    "threshold_for_error",
    "thresholds",
    "top_k",
]
WANTED_ERRORS = (0.005, 0.01, 0.02, 0.05)  # for which `summarise` looks for a threshold


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns i64[classes, classes]: row the true class, column the predicted one."""
    from sklearn.metrics import confusion_matrix  # takes a second to load

    return confusion_matrix(labels, predicted, labels=np.arange(classes))


def per_class(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns 'name', 'precision', 'recall', 'f1', 'support' (examples) and 'predicted', by class.

    NaN is a share of nothing: the recall of a class without examples, say.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(names)), zero_division=np.nan
    )
    called = np.bincount(predicted, minlength=len(names))
    return [
        {
            "name": name,
            "precision": float(precision[label]),
            "recall": float(recall[label]),
            "f1": float(f1[label]),
            "support": int(support[label]),
            "predicted": int(called[label]),
        }
        for label, name in enumerate(names)
    ]


def top_k(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Returns bool[n], whether fewer than k classes rank before the true one.

    Before it rank those with a larger probability, and those with an equal one and a lower label,
    as in `metrics.batch_sums`. A row with a NaN is wrong.
    """
    known = ~np.isnan(probabilities).any(axis=1)
    own = probabilities[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    before = (probabilities > own) | ((probabilities == own) & earlier)
    return known & (before.sum(axis=1) < k)


def confused(matrix: np.ndarray, names: Sequence[str], most: int = 10) -> list[dict[str, Any]]:
    """Returns the pairs of classes confused most often, most first; equal ones by label.

    Returns:
      Up to `most` of 'true' and 'predicted' (labels), 'true_name', 'predicted_name', 'count', and
      'share' of the examples of the true class. A pair that never occurs is left out.
    """
    errors = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
    return [
        {
            "true": int(true),
            "predicted": int(predicted),
            "true_name": names[true],
            "predicted_name": names[predicted],
            "count": int(errors[true, predicted]),
            "share": float(errors[true, predicted] / matrix[true].sum()),
        }
        for true, predicted in pairs
        if errors[true, predicted]
    ]


def figures(outcomes: Outcomes) -> dict[str, dict[str, float]]:
    """Returns name -> 'value', 'low' and 'high': a figure and its 95% bootstrap interval.

    Names and values are those of metrics.jsonl: 'accuracy', 'top5' where there are more than 5
    classes, 'balanced_accuracy', and 'auroc' where there are 2.
    """
    said, labels, right = outcomes.probabilities, outcomes.labels, outcomes.right
    classes = said.shape[1]
    hits = np.bincount(labels, right, classes)
    balanced = metrics.balanced_accuracy(hits, np.bincount(labels, minlength=classes))
    found = {
        "accuracy": (right.mean(), bootstrap.mean(right)),
        "balanced_accuracy": (balanced, bootstrap.balanced_accuracy(right, labels)),
    }
    if classes > 5:
        in_top = top_k(said, labels, 5)
        found["top5"] = (in_top.mean(), bootstrap.mean(in_top))
    if classes == 2:
        area = metrics.auroc(said[:, 1], labels)
        found["auroc"] = (area, bootstrap.auroc(said[:, 1], labels == 1))
    drawn = bootstrap.intervals([resampled for _, resampled in found.values()], len(outcomes))
    intervals = dict(zip(found, drawn, strict=True))
    if right.all() or not right.any():
        intervals["accuracy"] = bootstrap.of_share(right)
    if classes > 5 and (in_top.all() or not in_top.any()):
        intervals["top5"] = bootstrap.of_share(in_top)
    return {
        name: {"value": float(value), "low": intervals[name][0], "high": intervals[name][1]}
        for name, (value, _) in found.items()
    }


def summarise(
    outcomes: Outcomes,
    class_names: Sequence[str],
    temperature: float | None = None,
    validation: Outcomes | None = None,
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Returns every figure of a split as plain JSON data; what is not defined is None.

    Keys:
      examples: how many.
      figures: `figures`: {'accuracy': {'value', 'low', 'high'}, ...}.
      classes: `per_class`.
      macro: 'precision', 'recall' and 'f1', the means over classes where they are defined.
      confusion: rows of `confusion`.
      confused: `confused`.
      roc, precision_recall: `roc`, `precision_recall`.
      thresholds: `thresholds` of class 1, its name in 'positive'; None unless there are 2 classes.
      calibration: `calibration`.
      temperature: as given.
      calibrated: `calibration` at that temperature; None without one.
      selective: `risk_coverage`, and 'thresholds': for each of the `WANTED_ERRORS` 'wanted', the
        'threshold' that validation gives for it, 'validation_coverage' and 'validation_error', and
        the 'coverage' and 'error' it has on this split; None of all where no threshold gives it,
        [] without `validation`.

    Args:
      outcomes: of the split.
      class_names: by label.
      temperature: `fit_temperature` of validation.
      validation: the same model's outcomes on validation.
      prevalence: for the table of thresholds, as `thresholds` has it.

    Raises:
      UserError: a probability is not finite, or there is no example.
    """
    _check(outcomes)
    names, labels, said = class_names, outcomes.labels, outcomes.probabilities
    matrix = confusion(labels, outcomes.predicted, len(names))
    classes = per_class(labels, outcomes.predicted, names)
    table = None
    if len(names) == 2:
        table = {"positive": names[1]}
        table |= thresholds(said[:, 1], labels == 1, prevalence=prevalence)
    calibrated = None
    if temperature is not None:
        calibrated = calibration(at_temperature(said, temperature), labels)
    selective = risk_coverage(outcomes.confidence, outcomes.right)
    selective["thresholds"] = [] if validation is None else _abstaining(validation, outcomes)
    return run.finite(
        {
            "examples": len(outcomes),
            "figures": figures(outcomes),
            "classes": classes,
            "macro": {key: _macro(classes, key) for key in ("precision", "recall", "f1")},
            "confusion": matrix.tolist(),
            "confused": confused(matrix, names),
            "roc": roc(said, labels, names),
            "precision_recall": precision_recall(said, labels, names),
            "thresholds": table,
            "calibration": calibration(said, labels),
            "temperature": temperature,
            "calibrated": calibrated,
            "selective": selective,
        }
    )


def _check(outcomes: Outcomes) -> None:
    if not len(outcomes):
        raise UserError("there are no examples to measure")
    broken = int((~np.isfinite(outcomes.probabilities)).any(axis=1).sum())
    if broken:
        raise UserError(
            f"the model's probabilities of {broken:,} of {len(outcomes):,} examples are not "
            "finite: these weights are broken; take another --checkpoint"
        )


def _macro(classes: list[dict[str, Any]], key: str) -> float:
    known = [entry[key] for entry in classes if not np.isnan(entry[key])]
    return float(np.mean(known)) if known else float("nan")


def _abstaining(validation: Outcomes, outcomes: Outcomes) -> list[dict[str, float | None]]:
    _check(validation)
    rows = []
    for wanted in WANTED_ERRORS:
        threshold = threshold_for_error(validation.confidence, validation.right, wanted)
        row: dict[str, float | None] = {"wanted": wanted, "threshold": threshold}
        for prefix, part in (("validation_", validation), ("", outcomes)):
            coverage, error = None, None
            if threshold is not None:
                coverage, error = accepted(part.confidence, part.right, threshold)
            row |= {f"{prefix}coverage": coverage, f"{prefix}error": error}
        rows.append(row)
    return rows
