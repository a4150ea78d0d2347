"""Charts as inline SVG whose colours are the page's: drawn by matplotlib, themed by CSS.

matplotlib is given stand-in colours, which become CSS variables in the SVG, so that one drawing
suits a light page and a dark one; text stays text, in the page's font. Every function takes plain
numbers and returns one `<svg>` element; nothing is computed here.
"""

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Points = Sequence[float | None]

# Stand-ins, and what they become; style.CSS gives the variables a value for either theme.
INK, GRID = "#0a0b0c", "#0a0b0d"
SERIES = ("#0a0b11", "#0a0b12", "#0a0b13", "#0a0b14", "#0a0b15", "#0a0b16")
_VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)
}
FEW = 12  # points up to which each is marked
SIZE = (4.6, 3.1)  # inches of 72 units: a phone's width, so that text keeps its size there
_STYLE: Any = {
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=SERIES),
    "font.size": 10.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
}


def lines(
    name: str,
    series: Mapping[str, tuple[Points, Points]],
    x: str,
    y: str,
    *,
    square: bool = False,
    diagonal: bool = False,
) -> str:
    """Draws curves over one pair of axes.

    Args:
      name: what the chart shows, for who cannot see it; unique within a page.
      series: points (x, y) by the legend's words; None is a gap. A lone series has no legend.
      x: the horizontal axis, with its unit.
      y: the vertical axis, with its unit.
      square: both axes go from 0 to 1.
      diagonal: draw the line y = x.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure, axes = _axes(x, y)
        if diagonal:
            axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (2, 3)))
        for label, (across, up) in series.items():
            values = [float("nan") if value is None else value for value in up]
            marker = "o" if len(values) <= FEW else None
            axes.plot(np.asarray(across, float), values, label=label, marker=marker, markersize=3.5)
        if square:
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        if len(series) > 1:
            axes.legend()
        return _svg(figure, name)


def bars(
    name: str,
    labels: Sequence[str],
    values: Sequence[float],
    x: str,
) -> str:
    """Draws a horizontal bar a label, of a share, the first on top."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name, "axes.grid.axis": "x"}):
        figure, axes = _axes(x, "", height=0.7 + 0.24 * len(labels))
        axes.barh(range(len(labels)), values, color=SERIES[0], height=0.66)
        axes.set_yticks(range(len(labels)), [short(label) for label in labels])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        return _svg(figure, name)


def reliability(
    name: str, edges: Sequence[float], accuracy: Points, confidence: Points, counts: Sequence[int]
) -> str:
    """Draws accuracy over confidence by bin, and below it how many examples each bin has.

    Args:
      name: as for `lines`.
      edges: of the bins, ascending, one more than there are bins.
      accuracy: by bin; None where it is empty.
      confidence: mean by bin; None where it is empty.
      counts: examples by bin.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.8), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        lefts = list(edges[:-1])
        widths = [(b - a) * 0.92 for a, b in itertools.pairwise(edges)]
        heights = [value or 0.0 for value in accuracy]
        upper.bar(lefts, heights, widths, align="edge", color=SERIES[0], alpha=0.45)
        upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (2, 3)))
        known = [(c, a) for c, a in zip(confidence, accuracy, strict=True) if None not in (c, a)]
        upper.plot([c for c, _ in known], [a for _, a in known], "o", color=SERIES[0], markersize=4)
        upper.set(ylabel="share that is right", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
        lower.bar(lefts, counts, widths, align="edge", color=SERIES[1], alpha=0.7)
        lower.set(xlabel="confidence", ylabel="pictures")
        for axes in (upper, lower):
            axes.set_axisbelow(True)
        return _svg(figure, name)


def _axes(x: str, y: str, height: float = SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    return figure, axes


def short(text: str) -> str:
    """Returns a name of 22 characters at most, of which matplotlib takes none for mathematics.

    A folder's name need not be text, and has \\udcXX for what is not.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    kept = text if len(text) <= 22 else text[:21] + "…"
    return kept.replace("$", r"\$")


def _svg(figure: Figure, name: str) -> str:
    """Returns a figure as an element for the middle of a page."""
    file = io.StringIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would rule the whole page
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # the same in every chart
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"\bfont: ([0-9.]+px) [^;\"]*", r"font-size: \1", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None
    label = html.escape(name, quote=True)
    return f'<svg role="img" aria-label="{label}" {view[0]}>{rest}'
