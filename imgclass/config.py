"""Builds, checks and resolves configs; every key is in `schema`.

`defaults()` gives the config an experiment file starts from. `problems()` lists everything wrong
with a config at once, before a device is touched. `resolve()` leaves each duration in one unit,
and `steps_of()` and `interval_of()` turn it into steps once the training split's size is known.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from typing import Any

from ml_collections import config_dict

from imgclass import combinations
from imgclass.errors import UsageError
from imgclass.schema import UNITS, Duration, Key, entries


class ConfigError(UsageError):
    """A config that cannot be run. Its message has one line a problem."""

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def durations() -> dict[str, Duration]:
    """Returns every duration by its name without the unit, such as 'train.total'."""
    return {path: key for path, key in entries() if isinstance(key, Duration)}


def _unit_type(unit: str) -> type:
    return int if unit in ("steps", "examples") else float


def _flat_defaults() -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for path, key in entries():
        if isinstance(key, Key):
            flat[path] = key.default
            continue
        for unit in UNITS:
            flat[f"{path}_{unit}"] = _unit_type(unit)(key.default) if unit == key.unit else None
    return flat


def kinds() -> dict[str, type]:
    """Returns the type of every key; a duration's keys are int or float by unit."""
    flat = _flat_defaults()
    durations_ = {f"{path}_{unit}": _unit_type(unit) for path in durations() for unit in UNITS}
    return {path: durations_.get(path, type(value)) for path, value in flat.items()}


def defaults() -> config_dict.ConfigDict:
    """Returns a locked config of every key at its default; experiments change what differs."""
    config = config_dict.ConfigDict()
    for path, value in _flat_defaults().items():
        section, _, name = path.rpartition(".")
        if section and section not in config:
            config[section] = config_dict.ConfigDict()
        if value is None:  # a duration's other unit: no value yet, but a type
            value = config_dict.placeholder(_unit_type(name.rpartition("_")[2]))
        (config[section] if section else config)[name] = value
    return config.lock()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {'section.key': value} of a nested config."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | config_dict.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


# What other libraries call some of our keys.
_FAMILIAR = {
    "batchsize": "train.batch_size",
    "epochs": "train.total_epochs",
    "learning_rate": "optim.lr",
    "max_epochs": "train.total_epochs",
    "num_epochs": "train.total_epochs",
    "num_workers": "data.workers",
    "wd": "optim.weight_decay",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest known name, or ''."""
    names = list(known)
    section, _, alone = name.rpartition(".")
    if (ours := _FAMILIAR.get(alone.lower())) in names:
        same = [n for n in names if n.startswith(f"{section}.") and n.endswith(f"_{alone}")]
        return f"; did you mean {(same or [ours])[0]!r}?"
    last = {n.rpartition(".")[2]: n for n in reversed(names) if "/" not in n}
    right_key = last.get(name.rpartition(".")[2])  # in the wrong section
    found = [right_key] if right_key else difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not found:
        close = difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.7)
        found = [last[c] for c in close]
    return f"; did you mean {found[0]!r}?" if found else ""


def resolve(
    config: config_dict.ConfigDict, overrides: Iterable[str] = ()
) -> config_dict.ConfigDict:
    """Returns a copy in which a duration given in another unit has lost its default unit.

    Args:
      config: any config.
      overrides: keys given on the command line, which win over the experiment file's.
    """
    config = config_dict.ConfigDict(config, convert_dict=True).copy_and_resolve_references()
    plain = _flat_defaults()
    overridden = set(overrides)
    for path in durations():
        section, name = path.split(".")
        names = [f"{name}_{unit}" for unit in UNITS]
        if section not in config:
            continue
        given = [n for n in names if config[section].get(n) is not None]
        on_command_line = [n for n in given if f"{section}.{n}" in overridden]
        in_file = [n for n in given if config[section][n] != plain[f"{section}.{n}"]]
        keep = on_command_line or in_file or given
        for n in given:
            if n not in keep:
                config[section][n] = None
    return config.lock()


def problems(
    config: config_dict.ConfigDict,
    overrides: Collection[str] = (),
    models: Mapping[str, Collection[str]] | None = None,
) -> list[str]:
    """Returns one line for everything wrong with a resolved config; [] if it can be run.

    Args:
      config: as `resolve` returns it.
      overrides: keys given on the command line; one that has no effect is a problem.
      models: what model.name may be, and the keys of config.model that each reads; without it that
        is left to whoever builds the model.
    """
    found: list[str] = []
    flat = flatten(config)
    known = _flat_defaults()
    for path in flat:
        if path not in known:
            found.append(f"{path}: no such key{nearest(path, known)}")
    missing = [path for path in known if path not in flat]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        found.append(
            f"{', '.join(missing[:3])}{more}: missing; start from imgclass.config.defaults()"
        )
    if found:
        return found
    for path, key in entries():
        if isinstance(key, Key):
            found += _value_problems(path, flat[path], key)
        else:
            found += _duration_problems(path, flat, key)
        if path == "model.name" and models and flat[path] not in models:
            near = nearest(str(flat[path]), models)
            found.append(f"{path}={flat[path]!r}: no such model; see `imgclass models`{near}")
    return found or combinations.problems(config, overrides, models)


def _value_problems(path: str, value: Any, key: Key) -> list[str]:
    wanted = type(key.default)
    fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        fits = True
    if wanted is tuple and isinstance(value, list):
        fits = True
    if not fits:
        kind = {"str": "text", "bool": "True or False"}.get(wanted.__name__, wanted.__name__)
        return [f"{path}={value!r}: must be {kind}"]
    if not key.rule.test(value):
        near = (
            nearest(value, key.rule.words.removeprefix("one of ").split(", "))
            if (isinstance(value, str) and key.rule.words.startswith("one of "))
            else ""
        )
        return [f"{path}={value!r}: must be {key.rule.words}{near}"]
    return []


def _duration_problems(path: str, flat: dict[str, Any], key: Duration) -> list[str]:
    given = {u: flat[f"{path}_{u}"] for u in UNITS if flat[f"{path}_{u}"] is not None}
    if len(given) != 1:
        names = ", ".join(f"{path}_{u}" for u in given) or "none"
        units = ", ".join(f"{path}_{u}" for u in UNITS)
        return [f"{path}_*: give exactly one of {units}; given: {names}"]
    ((unit, value),) = given.items()
    if path == "train.total" and unit == "percent":
        return [f"{path}_percent: the whole run cannot be a percentage of itself"]
    wanted: Any = int if _unit_type(unit) is int else (int, float)
    if not isinstance(value, wanted) or isinstance(value, bool):
        return [f"{path}_{unit}={value!r}: must be {_unit_type(unit).__name__}"]
    if not key.rule.test(value):
        return [f"{path}_{unit}={value!r}: must be {key.rule.words}"]
    if unit == "percent" and value > 100:
        return [f"{path}_{unit}={value!r}: must be at most 100"]
    return []


def check(
    config: config_dict.ConfigDict,
    overrides: Collection[str] = (),
    models: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Raises ConfigError with every problem of a resolved config; see `problems`."""
    found = problems(config, overrides, models)
    if found:
        raise ConfigError(found)


@dataclasses.dataclass(frozen=True)
class Interval:
    """How often something happens: every `steps` steps, a fraction allowed; 0 is never.

    With 40.6 steps an epoch, the ends of epochs fall on steps 41, 82, 122, ...: the first whole
    step at or after each multiple.
    """

    steps: Fraction

    def due(self, step: int) -> bool:
        """Returns whether a multiple of the interval fell in (step - 1, step]."""
        if not self.steps or step <= 0:
            return False
        return step // self.steps > (step - 1) // self.steps

    def next_after(self, step: int) -> int | None:
        """Returns the first due step after `step`, or None if there is none."""
        if not self.steps:
            return None
        return max(math.ceil((step // self.steps + 1) * self.steps), step + 1)


def total_steps(config: config_dict.ConfigDict, examples: int) -> int:
    """Returns the steps of the whole run, so that no example of the last epoch is missed."""
    return math.ceil(_in_steps(config, "train.total", examples, 0))


def steps_of(config: config_dict.ConfigDict, path: str, examples: int, total: int) -> int:
    """Returns a duration in whole steps.

    Args:
      config: resolved config.
      path: the duration without its unit, such as 'optim.warmup'.
      examples: size of the training split.
      total: steps of the whole run.
    """
    return round(_in_steps(config, path, examples, total))


def interval_of(config: config_dict.ConfigDict, path: str, examples: int, total: int) -> Interval:
    """Returns how often `path` ('eval.every') is due."""
    return Interval(_in_steps(config, path, examples, total))


def _in_steps(config: config_dict.ConfigDict, path: str, examples: int, total: int) -> Fraction:
    section, name = path.split(".")
    batch = config.train.batch_size
    for unit in UNITS:
        value = config[section][f"{name}_{unit}"]
        if value is None:
            continue
        # limit_denominator: 0.1 epochs means a tenth, not the nearest binary fraction above it.
        amount = Fraction(value).limit_denominator(10**6)
        scale = {
            "steps": Fraction(1),
            "examples": Fraction(1, batch),
            "epochs": Fraction(examples, batch),
            "percent": Fraction(total, 100),
        }[unit]
        return amount * scale
    raise ValueError(f"{path}: no unit given; was the config checked?")


def to_json(config: config_dict.ConfigDict) -> str:
    """Returns the config as indented JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


def from_json(text: str) -> config_dict.ConfigDict:
    """Returns a config written by `to_json`; keys it lacks take today's defaults.

    Raises:
      ConfigError: if it holds a key that is no longer known, or a bad value.
    """
    config = defaults()
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ConfigError(["not a JSON object"])
    stored = flatten(tree)
    known = flatten(config)
    unknown = [f"{p}: no such key{nearest(p, known)}" for p in stored if p not in known]
    if unknown:
        raise ConfigError(unknown)
    with config.ignore_type():  # check() has better words for a wrong one
        for path, value in stored.items():
            section, _, name = path.rpartition(".")
            target = config[section] if section else config
            target[name] = tuple(value) if isinstance(value, list) else value
    check(config)
    return config


def difference(
    old: config_dict.ConfigDict, new: config_dict.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """Returns {'section.key': (old, new)} for every key whose value differs."""
    a, b = flatten(old), flatten(new)

    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return {
        path: (a.get(path), b.get(path))
        for path in sorted(a.keys() | b.keys())
        if plain(a.get(path)) != plain(b.get(path))
    }
