"""Sections on what a model's probabilities are worth: ranking, calibration, abstaining."""

from typing import Any

from imgclass.report import charts, markup


def ranking(content: dict[str, Any]) -> str:
    """Returns ROC and precision-recall curves, and for two classes the table of thresholds."""
    roc, pr = content["measures"]["roc"], content["measures"]["precision_recall"]
    two = len(content["class_names"]) == 2
    how = (
        "How well the scores alone tell the classes apart, whatever the threshold. AUROC is the "
        "chance that a picture of the class scores higher than one that is not of it: 0.5 is "
        "guessing, 1 perfect."
    )
    means = [
        ("AUROC" + " (mean over classes, each against the rest)" * (not two), roc["auroc"]),
        ("Average precision" + " (mean over classes)" * (not two), pr["average_precision"]),
    ]
    parts = [markup.note("; ".join(f"{name}: {markup.number(v, 4)}" for name, v in means) + ".")]
    drawn = _curves(roc["curves"], "auroc", "fpr", "tpr")
    other = _curves(pr["curves"], "average_precision", "recall", "precision")
    if drawn and other:
        which = "" if two or len(roc["curves"]) <= len(drawn) else ", the worst classes"
        parts.append(
            markup.charts(
                markup.chart(
                    f"ROC{which}",
                    charts.lines(
                        "ROC curves", drawn, "false positive rate", "true positive rate",
                        square=True, diagonal=True,
                    ),
                ),
                markup.chart(
                    f"Precision and recall{which}",
                    charts.lines(
                        "precision-recall curves", other, "recall", "precision", square=True
                    ),
                ),
            )
        )  # fmt: skip
    parts.append(_thresholds(content["measures"]["thresholds"]))
    return markup.section("ranking", "Ranking", how, *parts)


def _curves(curves: list[dict[str, Any]], key: str, x: str, y: str) -> dict[str, Any]:
    """Returns the curves of the classes told apart worst, as many as a chart can hold."""
    known = [curve for curve in curves if x in curve]
    worst = sorted(known, key=lambda curve: curve[key])[: len(charts.SERIES)]
    return {
        f"{charts.short(curve['name'])} ({curve[key]:.3f})": (curve[x], curve[y]) for curve in worst
    }


def _thresholds(table: dict[str, Any] | None) -> str:
    if table is None:
        return ""
    rows = [
        (
            markup.number(row["threshold"], 2),
            *(markup.percent(row[k]) for k in ("sensitivity", "specificity", "ppv", "npv")),
            row["fp"],
            row["fn"],
        )
        for row in table["rows"]
    ]
    half = next((i for i, row in enumerate(table["rows"]) if row["threshold"] == 0.5), None)
    head = ("call it so from", "sensitivity", "specificity", "PPV", "NPV", "false alarms", "missed")
    words = (
        f"Calling a picture {table['positive']} from a probability on. Predictive values hold for "
        f"a prevalence of {table['used_prevalence']:.1%}; where it is rarer, PPV is lower."
    )
    return "<h3>Thresholds</h3>" + markup.note(words) + markup.table(head, rows, 0, half)


def calibration(content: dict[str, Any]) -> str:
    """Returns whether the probabilities mean what they say, as they are and with a temperature."""
    found = content["measures"]
    rows = [("as they are", found["calibration"])]
    if found["calibrated"] is not None:
        rows.append((f"at temperature {found['temperature']:.2f}", found["calibrated"]))
    table = markup.table(
        ("probabilities", "ECE", "Brier score", "NLL, nats"),
        [
            (
                name,
                markup.percent(c["ece"], 2),
                markup.number(c["brier"], 4),
                markup.number(c["nll"], 4),
            )
            for name, c in rows
        ],
    )
    drawn = []
    for name, c in rows:
        bins = c["reliability"]
        drawn.append(
            markup.chart(
                f"Reliability, {name}",
                charts.reliability(
                    f"reliability {name}",
                    [*(b["low"] for b in bins), bins[-1]["high"]],
                    [b["accuracy"] for b in bins],
                    [b["confidence"] for b in bins],
                    [b["count"] for b in bins],
                ),
            )
        )
    fitted = content["temperature_fitted_on"]
    same = " Here that is the split it is fitted on, which flatters it." * (
        fitted == content["split"]
    )
    note = markup.note(
        f"The temperature is fitted on {fitted}; it divides the logits, and changes no decision. "
        f"Above 1 the net was too sure of itself.{same}"
    )
    return markup.section(
        "calibration",
        "Calibration",
        "Of the pictures the net is 80% sure of, 80% should be right: bars below the dotted line "
        "are overconfidence. ECE is the mean distance from that line.",
        table,
        note,
        markup.charts(*drawn),
    )


def selective(content: dict[str, Any]) -> str:
    """Returns the error left if the net may abstain, and thresholds for some errors."""
    found = content["measures"]["selective"]
    chart = charts.lines(
        "risk over coverage", {"error": (found["coverage"], found["risk"])},
        "share of pictures that is answered", "error among these",
    )  # fmt: skip
    rows = [
        (
            markup.percent(row["wanted"]),
            markup.number(row["threshold"], 4),
            markup.percent(row["validation_coverage"]),
            markup.percent(row["coverage"]),
            markup.percent(row["error"], 2),
        )
        for row in found["thresholds"]
    ]
    head = ("wanted error", "answer from", "answered, validation",
            f"answered, {content['split']}", f"error, {content['split']}")  # fmt: skip
    parts = [markup.chart(f"Area under the curve: {found['aurc']:.4f}", chart)]
    parts += [markup.table(head, rows, words=0)] * bool(rows)
    return markup.section(
        "selective",
        "If the net may say nothing",
        "Answering only where the net is surest leaves fewer errors: read off how many pictures "
        "go to a person for the error you can bear. A curve that does not fall to the left says "
        "that the net does not know what it does not know.",
        markup.charts(*parts),
    )
