"""Writes a run's report.html and report.json."""

from collections.abc import Mapping
from typing import Any

import jax

from imgclass import run
from imgclass.data import dataset
from imgclass.errors import UserError
from imgclass.evaluate.outcomes import Outcomes
from imgclass.evaluate.restore import Restored
from imgclass.files import write_atomically
from imgclass.report import content as content_lib
from imgclass.report import markup, page, pictures

FEW, MANY = 5_000, 100_000  # pictures up to which a run's end, and the verb, look for duplicates


def default_split(data: dataset.Dataset) -> str:
    """Returns the split a report is of: validation, train without one; test has to be asked for.

    Who reads a page of mistakes on test, and trains again, has trained on test.
    """
    return "validation" if len(data.splits.get("validation", ())) else "train"


def needed(data: dataset.Dataset, split: str) -> list[str]:
    """Returns the splits whose outcomes a report on `split` takes: it, and validation."""
    return [
        role
        for role in ("validation", "test", "train")
        if role == split or (role == "validation" and len(data.splits.get(role, ())))
    ]


def write(
    found: Restored,
    data: dataset.Dataset,
    scored: Mapping[str, Outcomes],
    split: str,
    most_compared: int = MANY,
) -> dict[str, Any]:
    """Writes <run>/report.html and <run>/report.json, in place of older ones.

    Args:
      found: the run, and the weights that were scored.
      data: its data.
      scored: outcomes by split: of `split`, and of validation if there is one.
      split: which the report is of.
      most_compared: pictures up to which duplicates are looked for; each has to be decoded whole.

    Returns:
      What report.json holds.

    Raises:
      UserError: a picture or a file cannot be read, or one cannot be written.
    """
    content = content_lib.gather(found, data, scored, split, most_compared)
    outcomes = scored[split]
    explain = jax.process_count() == 1  # the weights may be spread over several
    wrong = pictures.confident_errors(outcomes)
    errors = pictures.show(found, data, split, outcomes, wrong, explain)
    pairs = [
        pictures.show(
            found,
            data,
            split,
            outcomes,
            pictures.of_pair(outcomes, pair["true"], pair["predicted"]),
        )
        for pair in content["measures"]["confused"][: pictures.PAIRS]
    ]
    content["errors"] = [_entry(shown, found.task.class_names) for shown in errors]
    shown = page.Pictures(
        errors,
        pairs,
        pictures.first_seen(found, data),
        max(found.task.prepare.image_size) <= markup.PIXELS,
    )
    made = page.render(content, shown)
    try:
        run.write_json(found.folder / "report.json", content)
        write_atomically(found.folder / "report.html", made)
    except OSError as error:
        raise UserError(
            f"{found.folder}: the report cannot be written ({error.strerror})"
        ) from None
    return content


def _entry(shown: pictures.Shown, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "index": shown.index,
        "name": shown.name,
        "label": names[shown.label],
        "predicted": names[shown.predicted],
        "confidence": shown.confidence,
    }
