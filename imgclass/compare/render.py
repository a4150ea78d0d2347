"""A table of runs as Markdown, CSV, LaTeX or HTML.

For people, figures have four decimals and the notes stand below; CSV has every digit, and no notes.
"""

import csv
import html
import io
import math
import re
from typing import Any

from imgclass.compare.table import Row, Table

DASH = "-"

# What Markdown would read as its own in a cell.
_MARKS, _BACKSLASHED = re.compile(r"([\\*|<`])"), r"\\\1"

_MINUS = re.compile(r"(?<![\w-])-(?=\d)")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
} | {mark: f"\\{mark}" for mark in "&%$#_{}"}

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; }
h1 { font-size: 1.3rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884;
  white-space: nowrap; }
th.key, td.key { text-align: left; }
tr.better td { color: light-dark(#106010, #7fd67f); }
tr.worse td { color: light-dark(#a01818, #ff9a9a); }
tr.baseline td { font-weight: 600; }
li { overflow-wrap: anywhere; }
"""


def render(table: Table, form: str) -> str:
    """Returns the table as text that ends in a newline.

    Args:
      table: from `table.make`.
      form: 'markdown', 'csv', 'latex' or 'html'.
    """
    return {"markdown": _markdown, "csv": _csv, "latex": _latex, "html": _html}[form](table)


def _title(table: Table) -> str:
    return f"{table.metric} on {table.split}, best checkpoints, {table.examples:,} pictures"


def _header(table: Table) -> list[str]:
    return [
        *table.keys,
        "n",
        "mean",
        "sd",
        "95% interval",
        "difference",
        "95% interval",
        "over pictures",
        "p",
        "",
    ]


def _cells(row: Row) -> list[str]:
    test, over = row.test, "" if row.over == "seeds" or math.isnan(row.low) else f" {row.over}"
    return [
        *map(_setting, row.settings),
        str(len(row.values)),
        _number(row.mean),
        _number(row.deviation),
        _interval(row.low, row.high) + over,
        _number(test.difference, "+") if test else DASH,
        _interval(test.low, test.high, "+") if test else DASH,
        _interval(*row.pictures, "+"),
        _p(row.corrected),
        row.verdict,
    ]


def _setting(value: Any) -> str:
    if value is None:
        return DASH
    return "''" if value == "" else str(value)


def _number(value: float, sign: str = "") -> str:
    return DASH if math.isnan(value) else f"{value:{sign}.4f}"


def _interval(low: float, high: float, sign: str = "") -> str:
    return DASH if math.isnan(low) else f"{low:{sign}.4f} to {high:{sign}.4f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return DASH
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(_MARKS.sub(_BACKSLASHED, cell) for cell in cells)} |"

    ruler = ["---"] * len(table.keys) + ["---:"] * (len(_header(table)) - len(table.keys))
    lines = [_title(table), "", line(_header(table)), f"| {' | '.join(ruler)} |"]
    lines += [line(_cells(row)) for row in table.rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]) + "\n"


def _csv(table: Table) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ["metric", "split", *table.keys, *record(table, table.rows[0])]
    writer.writerow([name for name in names if name != "settings"])
    for row in table.rows:
        plain = record(table, row)
        settings = ["" if value is None else value for value in plain.pop("settings").values()]
        cells = [";".join(map(str, v)) if isinstance(v, list) else v for v in plain.values()]
        writer.writerow([table.metric, table.split, *settings, *map(_csv_cell, cells)])
    return file.getvalue()


def _csv_cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def record(table: Table, row: Row) -> dict[str, Any]:
    """Returns a row as plain data; NaN where there is no figure."""
    test = row.test
    return {
        "settings": dict(zip(table.keys, row.settings, strict=True)),
        "n": len(row.values),
        "mean": row.mean,
        "deviation": row.deviation,
        "low": row.low,
        "high": row.high,
        "interval_over": row.over,
        "difference": test.difference if test else math.nan,
        "difference_low": test.low if test else math.nan,
        "difference_high": test.high if test else math.nan,
        "pictures_low": row.pictures[0],
        "pictures_high": row.pictures[1],
        "test": test.name if test else "",
        "p": test.p if test else math.nan,
        "p_corrected": row.corrected,
        "verdict": row.verdict,
        "seeds": list(row.seeds),
        "values": list(row.values),
        "runs": list(row.folders),
    }


def _latex(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return " & ".join(map(_escaped, cells)) + r" \\"

    columns = "l" * len(table.keys) + "r" * (len(_header(table)) - len(table.keys) - 1) + "l"
    return "\n".join(
        [
            "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(_header(table)),
            r"\midrule",
            *(line(_cells(row)) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_escaped('. '.join([_title(table), ' '.join(table.notes)]))}}}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    """Returns text that LaTeX sets as it stands, with a minus for the hyphen of a number."""
    return _MINUS.sub("$-$", "".join(_LATEX.get(mark, mark) for mark in text))


def _html(table: Table) -> str:
    def line(tag: str, cells: list[str]) -> str:
        classes = [' class="key"'] * len(table.keys) + [""] * (len(cells) - len(table.keys))
        pairs = zip(classes, cells, strict=True)
        return "".join(f"<{tag}{c}>{html.escape(cell)}</{tag}>" for c, cell in pairs)

    title = html.escape(_title(table))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            "<div><table>",
            f"<thead><tr>{line('th', _header(table))}</tr></thead><tbody>",
            *(f'<tr class="{row.verdict}">{line("td", _cells(row))}</tr>' for row in table.rows),
            "</tbody></table></div>",
            "<ul>",
            *(f"<li>{html.escape(note)}</li>" for note in table.notes),
            "</ul></body></html>",
            "",
        ]
    )
