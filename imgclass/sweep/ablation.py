"""Runs what an ablation lacks, and makes the table over seeds of what it has.

A run counts once its result.json is there. One that failed is tried again by the next sweep, not
by another that is going on: it is noted in the claim.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from imgclass import files
from imgclass.compare import plot, render, table
from imgclass.compare.table import Table
from imgclass.sweep import outputs, pool
from imgclass.sweep import runs as runs_lib
from imgclass.sweep.declare import Ablation
from imgclass.sweep.runs import Run

Say = Callable[[str], None]


class Missing:
    """The runs that are not done yet: a `pool.Source`.

    Attributes:
      failed: reasons by the names of runs, this sweep's and those of another that ran beside it.
    """

    def __init__(self, runs: Sequence[Run], root: pathlib.Path, metric: str, say: Say):
        """Args: all runs of the ablation, its folder, what to say of a run, and where to."""
        self._runs = {one.name: one for one in runs}
        self._left = [one for one in runs if one.result is None]
        self._root, self._metric, self._say = root, metric, say
        self._began = time.time()
        self.failed: dict[str, str] = {}

    def take(self) -> pool.Job | None:
        """Claims and returns the first run that nobody works on."""
        for one in list(self._left):
            claim = pool.claim(self._root / "claims" / one.name)
            if claim is None:  # another sweep's: it is looked at again until it is done
                continue
            self._left.remove(one)
            claim.seek(0)
            noted = _noted(claim.read())
            if one.result is not None:
                claim.close()
                self._tell(one)
            elif noted["time"] > self._began:
                claim.close()
                self._tell(one, noted["failed"])
            else:
                log = outputs.log_of(self._root, one.name)
                return pool.Job(one.name, one.words, log, claim)
        return None

    def look(self, job: pool.Job) -> bool:
        """Never stops a run."""
        del job
        return False

    def ended(self, job: pool.Job, reason: str) -> None:
        """Says what came of a run, and notes why it failed."""
        job.claim.truncate(0)
        if reason:
            job.claim.write(json.dumps({"failed": reason, "time": time.time()}))
            job.claim.flush()
        self._tell(self._runs[job.name], reason)

    def over(self) -> bool:
        """Returns whether every run is done, has failed or is this sweep's."""
        return not self._left

    def _tell(self, one: Run, reason: str = "") -> None:
        result = one.result
        if reason or not result:
            self.failed[one.name] = reason or "it ended without a result"
            self._say(f"{one.name}: failed: {self.failed[one.name]}")
            return
        figures, said = result["best"] or result["final"] or {}, f"no validation {self._metric}"
        if self._metric in figures:
            figure = figures[self._metric]
            value = "not finite" if figure is None else f"{figure:.4f}"
            said = f"validation {self._metric} {value}"
        self._say(f"{one.name}: {said}, {result['wall_seconds']:.0f} s")


def _noted(text: str) -> dict[str, Any]:
    """Returns what a claim says of the last try; one cut short says nothing."""
    try:
        return json.loads(text)
    except ValueError:
        return {"failed": "", "time": 0.0}


def finish(declared: Ablation, runs: Sequence[Run], root: pathlib.Path) -> Table | None:
    """Writes table.md and plot.svg of the runs that are done; returns the table, None if none is.

    The rows are the changes, by name. The others are compared with the first declared; if no run of
    it is done, with the first that has one, and a note says so.

    Raises:
      UserError: the runs cannot stand in one table, or it cannot be written.
    """
    done = [one for one in runs if one.result is not None]
    if not done:
        return None
    base = next((one for one in done if one.change == runs[0].change), done[0])
    made = table.make([one.folder for one in done], metric=declared.metric, baseline=base.folder)
    made = named(made, {str(one.folder): one.change for one in done})
    made = dataclasses.replace(made, notes=(*notes(runs, base.change), *made.notes))
    with files.writing(root / "table.md"):
        files.write_atomically(root / "table.md", render.render(made, "markdown"))
    plot.draw(made, root / "plot.svg")
    return made


def notes(runs: Sequence[Run], baseline: str) -> list[str]:
    """Returns sentences on what has no finished run, and on validation that is the test split.

    Args:
      runs: all of the ablation, as declared.
      baseline: the change that the others are compared with.
    """
    found = []
    if baseline != runs[0].change:
        first = runs[0].change
        found.append(f"No run of the first change {first} finished; compared with {baseline}.")
    for change in dict.fromkeys(one.change for one in runs):
        of_change = [one for one in runs if one.change == change]
        left = [str(one.config.seed) for one in of_change if one.result is None]
        if left:
            seeds = "" if len(left) == len(of_change) else f" with seed {', '.join(left)}"
            found.append(f"{change}: no finished run{seeds}.")
    on_test = runs_lib.on_test({one.change: one.config for one in runs})
    return [*found, on_test] if on_test else found


def named(made: Table, changes: dict[str, str]) -> Table:
    """Returns the table with the changes' names, by folder, in place of the keys they change."""
    rows = tuple(dataclasses.replace(row, settings=(changes[row.folders[0]],)) for row in made.rows)
    return dataclasses.replace(made, keys=("change",), rows=rows)
