"""What a sweep's file declares, and reading it.

    from imgclass.sweep import Ablation

    def get_sweep():
        return Ablation("configs/cnn.py", {"plain": {}, "dropout": {"model.dropout": 0.3}}, seeds=5)

Keys are those of the config. Whether a config accepts a value is asked of the config itself, in
`runs`, before anything is started.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from imgclass import arguments
from imgclass.errors import UsageError
from imgclass.schema.rules import Key
from imgclass.schema.running import EVAL

SAMPLERS = ("tpe", "random")
PRUNERS = ("hyperband", "median", "none")
# A change names a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The same experiment under named changes, each with the same seeds.

    Attributes:
      base: an experiment, 'FILE.py[:ARGUMENT]', from the current directory as for --config.
      changes: name -> {'section.key': value}; {} is the base as it is.
      seeds: how many, from 0, or which.
      always: {'section.key': value} of every run, such as a shorter training.
      metric: of validation; what 'best' means in each run and what the table compares.
    """

    base: str
    changes: Mapping[str, Mapping[str, Any]]
    seeds: int | Sequence[int] = 5
    always: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metric: str = "accuracy"

    @property
    def each_seed(self) -> tuple[int, ...]:
        """Returns the seeds themselves."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else tuple(self.seeds)


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; see `uniform`, `log_uniform`, `integers`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values; see `choice`."""

    values: tuple[Any, ...]


def uniform(low: float, high: float) -> Range:
    """A number, all alike."""
    return Range(float(low), float(high))


def log_uniform(low: float, high: float) -> Range:
    """A number whose logarithm is uniform: for rates, which differ by factors."""
    return Range(float(low), float(high), log=True)


def integers(low: int, high: int, log: bool = False) -> Range:
    """A whole number."""
    return Range(low, high, log=log, whole=True)


def choice(*values: Any) -> Choice:
    """One of the values, in no order: text, numbers, True or False, tuples."""
    return Choice(values)


@dataclasses.dataclass(frozen=True)
class Search:
    """Values to be found for some keys of an experiment.

    Attributes:
      base: an experiment, 'FILE.py[:ARGUMENT]', from the current directory as for --config.
      space: 'section.key' -> what it may be.
      trials: how many runs in all, those pruned or failed included.
      metric: of validation, at its best in a run; a loss is minimised, all else maximised.
      sampler: 'tpe', or 'random' to compare with.
      pruner: 'hyperband', 'median' or 'none': which runs are stopped early.
      always: {'section.key': value} of every run, such as a shorter training.
      seed: of the sampler; the runs' own is the config's.
    """

    base: str
    space: Mapping[str, Range | Choice]
    trials: int
    metric: str = "accuracy"
    sampler: str = "tpe"
    pruner: str = "hyperband"
    always: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0


def load(path: str) -> Ablation | Search:
    """Returns what a file's get_sweep() declares.

    Raises:
      UsageError: there is no such file, it fails, or what it declares is no sweep.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UsageError(f"{path}: no such file; a sweep is a Python file with get_sweep()")
    declared = arguments.run_file(path, lambda module: module.get_sweep())
    if not isinstance(declared, Ablation | Search):
        raise UsageError(f"{path}: get_sweep() has to return imgclass.sweep.Ablation or Search")
    problems = _wrong_types(declared) or _problems(declared)
    if problems:
        raise UsageError("\n".join(f"{path}: {problem}" for problem in problems))
    return declared


def _wrong_types(declared: Ablation | Search) -> list[str]:
    """Returns what `_problems`, and those that use it, could not even look at."""
    kinds: dict[str, Any] = {"base": str, "metric": str, "always": Mapping}
    if isinstance(declared, Ablation):
        kinds |= {"changes": Mapping, "seeds": int | Sequence}
    else:
        kinds |= {"space": Mapping, "trials": int, "sampler": str, "pruner": str, "seed": int}
    found = [
        f"{name}={getattr(declared, name)!r}: of another type than sweeps have there"
        for name, kind in kinds.items()
        if not isinstance(getattr(declared, name), kind)
    ]
    if found or not isinstance(declared, Ablation):
        return found
    if isinstance(declared.seeds, Sequence) and not all(type(s) is int for s in declared.seeds):
        found.append(f"seeds={declared.seeds!r}: must be whole numbers")
    return found + [
        f"changes: {name!r}: must be {{'section.key': value}}, not {keys!r}"
        for name, keys in declared.changes.items()
        if not (isinstance(name, str) and isinstance(keys, Mapping))
    ]


def _problems(declared: Ablation | Search) -> list[str]:
    best = EVAL["best_metric"]
    assert isinstance(best, Key)
    found = []
    if not best.rule.test(declared.metric):
        found.append(f"metric={declared.metric!r}: must be {best.rule.words}")
    if isinstance(declared, Ablation):
        seeds = declared.each_seed
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            found.append(f"seeds={declared.seeds!r}: must be a number above 0, or distinct seeds")
        if not declared.changes:
            found.append("changes: none; name one at least, {} for the base as it is")
        found += [
            f"changes: {name!r} cannot name a folder; use letters, digits and . _ + -"
            for name in declared.changes
            if not _NAME.fullmatch(name)
        ]
        if any("seed" in keys for keys in (declared.always, *declared.changes.values())):
            found.append("seed: give it as seeds=, so that every change has the same ones")
        return found
    if declared.trials < 1:
        found.append(f"trials={declared.trials}: must be 1 or more")
    if declared.sampler not in SAMPLERS:
        found.append(f"sampler={declared.sampler!r}: must be one of {', '.join(SAMPLERS)}")
    if declared.pruner not in PRUNERS:
        found.append(f"pruner={declared.pruner!r}: must be one of {', '.join(PRUNERS)}")
    if not declared.space:
        found.append("space: empty; name one key at least")
    for key, values in declared.space.items():
        if key in declared.always:
            found.append(f"{key}: in space and in always; leave it in one")
        if isinstance(values, Choice):
            fits = len(values.values) > 0
        elif isinstance(values, Range):
            fits = values.low < values.high and (values.low > 0 or not values.log)
        else:
            fits = False
        if not fits:
            found.append(
                f"space: {key}: must be uniform(low, high), log_uniform(low, high) with low above "
                "0, integers(low, high) or choice(value, ...)"
            )
    return found
