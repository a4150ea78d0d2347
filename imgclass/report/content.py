"""What a report says, as plain data: the outcomes measured, and what the run folder holds.

`report.json` is what `gather` returns. Pictures are chosen here by row and drawn elsewhere.
"""

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgclass import config as config_lib
from imgclass import looks, run
from imgclass.data import dataset, findings, inspect
from imgclass.errors import UserError
from imgclass.evaluate import measures
from imgclass.evaluate.outcomes import Outcomes
from imgclass.evaluate.restore import Restored
from imgclass.watch import look

CURVES = ("loss", "accuracy")
MOST_POINTS = 400  # of a curve


def gather(
    found: Restored,
    data: dataset.Dataset,
    scored: Mapping[str, Outcomes],
    split: str,
    most_compared: int,
) -> dict[str, Any]:
    """Returns everything the page says in words and numbers.

    Args:
      found: the run, and the weights that were scored.
      data: the run's data.
      scored: outcomes by split: those of `split`, and of validation if there is one, on which the
        temperature is fitted.
      split: which split the figures are of.
      most_compared: pictures up to which duplicates are looked for, as all have to be decoded.

    Raises:
      UserError: a file of the folder, or a picture, cannot be read.
    """
    folder, names = found.folder, found.task.class_names
    validation = scored.get("validation")
    fitted = scored[split] if validation is None else validation
    temperature = measures.fit_temperature(fitted.probabilities, fitted.labels)
    content = {
        "run": str(folder),
        "report_command": f"imgclass report {shlex.quote(str(folder))} --split={split}",
        "model": found.task.config.model.name,
        "step": found.step,
        "split": split,
        "examples": len(scored[split]),
        "class_names": list(names),
        "measures": measures.summarise(scored[split], names, temperature, validation),
        "temperature_fitted_on": split if validation is None else "validation",
        "curves": curves(folder),
        "data": _data(data, found.task.config, most_compared),
        "config": _config(found),
        "test_looks": looks.count(folder),
        "robustness": run.load_json(folder / "robustness.json"),
        "result": _result(folder),
        **_starts(folder),
    }
    return run.finite(content)


def _result(folder: pathlib.Path) -> dict[str, Any] | None:
    result = run.load_json(folder / "result.json")
    wanted = {"parameters", "steps", "epochs", "wall_seconds"}
    if result is not None and not (isinstance(result, dict) and wanted <= result.keys()):
        raise UserError(f"{folder / 'result.json'} is not what a run writes; move it away")
    return result


def curves(folder: pathlib.Path) -> dict[str, dict[str, list[float | None]]]:
    """Returns the training and validation records of metrics.jsonl by split.

    Returns:
      {'train' and 'validation': {'epoch', 'loss' and 'accuracy': a value a record}}, thinned
      evenly to 400 records where there are more; None where a record lacks one.
    """
    found: dict[str, list[dict]] = {"train": [], "validation": []}
    for record in look.read_records(folder / "metrics.jsonl"):
        found.get(record["split"], []).append(record)
    return {
        split: {key: [r.get(key) for r in thinned(records)] for key in ("epoch", *CURVES)}
        for split, records in found.items()
        if records
    }


def thinned(values: list, most: int = MOST_POINTS) -> list:
    """Returns up to `most` of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]


def _data(data: dataset.Dataset, config: Any, most: int) -> dict[str, Any]:
    """Returns how many pictures each split has, and what `imgclass data` finds wrong with them."""
    counts = {role: len(part) for role, part in data.source.splits.items()}
    about = {"name": data.source.name, "splits": counts}
    if sum(counts.values()) > most:
        return about | {"compared": False, "duplicates": [], "findings": []}
    survey = inspect.survey(data.source, config.data)
    return about | {
        "compared": True,
        "duplicates": [dataclasses.asdict(found) for found in survey.duplicates],
        "findings": [dataclasses.asdict(found) for found in findings.judge(survey, config)],
    }


def _config(found: Restored) -> dict[str, Any]:
    """Returns {key: {'default', 'run'}} of every key that is not at its default."""
    changed = config_lib.difference(config_lib.resolve(config_lib.defaults()), found.task.config)
    return {
        "changed": {
            key: {"default": _plain(old), "run": _plain(new)} for key, (old, new) in changed.items()
        }
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _starts(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what is known of a run's starts: the first command, changes, the last environment."""
    starts = (run.load_json(folder / "environment.json") or {}).get("starts") or []
    if not starts:  # imported
        return {"starts": 0, "config_changed": [], "environment": None, "command": None}
    words = [str(word) for word in starts[0].get("command", [])]
    return {
        "starts": len(starts),
        "config_changed": [line for start in starts for line in start.get("config_changed", [])],
        "environment": starts[-1],
        "command": again(words) if words else None,
    }


def again(words: list[str]) -> str:
    """Returns a command line for a shell, without the run folder, whose run it would resume.

    >>> again(["main.py", "--config=c.py:my pictures", "--workdir", "runs/a", "--debug"])
    "python main.py '--config=c.py:my pictures' --debug"
    """
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, given, _ = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "workdir":
            del rest[: not given]
            continue
        kept.append(word)
    start = ["python"] if kept and kept[0].endswith(".py") else []
    return shlex.join([*start, *kept])
