"""A view of a run as text: one line, or a frame with plots as wide as the terminal. Pure."""

from typing import Any

from imgclass.watch import textplot
from imgclass.watch.look import View


def summary(view: View) -> str:
    """Returns a view in one line, of any length."""
    if view.total is None:
        return f"{view.run}: {view.state}"
    words = [f"{view.run}: {view.state}", f"step {view.step:,}/{view.total:,}"]
    words += [f"{view.step / view.total:.0%}", f"epoch {view.epoch:.2f}"]
    if view.eta_seconds is not None:
        words.append(f"ETA {textplot.duration(view.eta_seconds)}")
    if view.images_per_second is not None:
        words.append(f"{view.images_per_second:,.0f} images/s")
    if view.data_wait is not None:
        words.append(f"data wait {view.data_wait:.0%}")
    for name in ("train", "validation"):
        record = getattr(view, name)
        if record:
            words.append(f"{name} {_figures(record)}")
    return ", ".join(words)


def frame(view: View, width: int, height: int, color: bool = False) -> str:
    """Draws a view.

    Args:
      view: what `Watch.look` returned.
      width: columns; at least 24 are used.
      height: rows to stay within, if that leaves the plots 3 each.
      color: whether to use ANSI colours.

    Returns:
      Lines of at most `width` columns, without a line feed at the end.
    """
    width = max(width, 24)
    lines = _head(view, width)
    if view.state == "imported":
        return "\n".join(lines)
    curves = [("loss", textplot.number), ("accuracy", textplot.percent)]
    beside = width >= 100
    rows = height - len(lines) - 1
    each = min(max((rows if beside else rows // 2) - 3, 3), 16)
    plots = [
        textplot.plot(
            f"{name}   line train   {textplot.MARK} validation",
            _points(view, "train", name),
            _points(view, "validation", name),
            float(view.total or view.step),
            width // 2 - 2 if beside else width,
            each,
            shown,
            color,
        )
        for name, shown in curves
    ]
    if beside and len(plots[0]) == len(plots[1]):
        gap = width // 2
        pairs = zip(*plots, strict=True)
        lines += ["", *(left + " " * (gap - _columns(left)) + right for left, right in pairs)]
    else:
        for made in plots:
            lines += ["", *made]
    return "\n".join(lines)


def _head(view: View, width: int) -> list[str]:
    name = view.run if len(view.run) <= width - 12 else "..." + view.run[15 - width :]
    lines = [f"{name}  {view.state}"]
    if view.total:
        parts = [f"step {view.step:,}/{view.total:,}", f"{view.step / view.total:.0%}"]
        parts.append(f"epoch {view.epoch:.2f}")
        if view.eta_seconds is not None:
            parts.append(f"ETA {textplot.duration(view.eta_seconds)}")
        lines += _packed(parts, width)
        done = round(view.step / view.total * (width - 2))
        lines.append(f"[{'=' * done}{' ' * (width - 2 - done)}]")
    if view.images_per_second is not None:
        parts = [f"{view.images_per_second:,.0f} images/s"]
        if view.data_wait is not None:
            parts.append(f"data wait {view.data_wait:.0%}")
        if view.age_seconds is not None:
            parts.append(f"record {textplot.duration(view.age_seconds)} ago")
        lines += _packed(parts, width)
    for label, record in (("train", view.train), ("valid", view.validation), ("best", view.best)):
        if record:
            lines.append(f"{label:6s}{_figures(record)} @{record['step']:,}")
    if view.silent:
        lines += _packed(["no record for long:", "compiling, validating, saving or stuck?"], width)
    if view.state == "stopped":
        lines += _packed(
            ["not running, not done; log.txt says why.", "With this --workdir it goes on"], width
        )
    if view.state == "imported":
        lines += _packed(["weights from elsewhere:", "no training to watch"], width)
    return [line[:width] for line in lines]


def _packed(parts: list[str], width: int) -> list[str]:
    """Joins parts into as few lines as they fit in."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def _figures(record: dict[str, Any]) -> str:
    loss, accuracy = record.get("loss"), record.get("accuracy")
    words = ["loss -" if loss is None else f"loss {loss:.4f}"]
    if accuracy is not None:
        words.append(f"acc. {accuracy:.2%}")
    return " ".join(words)


def _points(view: View, split: str, name: str) -> list[tuple[float, float]]:
    return [
        (float(r["step"]), float(r[name]))
        for r in view.records
        if r["split"] == split and isinstance(r.get(name), int | float)
    ]


def _columns(line: str) -> int:
    for code in (textplot.LINE, textplot.MARKS, textplot.RESET):
        line = line.replace(code, "")
    return len(line)
