"""A plot of a table of runs: each group's mean with its interval, and a point for every seed."""

import math
import pathlib

from matplotlib.figure import Figure

from imgclass import files
from imgclass.compare.table import Table

_BLUE, _GREY = "#1f77b4", "#777777"


def draw(table: Table, path: pathlib.Path) -> None:
    """Writes the plot, best group on top; a line marks the baseline's mean.

    Raises:
      UsageError: the name ends in neither .png nor .svg.
      UserError: the file cannot be written.
    """
    labels = [table.label(row).replace(", ", "\n") for row in table.rows]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(8, 1.6 + 0.22 * lines + 0.2 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(table.rows):
        shown = [value for value in row.values if math.isfinite(value)]
        axes.plot(shown, [place] * len(shown), "o", color=_GREY, markersize=4, alpha=0.6)
        if math.isnan(row.mean):
            continue
        if row.verdict == "baseline":
            axes.axvline(row.mean, color=_GREY, linewidth=1, linestyle=":")
        if not math.isnan(row.low):
            axes.plot([row.low, row.high], [place, place], color=_BLUE, linewidth=2)
        axes.plot(row.mean, place, "D", color=_BLUE, markersize=6)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(f"{table.metric} on {table.split}: mean, 95% interval, runs")
    axes.grid(axis="x", alpha=0.3)
    files.save_figure(figure, path, dpi=150)
