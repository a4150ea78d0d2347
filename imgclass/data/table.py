"""A CSV or TSV of path,label[,split]: pictures anywhere, labels in a table.

Paths are relative to the table's folder. Labels are strings, whatever they look like; whole numbers
only sort as numbers. Pictures are read by `folder.FileSplit`.
"""

import csv
import os
import pathlib

import numpy as np

from imgclass.data.folder import SPLIT_FOLDERS, FileSplit
from imgclass.data.source import Native
from imgclass.errors import UsageError, UserError

COLUMNS = "path,label or path,label,split"


def open_table(path: pathlib.Path) -> Native:
    """Opens a table of pictures.

    The first line names the columns, in any order: 'path', 'label' and optionally 'split' (train,
    val, valid, validation or test, in any case). Other columns are ignored. UTF-8, with or without
    a byte order mark; commas in .csv, tabs in .tsv. Class names are the labels of all splits,
    sorted, as numbers if all are whole numbers.

    Args:
      path: the .csv or .tsv file.

    Returns:
      The data set; `flat` if there is no split column.

    Raises:
      UsageError: a column, label or file is missing, a split is unknown, or a path stands twice.
      UserError: the table cannot be read.
    """
    rows, has_split = _rows(path)
    labels = {label for _, _, label, _ in rows}
    class_names = tuple(sorted(labels, key=_sort_key(labels)))
    number = {label: i for i, label in enumerate(class_names)}
    splits = {}
    for split in ("train", "validation", "test"):
        mine = [(name, number[label]) for _, name, label, own in rows if own == split]
        if mine:
            names, numbers = zip(*mine, strict=True)
            splits[split] = FileSplit(split, path.parent, names, np.array(numbers, np.int32))
    return Native("table", class_names, splits, flat=not has_split)


def _rows(path: pathlib.Path) -> tuple[list[tuple[int, str, str, str]], bool]:
    """Returns (line number, path, label, split) for each row, and whether splits were given."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            table = [(reader.line_num, row) for row in reader if any(row)]
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise UsageError(f"{path} is not a well-formed table: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    header = [column.strip().lower() for column in table[0][1]] if table else []
    absent = [column for column in ("path", "label") if header.count(column) != 1]
    if absent or header.count("split") > 1:
        raise UsageError(
            f"{path}: the first line has to name the columns {COLUMNS}, each once; "
            f"it is {delimiter.join(header)!r}"
        )
    columns = {name: header.index(name) for name in ("path", "label", "split") if name in header}
    rows = []
    for line, row in table[1:]:
        if len(row) <= max(columns.values()):
            raise UsageError(
                f"{path}, line {line}: {len(row)} columns where {len(header)} are named"
            )
        name, label = row[columns["path"]].strip(), row[columns["label"]].strip()
        if not name or not label:
            raise UsageError(f"{path}, line {line}: the {'label' if name else 'path'} is empty")
        given = row[columns["split"]].strip() if "split" in columns else "train"
        split = SPLIT_FOLDERS.get(given.lower())
        if split is None:
            raise UsageError(
                f"{path}, line {line}: split {given!r} is not one of train, validation, test"
            )
        rows.append((line, name, label, split))
    if not rows:
        raise UsageError(f"{path} has no rows below its first line")
    _check_files(path, rows)
    return rows, "split" in columns


def _check_files(path: pathlib.Path, rows: list[tuple[int, str, str, str]]) -> None:
    missing = [(line, name) for line, name, _, _ in rows if not os.path.isfile(path.parent / name)]
    if missing:
        shown = ", ".join(f"{name[:100]} (line {line})" for line, name in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        raise UsageError(
            f"{path}: {len(missing)} of {len(rows)} files are missing: {shown}{more}; paths are "
            f"relative to {path.parent}"
        )
    first_line: dict[str, int] = {}
    for line, name, _, _ in rows:
        # One picture in two rows could end up in two splits.
        before = first_line.setdefault(os.path.normpath(name), line)
        if before != line:
            raise UsageError(f"{path}: {name} stands in line {before} and again in line {line}")


def _sort_key(labels: set[str]):
    try:
        numbers = {label: int(label) for label in labels}
    except ValueError:
        return None
    # '1' and '01' are two classes; the text breaks the tie.
    return lambda label: (numbers[label], label)
