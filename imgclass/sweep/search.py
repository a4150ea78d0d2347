"""A search: each trial of Optuna's is a run of main.py, and validation says how it did.

A trial left running by a sweep that was killed is gone on with, from its checkpoint, by whoever
claims it next. Only validation is ever seen. Needs optuna, the extra `tune`.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

from imgclass.errors import UserError, first_line
from imgclass.sweep import outputs, pool, runs
from imgclass.sweep import study as study_lib
from imgclass.sweep.declare import Search
from imgclass.sweep.study import optuna
from imgclass.watch import look

Say = Callable[[str], None]


@dataclasses.dataclass
class _Going:
    trial: optuna.Trial
    run: runs.Run
    reported: int  # validations that Optuna knows
    size: int = 0  # of metrics.jsonl when it was last read
    pruned: bool = False


class Trials:
    """The trials that are to be run: a `pool.Source`.

    Attributes:
      study: Optuna's.
    """

    def __init__(
        self, declared: Search, study: optuna.Study, root: pathlib.Path, own: bool, say: Say
    ):
        """Args: `own` says that only sweeps in `root` use the study."""
        self.study = study
        self._declared, self._root, self._own, self._say = declared, root, own, say
        self._going: dict[str, _Going] = {}

    def take(self) -> pool.Job | None:
        """Returns a trial that nobody works on any more, or else a new one."""
        while True:
            lock = pool.claim(self._root / "claims" / "study", wait=True)
            assert lock is not None
            with lock:  # from asking to claiming, lest another sweep takes it for abandoned
                found = self._abandoned() or self._new()
            if found is None:
                return None
            job = self._job(*found)
            if job:
                return job

    def _abandoned(self) -> tuple[optuna.Trial, int, Any] | None:
        for frozen in self._unfinished():
            claim = pool.claim(self._claim(frozen.number))
            if claim:
                self._say(f"trial-{frozen.number}: was left running; going on")
                # Optuna looks trials up by an id that it shows nowhere else.
                trial = optuna.trial.Trial(self.study, frozen._trial_id)
                return trial, len(frozen.intermediate_values), claim
        return None

    def _unfinished(self) -> list[optuna.trial.FrozenTrial]:
        """Returns trials that are running, of other sweeps of this folder."""
        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        here = {going.trial.number for going in self._going.values()}
        return [
            t
            for t in running
            if t.number not in here and (self._own or self._claim(t.number).exists())
        ]

    def _new(self) -> tuple[optuna.Trial, int, Any] | None:
        begun = [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state != optuna.trial.TrialState.WAITING
        ]
        if len(begun) >= self._declared.trials:
            return None
        trial = study_lib.ask(self._declared, self.study)
        claim = pool.claim(self._claim(trial.number))
        assert claim is not None
        return trial, 0, claim

    def _claim(self, number: int) -> pathlib.Path:
        return self._root / "claims" / f"trial-{number}"

    def _job(self, trial: optuna.Trial, reported: int, claim: Any) -> pool.Job | None:
        """Returns the trial's run; None if its values cannot be together, which fails it."""
        name = f"trial-{trial.number}"
        try:
            keys = study_lib.changes(self._declared, study_lib.suggest(trial, self._declared.space))
            one = runs.make(name, self._root, self._declared.base, keys)
            runs.check([one])
        except UserError as error:
            with claim:
                self._fail(trial, first_line(error))
            return None
        self._going[name] = _Going(trial, one, reported)
        return pool.Job(name, one.words, outputs.log_of(self._root, name), claim)

    def look(self, job: pool.Job) -> bool:
        """Tells Optuna of new validations; returns whether it gives up the trial."""
        going = self._going[job.name]
        going.pruned = self._report(going) and going.trial.should_prune()
        return going.pruned

    def _report(self, going: _Going) -> bool:
        """Returns whether there was anything new. A trial's steps are its validations, from 1."""
        path = going.run.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size == going.size:
            return False
        going.size = size
        new = validations(path, self._declared.metric)[going.reported :]
        for value in new:  # a run that went on from a checkpoint writes its last ones again
            going.reported += 1
            going.trial.report(value, going.reported)
        return bool(new)

    def ended(self, job: pool.Job, reason: str) -> None:
        """Tells Optuna what came of a trial."""
        going = self._going.pop(job.name)
        trial = going.trial
        self._report(going)
        figures = {} if reason else (going.run.result or {})
        figures = figures.get("best") or figures.get("final") or {}
        value = figures.get(self._declared.metric)
        if value is not None:
            self.study.tell(trial, value)
            self._say(f"{job.name}: validation {self._declared.metric} {value:.4f}")
        elif going.pruned and reason:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            self._say(f"{job.name}: pruned")
        else:
            self._fail(trial, reason or f"no finite validation {self._declared.metric}")

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._say(f"trial-{trial.number}: failed: {reason}")

    def over(self) -> bool:
        """Returns whether all trials are begun, and none is left that another sweep runs here."""
        trials = self.study.get_trials(deepcopy=False)
        begun = sum(trial.state != optuna.trial.TrialState.WAITING for trial in trials)
        return begun >= self._declared.trials and not self._unfinished()


def validations(path: pathlib.Path, metric: str) -> list[float]:
    """Returns the metric of each validation record of a metrics.jsonl so far; None is NaN."""
    return [
        math.nan if record[metric] is None else float(record[metric])
        for record in look.read_records(path)
        if record["split"] == "validation" and metric in record
    ]
