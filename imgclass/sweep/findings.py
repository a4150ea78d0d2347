"""What a search found: the best config as a file to run, a table of trials, two plots."""

import math
import pathlib
from typing import Any

from imgclass import files
from imgclass.sweep import outputs, runs
from imgclass.sweep import study as study_lib
from imgclass.sweep.declare import Search
from imgclass.sweep.study import optuna


def write(declared: Search, study: optuna.Study, root: pathlib.Path) -> dict[str, Any]:
    """Writes best.py, trials.md, history.svg and importance.svg; returns what there is to say.

    Returns:
      'trials' by state, 'failed' with reasons and, where a trial has finished, 'best'.
    """
    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name.lower() for trial in trials]
    said: dict[str, Any] = {
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "failed": {
            f"trial-{trial.number}": trial.user_attrs.get("reason", "")
            for trial in trials
            if trial.state == optuna.trial.TrialState.FAIL
        },
        "best": None,
    }
    done = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    with files.writing(root / "trials.md"):
        files.write_atomically(root / "trials.md", _table(declared, trials))
    if done:
        said["best"] = _best(declared, study.best_trial, len(trials), root)
        _plots(declared, study, done, root)
    return said


def _values(declared: Search, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return study_lib.suggest(optuna.trial.FixedTrial(trial.params), declared.space)  # type: ignore[arg-type]


def _best(
    declared: Search, best: optuna.trial.FrozenTrial, of: int, root: pathlib.Path
) -> dict[str, Any]:
    values = _values(declared, best)
    fixed = {"eval.best_metric": declared.metric, **declared.always}
    config = runs.parse(declared.base, {**fixed, **values})  # as its base has it: the test too
    path = root / "best.py"
    about = (
        f"The best of {of} trials of {declared.base}: trial {best.number}, "
        f"validation {declared.metric} {best.value:.4f}."
    )
    with files.writing(path):
        files.write_atomically(path, outputs.recipe(config, about, path))
    return {
        "trial": best.number,
        declared.metric: best.value,
        "values": values,
        "config": str(path),
    }


def _table(declared: Search, trials: list[optuna.trial.FrozenTrial]) -> str:
    def place(trial: optuna.trial.FrozenTrial) -> tuple[bool, float]:
        sign = 1 if declared.metric == "loss" else -1
        unfinished = trial.state != optuna.trial.TrialState.COMPLETE
        return unfinished, math.inf if trial.value is None else sign * trial.value

    rows = [
        {
            "trial": t.number,
            "state": t.state.name.lower(),
            "value": t.value,
            "values": _values(declared, t) if t.params.keys() == declared.space.keys() else {},
        }
        for t in sorted(trials, key=place)
    ]
    return outputs.trials_table(rows, declared.metric)


def _plots(
    declared: Search, study: optuna.Study, done: list[optuna.trial.FrozenTrial], root: pathlib.Path
) -> None:
    pruned = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.PRUNED,))
    outputs.plot_history(
        [(t.number, t.value) for t in done if t.value is not None],
        [(t.number, t.value) for t in pruned if t.value is not None],
        declared.metric,
        root / "history.svg",
    )
    if len({t.value for t in done}) > 1:  # nothing to explain otherwise
        importance = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
        outputs.plot_importance(importance, root / "importance.svg")
