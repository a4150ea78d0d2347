"""Curves as text: a line of braille dots and points marked upon it, with axes. No I/O, no NumPy.

A cell of braille is 2 dots wide and 4 high, so a plot 30 cells wide shows 60 values apart.
"""

import itertools
import math
from collections.abc import Callable, Sequence

Points = Sequence[tuple[float, float]]  # (x, y), x ascending

MARK = "o"
LINE, MARKS, RESET = "\x1b[36m", "\x1b[33m", "\x1b[0m"  # cyan, yellow
LABEL = 7  # columns of a label on the left
# Of a braille character's low byte, by (row, column) of the dot.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def plot(
    title: str,
    line: Points,
    marks: Points,
    last: float,
    width: int,
    height: int,
    shown: Callable[[float], str],
    color: bool = False,
) -> list[str]:
    """Draws `line` joined up and `marks` as single 'o's.

    Args:
      title: above the plot.
      line: its points.
      marks: theirs.
      last: the x at the right edge; 0 is at the left one.
      width: columns in all, at least 16.
      height: rows of the drawing, at least 2.
      shown: how a value is written, in at most 7 columns.
      color: whether to use ANSI colours.

    Returns:
      height + 2 lines of at most `width` columns, colours not counted; without any point one line.
    """
    columns = width - LABEL - 1
    values = [y for _, y in (*line, *marks)]
    if not values:
        return [f"{title}: nothing yet"[:width]]
    low, high = min(values), max(values)
    if low == high:  # a flat line, in the middle
        pad = abs(low) / 2 or 0.5
        low, high = low - pad, high + pad
    across, down = columns * 2 - 1, height * 4 - 1

    def place(point: tuple[float, float]) -> tuple[int, int]:
        x, y = point
        right = min(max(x / last, 0.0), 1.0) if last else 0.0
        return round(right * across), round((high - y) / (high - low) * down)

    cells = [[0] * columns for _ in range(height)]
    for x, y in _joined([place(point) for point in line]):
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    rows = [[chr(0x2800 + cell) if cell else " " for cell in row] for row in cells]
    mark = f"{MARKS}{MARK}{LINE}" if color else MARK
    for x, y in map(place, marks):
        rows[y // 4][x // 2] = mark
    labels = {0: shown(high), height - 1: shown(low)}
    drawn = []
    for number, row in enumerate(rows):
        text = "".join(row).rstrip()
        painted = f"{LINE}{text}{RESET}" if color and text else text
        drawn.append(f"{labels.get(number, ''):>{LABEL}}|{painted}")
    ends = "0", f"{last:,.0f}"
    axis = f"{ends[0]:>{LABEL + 2}}{ends[1]:>{columns - 1}}"
    return [title[:width], *drawn, axis]


def _joined(dots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the dots and those on the straight lines between them."""
    every = list(dots[:1])
    for (x0, y0), (x1, y1) in itertools.pairwise(dots):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        every += [
            (x0 + round((x1 - x0) * i / steps), y0 + round((y1 - y0) * i / steps))
            for i in range(1, steps + 1)
        ]
    return every


def number(value: float) -> str:
    """Returns a value in at most 7 columns, with 3 digits where they fit.

    >>> [number(v) for v in (0.0521, 2.3, 1234567.0)]
    ['0.0521', '2.3', '1.2e+06']
    """
    forms = [f"{value:.3g}", f"{value:.1e}", f"{value:.0e}"]
    return next(text for text in forms if len(text) <= LABEL)


def percent(value: float) -> str:
    """Returns a share as text.

    >>> percent(0.9583)
    '95.8%'
    """
    return f"{value:.1%}"


def duration(seconds: float) -> str:
    """Returns a time as text.

    >>> duration(65), duration(7384), duration(200_000)
    ('1:05', '2:03:04', '2 d 7 h')
    """
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole >= 2 * 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
    hours, minutes = divmod(whole // 60, 60)
    tail = f"{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
    return f"{hours}:{tail}" if hours else tail
