"""What a survey looks like: a text report, one JSON object, and a contact sheet of pictures.

Pure functions, `save` excepted. What there is to say is decided in `findings.py`.
"""

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgclass import files
from imgclass.data import decode
from imgclass.data.findings import Finding
from imgclass.data.inspect import Duplicates, SplitSurvey, Survey
from imgclass.data.preprocess import Preprocess
from imgclass.data.source import Source

COLUMNS = 100
MOST_CLASSES, MOST_BAD = 100, 50  # lines of the report; the JSON object has them all
ROWS, PICTURES = 20, 8  # of the contact sheet
SMALLEST, LARGEST = 64, 128  # sides of a cell, in pixels: smaller pictures are enlarged
GAP = 4


def report(survey: Survey, findings: Sequence[Finding]) -> str:
    """Returns the survey as text of at most 100 columns, long file names excepted."""
    splits = survey.splits
    total = sum(split.examples for split in splits.values())
    classes = len(survey.class_names)
    lines = [f"{_shown(survey.name)}: {survey.kind}, {classes} classes, {total:,} pictures", ""]
    figures = [["", *splits], *_figures(splits)]
    table = _table([*figures, ["class", *([""] * len(splits))], *_class_counts(survey)])
    lines += [*table[: len(figures)], "", *table[len(figures) :]]
    lines.append(f"Largest training class / smallest: {survey.imbalance:.1f}")
    lines.append("")
    if not survey.duplicates:
        lines.append("Identical pictures: none")
    for found in survey.duplicates:
        lines += _wrap("", _duplicates(found))
    for role, split in splits.items():
        for bad in split.bad_files[:MOST_BAD]:
            lines += _wrap("", f"Cannot be read ({role}): {bad.name}: {bad.reason}")
        if len(split.bad_files) > MOST_BAD:
            lines.append(f"... and {len(split.bad_files) - MOST_BAD} more in {role}")
    lines += [""] * bool(findings)
    for finding in findings:
        lines += _wrap(f"{finding.level}: ", finding.text)
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lays out cells: the first column to the left, the others to the right."""
    cells = [[_short(row[0], 36), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([f"{row[0]:{widths[0]}}", *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in cells
    ]


def _figures(splits: dict[str, SplitSurvey]) -> list[list[str]]:
    every = list(splits.values())
    rows = [
        ["pictures", *(f"{s.examples:,}" for s in every)],
        ["MiB", *(f"{s.bytes / 2**20:,.1f}" for s in every)],
        ["height, least/median/most", *("/".join(map(str, s.heights)) or "-" for s in every)],
        ["width, least/median/most", *("/".join(map(str, s.widths)) or "-" for s in every)],
    ]
    if any(split.distinct_sizes > 1 for split in every):
        rows.append(["distinct sizes", *(f"{s.distinct_sizes:,}" for s in every)])
        for place in range(max(len(split.sizes) for split in every)):
            rows.append([f"commonest size {place + 1}", *(_size(s, place) for s in every)])
    for name in dict.fromkeys(name for split in every for name in split.formats):
        rows.append([name, *(f"{s.formats.get(name, 0):,}" for s in every)])
    for name in dict.fromkeys(name for split in every for name in split.colours):
        rows.append([name, *(f"{s.colours.get(name, 0):,}" for s in every)])
    rows.append(["cannot be read", *(f"{len(s.bad_files):,}" for s in every)])
    return rows


def _size(split: SplitSurvey, place: int) -> str:
    if place >= len(split.sizes):
        return "-"
    height, width, count = split.sizes[place]
    return f"{height}x{width}: {count:,}"


def _class_counts(survey: Survey) -> list[list[str]]:
    counts = [split.class_counts for split in survey.splits.values()]
    zipped = zip(survey.class_names, zip(*counts, strict=True), strict=True)
    rows = [[name, *(f"{count:,}" for count in own)] for name, own in zipped]
    if len(rows) > MOST_CLASSES:
        hidden = len(rows) - MOST_CLASSES
        rows = [*rows[:MOST_CLASSES], [f"... and {hidden:,} more", *([""] * len(counts))]]
    return rows


def _duplicates(found: Duplicates) -> str:
    number = f"{found.pictures:,} picture{'' if found.pictures == 1 else 's'}"
    differ = f", {found.labels_differ:,} with differing labels" if found.labels_differ else ""
    groups = "; ".join(" = ".join(example.name for example in group) for group in found.shown)
    return (
        f"Identical pictures in {' and '.join(found.splits)}: {number} "
        f"({found.examples:,} examples){differ}: {groups}"
    )


def _wrap(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        label + _shown(text), COLUMNS, subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _short(name: str, most: int) -> str:
    name = _shown(name)
    return name if len(name) <= most else name[: most - 3] + "..."


def _shown(text: str) -> str:
    """Returns printable text: a file name need not be text, and has \\udcXX for what is not."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_json(survey: Survey, findings: Sequence[Finding], sheet: str | None) -> dict[str, Any]:
    """Returns everything as plain data; counts by class are in the order of `class_names`."""
    plain = dataclasses.asdict(survey)
    levels = {
        level: [{"code": f.code, "text": f.text} for f in findings if f.level == level]
        for level in ("warning", "note")
    }
    return plain | {
        "imbalance": survey.imbalance,
        "warnings": levels["warning"],
        "notes": levels["note"],
        "sheet": sheet,
    }


def contact_sheet(source: Source, prepare: Preprocess, bad: Sequence[int] = ()) -> Image.Image:
    """Draws training pictures as the model sees them, one row a class.

    Up to 20 classes, evenly spaced from the first to the last if there are more, and up to 8
    pictures of each, spread evenly over its examples: the same data give the same sheet. Pictures
    under 64 pixels are enlarged by a whole factor, those over 128 shrunk.

    Args:
      source: the data set.
      prepare: its `load` makes the pictures.
      bad: training examples to pass over.

    Raises:
      UserError: an example cannot be read.
    """
    train = source.splits["train"]
    labels = train.labels.copy()
    labels[list(bad)] = -1
    height, width = _cell(prepare.image_size)
    classes = _spread(np.arange(len(source.class_names)), ROWS)
    names = [_printable(source.class_names[label]) for label in classes]
    font = ImageFont.load_default()
    margin = GAP + math.ceil(max(font.getlength(name) for name in names)) + GAP
    page = Image.new(
        "RGB", (margin + PICTURES * (width + GAP), GAP + len(names) * (height + GAP)), "white"
    )
    draw = ImageDraw.Draw(page)
    for row, (label, name) in enumerate(zip(classes, names, strict=True)):
        top = GAP + row * (height + GAP)
        draw.text((GAP, top + height // 2), name, "black", font)
        chosen = _spread(np.flatnonzero(labels == label), PICTURES)
        for column, record in enumerate(train.read(chosen)):
            pixels = _scale(prepare.load(record.image), (height, width))
            picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
            page.paste(picture, (margin + column * (width + GAP), top))
    return page


def save(picture: Image.Image, path: str) -> None:
    """Writes a PNG file. Raises UserError where that cannot be done."""
    with files.writing(f"--sheet={path}"), open(path, "wb") as file:
        picture.save(file, "PNG")


def _spread(values: np.ndarray, most: int) -> np.ndarray:
    """Returns up to `most` of the values, evenly spaced, the first and the last among them."""
    count = min(most, len(values))
    return (
        values[np.linspace(0, len(values) - 1, count).round().astype(np.int64)] if count else values
    )


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    side = max(size)
    if side < SMALLEST:
        factor = math.ceil(SMALLEST / side)
        return height * factor, width * factor
    shrink = min(1.0, LARGEST / side)
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _scale(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    how = "nearest" if size[0] > pixels.shape[0] else "bilinear"
    return decode.resize(pixels, size, interpolation=how)


def _printable(name: str) -> str:
    """Shortens a class name; what Pillow's own font does not have becomes '?'."""
    return _short(name, 24).encode("latin-1", "replace").decode("latin-1")
