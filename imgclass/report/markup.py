"""HTML in small pieces: every text that comes from outside is escaped here, and nowhere else."""

import html
from collections.abc import Sequence
from typing import Any

PIXELS = 64  # sides up to which a picture is enlarged without smoothing


def text(value: Any) -> str:
    """Returns a value as HTML text; a file name's bytes that are no text show as \\udcXX."""
    plain = str(value).encode("utf-8", "backslashreplace").decode()
    # Control characters are no part of HTML; tabs and ends of lines are.
    shown = "".join(c if c.isprintable() or c in "\t\n" else "�" for c in plain)
    return html.escape(shown, quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number of so many decimals; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a share as percent; a dash for None."""
    return "-" if value is None else f"{value:.{digits}%}"


def section(anchor: str, title: str, how: str, *parts: str) -> str:
    """Returns a section: a title, a sentence on how to read it, and HTML that is taken as it is."""
    return (
        f'<section id="{anchor}"><h2>{text(title)}</h2><p class="how">{text(how)}</p>'
        f"{''.join(parts)}</section>\n"
    )


def table(
    head: Sequence[Any], rows: Sequence[Sequence[Any]], words: int = 1, marked: int | None = None
) -> str:
    """Returns a table that scrolls sideways by itself where it is too wide.

    Args:
      head: names of the columns.
      rows: cells; all are escaped.
      words: so many first columns hold text, set to the left.
      marked: the row that is set bold.
    """

    def line(cells: Sequence[Any], kind: str, number: int | None = None) -> str:
        classes = [' class="text"' if place < words else "" for place in range(len(cells))]
        made = [
            f"<{kind}{how}>{text(cell)}</{kind}>" for how, cell in zip(classes, cells, strict=True)
        ]
        mark = ' class="marked"' if marked is not None and number == marked else ""
        return f"<tr{mark}>{''.join(made)}</tr>"

    body = "".join(line(row, "td", number) for number, row in enumerate(rows))
    return (
        f'<div class="scroll" tabindex="0"><table><thead>{line(head, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def chart(caption: str, svg: str) -> str:
    """Returns a chart under its caption."""
    return f"<figure><figcaption>{text(caption)}</figcaption>{svg}</figure>"


def charts(*made: str) -> str:
    """Lays charts out side by side, as many as there is room for."""
    return f"<div class='charts'>{''.join(made)}</div>"


def note(words: str) -> str:
    """Returns a paragraph of plain text."""
    return f'<p class="soft">{text(words)}</p>'


def warning(words: str) -> str:
    """Returns a paragraph that stands out."""
    return f'<p class="warn">{text(words)}</p>'


def image(uri: str, alt: str, small: bool) -> str:
    """Returns a picture; a small one is enlarged in whole pixels."""
    kind = ' class="pixels"' if small else ""
    return f'<img{kind} src="{uri}" alt="{text(alt)}">'
