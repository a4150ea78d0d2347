"""A table of runs: who is grouped with whom, what their means are, and which differences are real.

`make` is what other rooms use. A group is the runs whose config differs in nothing but the seed, or
those that agree in the keys of `by`. Where both groups have several runs the test is over seeds,
because a seed is what was repeated and what the next training will draw anew; the bootstrap over
pictures stands beside it. A single run can be tested over pictures only. Nothing is drawn or
written here but the outcomes that had to be scored, and looks at the test split.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from imgclass import config as config_lib
from imgclass.compare import gather, statistics
from imgclass.compare import runs as runs_lib
from imgclass.compare.runs import Pictures, Run
from imgclass.compare.statistics import Comparison
from imgclass.errors import UsageError
from imgclass.evaluate import bootstrap

ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Row:
    """A group of runs.

    Attributes:
      settings: its value of each of the table's keys.
      folders: of its runs, in order of `seeds`.
      seeds: of its runs.
      values: f64, the metric of each run; NaN where it diverged.
      mean: of the values; NaN if one of them is.
      deviation: sample standard deviation over runs; NaN for one run.
      low: lower end of the mean's 95% interval, NaN if there is none.
      high: its upper end.
      over: what that interval is over, 'seeds' or 'pictures'.
      test: against the baseline; None for the baseline, or if there can be none.
      corrected: the test's p-value by Holm's method, for all rows; NaN if there is none.
      pictures: the difference's 95% bootstrap interval over pictures; NaN if there is none.
      verdict: 'baseline', 'better', 'worse', or '' where no difference is shown.
    """

    settings: tuple[Any, ...]
    folders: tuple[str, ...]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    deviation: float
    low: float
    high: float
    over: str
    test: Comparison | None = None
    corrected: float = math.nan
    pictures: tuple[float, float] = (math.nan, math.nan)
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Groups of runs, the best mean first.

    Attributes:
      metric: what was compared, such as 'accuracy'.
      split: on which split, of each run's best checkpoint.
      examples: pictures in that split.
      keys: of the config, the columns.
      rows: one for each group; a group with a diverged run is last.
      notes: whole sentences that a reader of the figures has to know.
    """

    metric: str
    split: str
    examples: int
    keys: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def label(self, row: Row) -> str:
        """Returns the row in words, such as 'optim.lr=0.01'; its first folder if no key differs."""
        return _label(self.keys, row.settings) or row.folders[0]


@dataclasses.dataclass(frozen=True)
class _Group:
    settings: tuple[Any, ...]
    runs: tuple[Run, ...]
    by_unit: dict[Any, float]  # figures, by what a run shares with its pair in another group
    by_picture: np.ndarray | None  # f64[pictures], the mean over runs

    @property
    def values(self) -> np.ndarray:
        """f64[runs], in the order of `runs`."""
        return np.array(list(self.by_unit.values()), np.float64)


def make(
    folders: Iterable[str | pathlib.Path],
    by: Sequence[str] = (),
    split: str = "validation",
    metric: str = "accuracy",
    baseline: str | pathlib.Path | None = None,
) -> Table:
    """Returns the table of runs.

    Runs that are not finished are left out, and named in the notes. Outcomes of pictures that are
    not stored are scored and stored; those of the test split only where a run has no test figure.
    With 'test' a look is recorded in every run's folder, whether it was scored or read.

    Args:
      folders: of the runs, in any order; a folder given twice counts once.
      by: keys of the config to group by; () groups what differs in its seed only.
      split: 'validation' or 'test'.
      metric: a name in result.json; of 'loss' less is better, of all others more.
      baseline: a run of the group that the others are compared with; None is the first of folders.

    Raises:
      UsageError: an unknown key or metric, a split that a run lacks, or runs on different data.
      UserError: something is no run folder, no run is finished, or a look cannot be recorded.
    """
    _check_keys(by)
    found, notes = gather.finished(folders, split)
    first = gather.baseline(found, baseline)
    gather.check_same_data(found, first, split)
    found, repeated = gather.without_repeats(found, first, by)
    notes += repeated
    pictures = Pictures(split)
    figures = {run.folder: runs_lib.value(run, metric, pictures) for run in found}
    for run in found:
        if math.isnan(figures[run.folder]):
            why = "diverged" if run.diverged else f"has no finite {metric}"
            notes.append(f"{run.folder} {why}: its group has no mean, and is last.")
    outcomes, missing = pictures.of_all(found, metric)
    notes += missing
    pictures.record_looks(found)
    keys = tuple(dict.fromkeys(by)) or _differing(run.settings for run in found)
    groups = _groups(found, keys, figures, outcomes)
    notes += _confounded(found, groups, keys) if by else []
    reference = next(group for group in groups if first in group.runs)
    rows = [_row(group, reference, metric) for group in groups]
    rows = _judged(rows, metric)
    sign = 1 if metric == "loss" else -1
    rows.sort(key=lambda row: math.inf if math.isnan(row.mean) else sign * row.mean)
    examples = int(found[0].data["splits"][split]["examples"])
    return Table(metric, split, examples, keys, tuple(rows), tuple(notes + _methods(rows)))


def _check_keys(by: Sequence[str]) -> None:
    known = config_lib.kinds()
    for key in by:
        if key == "seed":
            raise UsageError("--by=seed: the seed is what is repeated; it cannot be a column")
        if key not in known:
            raise UsageError(f"--by={key}: no such key{config_lib.nearest(key, known)}")


def _differing(settings: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Returns the keys that have more than one value, in the order of the schema."""
    values: dict[str, set[Any]] = {}
    for one in settings:
        for key, value in one.items():
            values.setdefault(key, set()).add(value)
    return tuple(key for key, seen in values.items() if len(seen) > 1)


def _groups(
    found: list[Run],
    keys: tuple[str, ...],
    figures: dict[pathlib.Path, float],
    outcomes: dict[pathlib.Path, np.ndarray],
) -> list[_Group]:
    members: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(found, key=lambda run: run.seed):
        members.setdefault(tuple(run.config[key] for key in keys), []).append(run)
    groups = []
    for settings, runs in members.items():
        each = [outcomes[run.folder] for run in runs if run.folder in outcomes]
        by_picture = np.mean(each, axis=0) if len(each) == len(runs) else None
        values = {
            (run.seed, *(v for k, v in run.settings.items() if k not in keys)): figures[run.folder]
            for run in runs
        }
        groups.append(_Group(settings, tuple(runs), values, by_picture))
    return groups


def _confounded(found: list[Run], groups: list[_Group], keys: tuple[str, ...]) -> list[str]:
    """Says what else differs where the reader chose the columns."""
    rest = [key for key in _differing(run.settings for run in found) if key not in keys]
    if not rest:
        return []
    notes = [f"Differs within groups, and is averaged over: {', '.join(rest)}."]
    if any(group.by_unit.keys() != groups[0].by_unit.keys() for group in groups):
        notes.append("Groups do not have the same runs but for the columns: they are not paired.")
    return notes


def _row(group: _Group, baseline: _Group, metric: str) -> Row:
    low, high, over = _interval(group, metric)
    row = Row(
        group.settings,
        tuple(str(run.folder) for run in group.runs),
        tuple(run.seed for run in group.runs),
        tuple(group.values.tolist()),
        float(np.mean(group.values)),
        float(np.std(group.values, ddof=1)) if len(group.values) > 1 else math.nan,
        low,
        high,
        over,
    )
    if group is baseline:
        return dataclasses.replace(row, verdict="baseline")
    if np.isnan(group.values).any() or np.isnan(baseline.values).any():
        return row
    pictures = (math.nan, math.nan)
    if group.by_picture is not None and baseline.by_picture is not None:
        apart = group.by_picture - baseline.by_picture
        pictures = bootstrap.of_mean(apart)
    return dataclasses.replace(row, test=_test(group, baseline, metric), pictures=pictures)


def _interval(group: _Group, metric: str) -> tuple[float, float, str]:
    if np.isnan(group.values).any():
        return math.nan, math.nan, ""
    if len(group.values) > 1:
        return *statistics.mean_interval(group.values), "seeds"
    examples = group.runs[0].figures.get("examples")
    if group.by_picture is not None and metric == "accuracy":
        return *bootstrap.of_share(group.by_picture > 0.5), "pictures"
    if group.by_picture is not None:
        return *bootstrap.of_mean(group.by_picture), "pictures"
    if metric == "accuracy" and examples:  # how many were right is all there is to resample
        right = np.arange(int(examples)) < round(float(group.values[0]) * examples)
        return *bootstrap.of_share(right), "pictures"
    return math.nan, math.nan, ""


def _test(group: _Group, baseline: _Group, metric: str) -> Comparison | None:
    """Returns the one test of a difference; None where single runs lack outcomes of pictures."""
    if min(len(group.values), len(baseline.values)) > 1:
        if group.by_unit.keys() == baseline.by_unit.keys():
            pairs = np.array([baseline.by_unit[unit] for unit in group.by_unit], np.float64)
            return statistics.paired_t(group.values, pairs, "seeds")
        return statistics.welch_t(group.values, baseline.values)
    first, second = group.by_picture, baseline.by_picture
    if first is None or second is None:
        return None
    if metric == "accuracy" and len(group.runs) == len(baseline.runs) == 1:
        return statistics.mcnemar(first > 0.5, second > 0.5)
    return statistics.paired_t(first, second, "pictures")


def _judged(rows: list[Row], metric: str) -> list[Row]:
    corrected = statistics.holm([row.test.p if row.test else math.nan for row in rows])
    judged = []
    for row, p in zip(rows, corrected, strict=True):
        if row.test and p < ALPHA:
            higher = row.test.difference > 0
            verdict = "better" if higher != (metric == "loss") else "worse"
            row = dataclasses.replace(row, verdict=verdict)
        judged.append(dataclasses.replace(row, corrected=p))
    return judged


def _methods(rows: list[Row]) -> list[str]:
    """Returns sentences on the intervals and the tests that were used."""
    notes = []
    if any(row.over == "seeds" for row in rows):
        notes.append("Intervals of means are 95% t intervals over seeds.")
    if any(row.over == "pictures" for row in rows):
        notes.append(
            "With n = 1 the interval is the 95% bootstrap's over pictures, and says nothing of "
            "other seeds; nor does a test over pictures."
        )
    tests = [row.test for row in rows if row.test and not math.isnan(row.test.p)]
    if tests:
        names = " and ".join(dict.fromkeys(test.name for test in tests))
        notes.append(
            f"p: {names}, against the baseline, corrected by Holm's method (comparisons: "
            f"{len(tests)}). Better and worse: corrected p below {ALPHA}."
        )
    if any(row.over == "seeds" and not math.isnan(row.pictures[0]) for row in rows):
        notes.append(
            "Over pictures: 95% bootstrap intervals of the difference between these very runs."
        )
    return notes


def _label(keys: tuple[str, ...], settings: tuple[Any, ...]) -> str:
    return ", ".join(f"{key}={value}" for key, value in zip(keys, settings, strict=True))
