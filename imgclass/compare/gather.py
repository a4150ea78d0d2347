"""Which of the runs asked for may stand in one table: finished ones, on the same data, each once.

What is left out is named in a note; what must not be ranked is refused. No figure is looked at.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from imgclass.compare import runs as runs_lib
from imgclass.compare.runs import Run
from imgclass.errors import UsageError, UserError

# Where one of these differs, so may the training split: that is what is compared.
_OF_TRAINING_DATA = ("data.train_split", "data.long_tail")


def finished(folders: Iterable[str | pathlib.Path], split: str) -> tuple[list[Run], list[str]]:
    """Returns the finished runs, each folder once, and a note for each of the others.

    Raises:
      UserError: one is no run folder, or none is finished.
      UsageError: one has no such split.
    """
    found: list[Run] = []
    notes = []
    for folder in {pathlib.Path(f).resolve(): pathlib.Path(f) for f in folders}.values():
        try:
            found.append(runs_lib.read(folder, split))
        except runs_lib.Unfinished as error:
            notes.append(f"Left out: {error}.")
    if not found:
        raise UserError("\n".join(["no finished run to compare", *notes]))
    return found, notes


def baseline(found: Sequence[Run], folder: str | pathlib.Path | None) -> Run:
    """Returns the run in `folder`, the first if that is None. Raises UsageError if there is none.

    Raises:
      UsageError: the folder is not among the runs.
    """
    if folder is None:
        return found[0]
    wanted = pathlib.Path(folder).resolve()
    for run in found:
        if run.folder.resolve() == wanted:
            return run
    raise UsageError(f"--baseline={folder}: not one of the finished runs that are compared")


def check_same_data(found: Sequence[Run], first: Run, split: str) -> None:
    """Compares data.json of all runs with that of `first`: split, validation, train, classes.

    The training split may differ where the configs say so: that is what is compared then.

    Raises:
      UsageError: naming the first run on other data, and where they differ.
    """
    wrong = [(run, what) for run in found if (what := _other_data(run, first, split))]
    if wrong:
        run, what = wrong[0]
        more = f" (as {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UsageError(
            f"{run.folder}{more} cannot be ranked with {first.folder}: {what}; compare runs on "
            "the same data"
        )


def _other_data(run: Run, first: Run, split: str) -> str:
    for role in dict.fromkeys((split, "validation", "train")):
        here, there = run.data["splits"].get(role), first.data["splits"].get(role)
        meant = role == "train" and any(run.config[k] != first.config[k] for k in _OF_TRAINING_DATA)
        if here != there and not meant:
            return f"its {role} split is another ({_told(here)}; there {_told(there)})"
    if run.data["class_names"] != first.data["class_names"]:
        return "its classes, or their order, are others"
    return ""


def _told(split: dict[str, Any] | None) -> str:
    if split is None:
        return "none"
    return f"{split['examples']:,} pictures, fingerprint {split['fingerprint']}"


def without_repeats(
    found: Sequence[Run], first: Run, by: Sequence[str]
) -> tuple[list[Run], list[str]]:
    """Leaves out runs of a config and seed that another run has: a repeat is no second draw.

    `first` is kept; of others, the one named first. Keys in `by` tell runs apart, too.

    Returns:
      The runs that are left, and a note for each of the others.
    """

    def identity(run: Run) -> tuple[Any, ...]:
        return (run.seed, *run.settings.values(), *(run.config[key] for key in by))

    kept = {identity(first): first}
    notes = []
    for run in found:
        same = kept.setdefault(identity(run), run)
        if same is not run:
            notes.append(f"Left out: {run.folder}: has the config and the seed of {same.folder}.")
    return [run for run in found if kept[identity(run)] is run], notes
