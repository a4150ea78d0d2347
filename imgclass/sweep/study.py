"""Optuna's study of a search: opened or begun, with its sampler and pruner, and asked for values.

Optuna's storage is the memory: SQLite in the sweep's folder, or any URL that several machines
share. A study is never gone on with by another search. Needs optuna, the extra `tune`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgclass import config as config_lib
from imgclass.errors import UsageError, UserError, first_line
from imgclass.sweep import pool, runs
from imgclass.sweep.declare import Choice, Range, Search

try:
    import optuna
    import sqlalchemy  # which optuna brings
except ModuleNotFoundError:
    raise UserError("a search needs optuna: pip install 'imgclass[tune]'") from None

optuna.logging.set_verbosity(optuna.logging.WARNING)


def check(declared: Search) -> None:
    """Raises UsageError if the base, or a value at an end of the space, makes no config."""
    first = {key: _ends(domain)[0] for key, domain in declared.space.items()}
    lines: list[str] = []
    for key, domain in declared.space.items():
        for value in _ends(domain):
            try:
                runs.parse(declared.base, changes(declared, first | {key: value}))
            except UserError as error:
                lines += [line for line in str(error).splitlines() if line not in lines]
    if lines:
        raise UsageError("\n".join(lines))


def _ends(domain: Range | Choice) -> tuple[Any, ...]:
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def changes(declared: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a trial changes of the base, its `values` among it."""
    fixed = {"eval.best_metric": declared.metric, **declared.always}
    return {**runs.PROTECTED, **runs.QUIET, **fixed, **values}


def begin(declared: Search, root: pathlib.Path, storage: str) -> optuna.Study:
    """Opens the study called as `root`, or begins it.

    Args:
      declared: of the sweep's file.
      root: the sweep's folder; it exists.
      storage: an Optuna storage URL; '' is SQLite in `root`.

    Raises:
      UsageError: the study was begun with another base, space or metric.
      UserError: the storage cannot be used.
    """
    url = storage or sqlite(root.absolute() / "study.db")
    lock = pool.claim(root / "claims" / "study", wait=True)
    assert lock is not None
    with lock:  # two sweeps that begin at once would both make the tables
        try:
            study = optuna.create_study(
                storage=url,
                study_name=root.name,
                direction="minimize" if declared.metric == "loss" else "maximize",
                pruner=pruner(declared.pruner),
                load_if_exists=True,
            )
        except Exception as error:  # each database has errors of its own
            first = first_line(error)
            raise UserError(f"--storage={url}: cannot be used ({first})") from error
        _check_same(study, declared, root)
    return study


def sqlite(path: pathlib.Path) -> str:
    """Returns the URL of an SQLite file, whatever characters are in its path.

    Raises:
      UserError: this SQLAlchemy cannot write such a path in a URL.
    """
    made = sqlalchemy.URL.create("sqlite", database=str(path))
    try:
        url = made.render_as_string(hide_password=False)
        if sqlalchemy.make_url(url).database == str(path):
            return url
    except UnicodeEncodeError:  # bytes that are no text
        pass
    raise UserError(f"{path}: no place for SQLite because of a character in it; give --root")


def ask(declared: Search, study: optuna.Study) -> optuna.Trial:
    """Begins a trial. What it proposes depends on the seed and on the trials before, only.

    A sampler of its own for each trial: one for all would, in a sweep that was killed and goes on,
    propose its first values again.
    """
    before = len(study.get_trials(deepcopy=False))
    seed = int(np.random.SeedSequence([declared.seed, before]).generate_state(1)[0])
    study.sampler = sampler(declared.sampler, seed)
    return study.ask()


def sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Returns one of `declare.SAMPLERS`."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def pruner(name: str) -> optuna.pruners.BasePruner:
    """Returns one of `declare.PRUNERS`."""
    return {
        "hyperband": optuna.pruners.HyperbandPruner,
        "median": optuna.pruners.MedianPruner,
        "none": optuna.pruners.NopPruner,
    }[name]()


def _check_same(study: optuna.Study, declared: Search, root: pathlib.Path) -> None:
    base = config_lib.flatten(runs.parse(declared.base, changes(declared, {})))
    now = {"metric": declared.metric, **{key: repr(base[key]) for key in sorted(base)}}
    now |= {key: repr(domain) for key, domain in declared.space.items()}
    before = study.user_attrs.get("declared")
    if before is None:
        study.set_user_attr("declared", now)
        return
    # A key that is younger than the study had, without being there, its default.
    plain = {key: repr(value) for key, value in config_lib.flatten(config_lib.defaults()).items()}
    before = plain | before
    changed = [
        f"  {key}: {before.get(key)} then, {now.get(key)} now"
        for key in sorted(now)
        if before.get(key) != now[key] and (key in declared.space or not runs.harmless(key))
    ]
    if changed:
        lines = [f"{root} was begun as another search:", *changed, "Give a new --root"]
        raise UsageError("\n".join(lines))


def suggest(trial: optuna.Trial, space: Mapping[str, Range | Choice]) -> dict[str, Any]:
    """Returns a value for each key; for a trial that has some already, those."""
    values: dict[str, Any] = {}
    for key, domain in space.items():
        if isinstance(domain, Choice):
            texts = {repr(value): value for value in domain.values}  # Optuna stores no tuples
            values[key] = texts[trial.suggest_categorical(key, list(texts))]
        elif domain.whole:
            low, high = int(domain.low), int(domain.high)
            values[key] = trial.suggest_int(key, low, high, log=domain.log)
        else:
            values[key] = trial.suggest_float(key, domain.low, domain.high, log=domain.log)
    return values
