"""The looks at a run's test split, one line each in <run>/test_looks.jsonl.

A figure that a choice was made by is no test figure any more. Nothing keeps a person from looking
often; the run folder says how often it was. Validation and training splits are not counted.
"""

import datetime
import json
import os
import pathlib
import sys

from imgclass.errors import UserError

FILE = "test_looks.jsonl"


def record(folder: pathlib.Path, verb: str, step: int) -> None:
    """Adds a look; on disk when this returns. Call it when the figures are there, before showing.

    A line has `time` (UTC, ISO 8601), `verb`, `step` (updates behind the weights that were scored)
    and `command` (the words of the command line).

    Raises:
      UserError: the file cannot be written.
    """
    path = pathlib.Path(folder) / FILE
    look = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "verb": verb,
        "step": int(step),
        "command": sys.argv,
    }
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(look) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}), and a look at the test split is "
            "recorded there; score a copy of the run folder"
        ) from None


def count(folder: pathlib.Path) -> int:
    """Returns how often the test split was looked at; 0 for a folder without a record.

    Raises:
      UserError: the file cannot be read.
    """
    path = pathlib.Path(folder) / FILE
    try:
        return sum(1 for line in path.read_bytes().splitlines() if line.strip())
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
