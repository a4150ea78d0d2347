"""A declared run: the words for main.py, its folder, and whether it is done.

A folder is only ever gone on with by the config that it was started with, but for keys that move
no figure: `check` refuses one that does not match, before anything is started. Nothing here starts
a process.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from imgclass import arguments, run
from imgclass import config as config_lib
from imgclass.compare.runs import NO_EFFECT
from imgclass.errors import UsageError, UserError
from imgclass.sweep.declare import Ablation

# The test split is for the end of a project: who wants it in a sweep declares it.
PROTECTED = {"eval.final_test": False}
QUIET = {"log.report": False, "log.images": False}  # nobody opens so many
_LINES = 6  # of differences, at most


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: of its folder.
      folder: its run folder.
      change: the name of its change; of a trial, its own name.
      words: the arguments of main.py.
      config: what main.py makes of them, resolved and checked.
    """

    name: str
    folder: pathlib.Path
    change: str
    words: tuple[str, ...]
    config: ml_collections.ConfigDict

    @property
    def result(self) -> dict[str, Any] | None:
        """Returns result.json of a finished run, None before."""
        return run.load_json(self.folder / "result.json")


def of_ablation(declared: Ablation, root: pathlib.Path) -> list[Run]:
    """Returns every run of an ablation, seed by seed, so that early tables compare all changes.

    Raises:
      UsageError: naming each change whose config cannot be, with the reason.
    """
    changes = {
        name: PROTECTED | QUIET | {"eval.best_metric": declared.metric, **declared.always, **keys}
        for name, keys in declared.changes.items()
    }
    problems = []
    for name, keys in changes.items():
        try:
            parse(declared.base, keys)
        except UserError as error:
            problems += [f"{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise UsageError("\n".join(problems))
    return [
        make(f"{name}-{seed}", root, declared.base, {**keys, "seed": seed}, change=name)
        for seed in declared.each_seed
        for name, keys in changes.items()
    ]


def make(
    name: str, root: pathlib.Path, base: str, keys: Mapping[str, Any], change: str = ""
) -> Run:
    """Returns a run of `base` with `keys` changed. Raises ConfigError if that cannot be."""
    folder = root / name
    words = [*_words(base, keys), f"--workdir={folder}"]
    if (folder / "config.json").exists():  # `check` lets pass what moves no figure
        words.append("--allow_config_change")
    return Run(name, folder, change or name, tuple(words), parse(base, keys))


def parse(base: str, keys: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the resolved and checked config, as main.py would.

    Raises:
      UsageError: there is no such config, or it has no validation.
    """
    words = ["sweep", *_words(base, keys)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    config = arguments.parse(words, values)[0]
    if not config.data.validation_split:
        raise UsageError(
            "data.validation_split='': a sweep compares by validation; name a split, or 'auto'"
        )
    return config


def on_test(configs: Mapping[str, ml_collections.ConfigDict]) -> str:
    """Returns a sentence naming those whose validation is the test split, '' if none's is."""

    def seen(spec: str) -> bool:
        return any(part.partition("[")[0].strip() == "test" for part in spec.split("+"))

    names = [name for name, config in configs.items() if seen(config.data.validation_split)]
    if not names:
        return ""
    return (
        f"Validation is the test split in {', '.join(names)} (data.validation_split): what is "
        "chosen by it has no fair test figure left."
    )


def _words(base: str, keys: Mapping[str, Any]) -> list[str]:
    return [f"--config={base}", *(f"--config.{key}={_text(keys[key])}" for key in keys)]


def _text(value: Any) -> str:
    return repr(tuple(value)).replace(" ", "") if isinstance(value, list | tuple) else str(value)


def harmless(key: str) -> bool:
    """Returns whether a key moves no figure, and may change in a run that is gone on with."""
    return bool(NO_EFFECT.fullmatch(key) and run.MAY_CHANGE.fullmatch(key))


def check(runs: Iterable[Run]) -> None:
    """Raises UsageError if a folder holds a run of another config, saying what differs.

    Keys that move no figure may differ.
    """
    for one in runs:
        if not (one.folder / "config.json").exists():
            continue
        changed = config_lib.difference(run.load_config(one.folder), one.config)
        changed = {key: both for key, both in changed.items() if not harmless(key)}
        if changed:
            lines = [f"  {key}: {old!r} then, {new!r} now" for key, (old, new) in changed.items()]
            more = [f"  and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
            raise UsageError(
                "\n".join(
                    [
                        f"{one.folder} was started with another config:",
                        *lines[:_LINES],
                        *more,
                        "Give a new --root, rename the change, or move that folder away",
                    ]
                )
            )
