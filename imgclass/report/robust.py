"""The section on robustness.json, which `imgclass evaluate RUN --robustness` writes."""

from typing import Any

from imgclass.report import charts, markup


def robustness(content: dict[str, Any]) -> str:
    """Returns what is left of the accuracy on spoiled, attacked and foreign pictures, or ''."""
    found = content["robustness"] or {}
    parts = [
        *_corruptions(found.get("corruptions")),
        *_attacks(found.get("attacks")),
        *_shift(found.get("shift")),
    ]
    if not parts:
        return ""
    steps = {part["step"] for part in found.values() if isinstance(part, dict) and "step" in part}
    if steps - {content["step"]}:
        parts.insert(0, markup.warning("Measured with the weights of another step than the rest."))
    return markup.section(
        "robustness",
        "Robustness",
        "What is left of the accuracy when pictures are spoiled, attacked or from elsewhere. "
        "Accuracy on clean pictures says little about it.",
        *parts,
    )


def _corruptions(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    rows = [
        (name.replace("_", " "), *(markup.percent(a) for a in row["accuracy"]),
         markup.percent(row["error"]))
        for name, row in found["by_corruption"].items()
    ]  # fmt: skip
    means = {name.replace("_", " "): row["error"] for name, row in found["by_corruption"].items()}
    worst = sorted(means, key=lambda name: -means[name])
    words = f"{found['examples']:,} pictures of {found['split']}; "
    words += f"accuracy as they are {found['accuracy']:.1%}"
    if "mean_error" in found:
        words += f"; mean error over corruptions {found['mean_error']:.1%}"
    if "mce" in found:
        words += f"; mCE {found['mce']:.1%}"
    bars = charts.bars("error by corruption", worst, [means[n] for n in worst], "mean error")
    head = ("corruption", *(f"severity {s}" for s in range(1, 6)), "mean error")
    return [
        "<h3>Corruptions</h3>",
        markup.note(f"{words}."),
        markup.charts(markup.chart("Mean error over five severities", bars)),
        markup.table(head, rows),
    ]


def _attacks(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    rows = [("none", "", markup.percent(found["accuracy"]), _interval(found["accuracy_interval"]))]
    rows += [
        (
            row["attack"].upper(),
            f"{row['epsilon'] * 255:.3g}/255",
            markup.percent(row["accuracy"]),
            _interval(row["accuracy_interval"]),
        )
        for row in found["by_attack"]
    ]
    words = (
        f"{found['examples']:,} pictures of {found['split']}, changed by at most so much a pixel."
    )
    head = ("attack", "at most", "accuracy", "95% interval")
    return ["<h3>Attacks</h3>", markup.note(words), markup.table(head, rows)]


def _shift(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    second = found["second"]
    rows = [
        (found["split"], f"{found['examples']:,}", markup.percent(found["accuracy"]),
         _interval(found["accuracy_interval"])),
        (second["against"], f"{second['examples']:,}", markup.percent(second["accuracy"]),
         _interval(second["accuracy_interval"])),
    ]  # fmt: skip
    head = ("data", "pictures", "accuracy", "95% interval")
    return ["<h3>Pictures from elsewhere</h3>", markup.table(head, rows)]


def _interval(pair: list[float]) -> str:
    return " to ".join(markup.percent(value) for value in pair)
