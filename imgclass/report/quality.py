"""Sections on how often the model is right: in all, over time, and by class."""

from typing import Any

from imgclass.report import charts, markup

MOST_CLASSES = 30  # rows of the table by class; past that the worst
MOST_CELLS = 20  # classes along a side of the matrix; past that those confused most
NAMES = {
    "accuracy": "accuracy",
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
}


def headline(content: dict[str, Any]) -> str:
    """Returns the figures that matter most, each with its 95% interval."""
    figures = content["measures"]["figures"]
    tiles = []
    for key, name in NAMES.items():
        if key not in figures:
            continue
        show = markup.number if key == "auroc" else markup.percent
        digits = 4 if key == "auroc" else 2
        interval = figures[key]
        tiles.append(
            _tile(
                show(interval["value"], digits),
                name,
                f"{show(interval['low'], digits)} to {show(interval['high'], digits)}",
            )
        )
    test = (content["result"] or {}).get("test")
    if test and content["split"] != "test":
        below = f"at the end of the run, {test['examples']:,} pictures"
        tiles.append(_tile(markup.percent(test["accuracy"]), "test accuracy", below))
    calibration = content["measures"]["calibration"]
    tiles.append(_tile(markup.number(calibration["nll"]), "log loss", "nats a picture"))
    tiles.append(_tile(markup.percent(calibration["ece"]), "calibration error", "ECE"))
    return markup.section(
        "headline",
        "In short",
        f"Scored on the {content['examples']:,} pictures of {content['split']}, each once. Below "
        "a figure is its 95% interval: how much it could be another, with other pictures of the "
        "same kind.",
        f"<div class='tiles'>{''.join(tiles)}</div>",
    )


def _tile(value: str, name: str, below: str) -> str:
    return (
        f'<div class="tile"><div class="name">{markup.text(name)}</div>'
        f'<div class="value">{markup.text(value)}</div>'
        f'<div class="range soft">{markup.text(below)}</div></div>'
    )


def curves(content: dict[str, Any]) -> str:
    """Returns loss and accuracy over epochs."""
    found = content["curves"]
    drawn = []
    for key, unit in (("loss", "nats"), ("accuracy", "share that is right")):
        series = {split: (points["epoch"], points[key]) for split, points in found.items()}
        if any(value is not None for _, up in series.values() for value in up):
            drawn.append(
                markup.chart(
                    key.capitalize(), charts.lines(f"{key} over epochs", series, "epoch", unit)
                )
            )
    if not drawn:
        drawn.append(markup.note("metrics.jsonl holds no records."))
    return markup.section(
        "curves",
        "Learning curves",
        "Training figures are of augmented pictures, with dropout on where there is any, so they "
        "may be the worse ones. Validation loss that rises while training loss falls is "
        "overfitting; both still falling at the end ask for more epochs.",
        markup.charts(*drawn),
    )


def confusion(content: dict[str, Any]) -> str:
    """Returns the confusion matrix, of the classes confused most if there are many."""
    names, matrix = content["class_names"], content["measures"]["confusion"]
    chosen = list(range(len(names)))
    note = ""
    if len(names) > MOST_CELLS:
        chosen = _most_confused(content["measures"]["confused"], len(names))
        note = markup.note(
            f"{len(chosen)} of {len(names):,} classes: those in the most frequent confusions."
        )
    head = "".join(f"<th scope='col'>{markup.text(names[label])}</th>" for label in chosen)
    rows = []
    for label in chosen:
        total = sum(matrix[label]) or 1
        cells = "".join(_cell(matrix[label][other], total, label == other) for other in chosen)
        rows.append(f"<tr><th scope='row'>{markup.text(names[label])}</th>{cells}</tr>")
    return markup.section(
        "confusion",
        "Confusion matrix",
        "A row is what the pictures are, a column what they were taken for; the shade is the share "
        "of the row. Off the diagonal is what went wrong.",
        note,
        f'<div class="scroll matrix" tabindex="0"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    )


def _most_confused(pairs: list[dict[str, Any]], classes: int) -> list[int]:
    chosen: dict[int, None] = {}
    for pair in pairs:
        new = {pair["true"], pair["predicted"]} - chosen.keys()
        if len(chosen) + len(new) > MOST_CELLS:
            break
        chosen |= dict.fromkeys(sorted(new))
    return sorted(chosen) or list(range(min(MOST_CELLS, classes)))


def _cell(count: int, total: int, right: bool) -> str:
    share = count / total
    kinds = " ".join(
        name for name, on in (("right", right), ("zero", not count), ("hot", share > 0.55)) if on
    )
    kind = f' class="{kinds}"' if kinds else ""
    return f'<td{kind} style="--v:{min(92.0, 8 * bool(count) + 84 * share):.0f}">{count}</td>'


def by_class(content: dict[str, Any]) -> str:
    """Returns precision, recall and F1 by class, of the worst if there are many."""
    entries = content["measures"]["classes"]
    macro = content["measures"]["macro"]
    note = ""
    if len(entries) > MOST_CLASSES:
        known = [entry for entry in entries if entry["support"]]
        entries = sorted(known, key=lambda entry: (entry["f1"] or 0.0, entry["name"]))[
            :MOST_CLASSES
        ]
        note = markup.note(
            f"The {len(entries)} classes of lowest F1, of {len(content['class_names']):,}; "
            "report.json has all."
        )
    keys = ("precision", "recall", "f1")
    rows = [
        (
            entry["name"],
            *(markup.percent(entry[key]) for key in keys),
            f"{entry['support']:,}",
            f"{entry['predicted']:,}",
        )
        for entry in entries
    ]
    rows.append(("mean", *(markup.percent(macro[key]) for key in keys), "", ""))
    return markup.section(
        "classes",
        "By class",
        "Precision: of the pictures called this class, the share that is. Recall: of the pictures "
        "that are, the share called so. F1 is their harmonic mean, support the number of pictures.",
        note,
        markup.table(
            ("class", "precision", "recall", "F1", "support", "called so"),
            rows,
            marked=len(rows) - 1,
        ),
    )
