"""A run seen from outside: how far it is, how fast, how well, and whether it still runs.

Reads the run folder and changes nothing in it, nor imports what training needs. Whether a run lives
is told by its lock, which the kernel frees however the process ends; how long it has been silent,
by the age of its last record. Nothing is drawn here.
"""

import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import time
from typing import Any

from imgclass import config as config_lib
from imgclass.errors import UserError
from imgclass.plan import Plan, make_plan

SILENT = 60.0  # seconds without a record, and 10 times the usual, after which it is said


@dataclasses.dataclass(frozen=True)
class View:
    """A run at a moment.

    Attributes:
      run: its folder.
      state: 'waiting' (no run has begun here), 'starting' (no record yet), 'running', 'finishing'
        (all steps done, the result not written), 'finished', 'stopped' (neither running nor done;
        with its --workdir it goes on), or 'imported' (weights from elsewhere: nothing to train on).
      step: updates done, as of the last record.
      total: of the whole run; None before its data are known.
      epoch: passes over the training split.
      eta_seconds: to the last step; None if unknown.
      images_per_second: of the last training record.
      data_wait: share of the time the device may have waited for data, in that record.
      age_seconds: since the last record.
      silent: whether that is unusually long.
      best_metric: what 'best' means.
      train: the last training record.
      validation: the last validation record.
      best: the best one.
      records: all, as in metrics.jsonl.
    """

    run: str
    state: str
    step: int = 0
    total: int | None = None
    epoch: float = 0.0
    eta_seconds: float | None = None
    images_per_second: float | None = None
    data_wait: float | None = None
    age_seconds: float | None = None
    silent: bool = False
    best_metric: str = "accuracy"
    train: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    records: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain data, the records left out."""
        plain = dataclasses.asdict(dataclasses.replace(self, records=()))
        del plain["records"]
        return plain


class Records:
    """metrics.jsonl, read on from where the last look ended."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self.found: list[dict[str, Any]] = []
        self.time: float | None = None  # of the last write, seconds since 1970

    def read(self) -> None:
        """Reads what is new. A line half written is left for the next time."""
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                same = (about.st_dev, about.st_ino) == self._file
                if not same or about.st_size < self._offset:  # a start writes the file anew
                    self.found, self._offset = [], 0
                self._file, self.time = (about.st_dev, about.st_ino), about.st_mtime
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            self.found, self._offset, self._file, self.time = [], 0, None, None
            return
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error.strerror}") from None
        if not whole:
            return
        self._offset += len(whole) + 1
        for line in whole.split(b"\n"):
            try:
                record = json.loads(line)
                if type(record["step"]) is not int or not isinstance(record["split"], str):
                    continue
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # damaged: the run itself says so when it goes on
            self.found.append(record)


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl, none if there is no such file; see `Records`."""
    found = Records(path)
    found.read()
    return found.found


class Watch:
    """One run, looked at again and again."""

    def __init__(self, folder: pathlib.Path):
        """Raises UserError if `folder` is not there, or holds something that is no run."""
        self._folder = folder
        self._records = Records(folder / "metrics.jsonl")
        # Its text, and what that says, which is slow to parse.
        self._config: tuple[str | None, Any] = (None, None)
        self._first: tuple[float, int] | None = None  # when it was first seen at work, at what step
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; start the run first")
        names = {path.name for path in folder.iterdir()}
        if names and not names & {"config.json", "lock"}:
            raise UserError(f"{folder} is not a run folder: it has no config.json")

    def look(self) -> View:
        """Returns the run as it is now."""
        held = _held(self._folder / "lock")  # first: a run that ends meanwhile has written all
        self._records.read()
        records = self._records.found
        age = None if self._records.time is None else max(time.time() - self._records.time, 0.0)
        view = View(str(self._folder), "waiting", age_seconds=age, records=tuple(records))
        try:
            text = (self._folder / "config.json").read_text()
            if text != self._config[0]:
                self._config = (text, _config_of(text))
        except FileNotFoundError:
            return dataclasses.replace(view, state="starting" if held else "waiting")
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self._folder / 'config.json'} cannot be read: {error}") from None
        config = self._config[1]
        examples = self._examples()
        plan = make_plan(config, examples) if examples else None
        done = [r for r in records if r["split"] in ("train", "validation")]
        train = [r for r in done if r["split"] == "train"]
        validations = [r for r in done if r["split"] == "validation"]
        step = max((r["step"] for r in done), default=0)
        usual = _usual_gap(train, config.train.batch_size)
        state = "imported" if examples == 0 else self._state(held, step, plan, bool(records))
        metric = config.eval.best_metric
        speed = train[-1].get("images_per_second") if train else None
        return dataclasses.replace(
            view,
            state=state,
            step=step,
            total=plan.total if plan else None,
            epoch=plan.epoch(step) if plan else 0.0,
            eta_seconds=self._eta(step, plan, speed) if state == "running" else None,
            images_per_second=speed,
            data_wait=train[-1].get("data_wait") if train else None,
            silent=state == "running" and (age or 0.0) > max(SILENT, 10 * usual),
            best_metric=metric,
            train=train[-1] if train else None,
            validation=validations[-1] if validations else None,
            best=_best(validations, metric),
        )

    def _examples(self) -> int | None:
        """Returns how many there are to train on; 0 is a run imported without data."""
        try:
            stored = json.loads((self._folder / "data.json").read_text())
            return int(stored["splits"]["train"]["examples"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # about to be written

    def _state(self, held: bool | None, step: int, plan: Plan | None, recorded: bool) -> str:
        try:
            result = json.loads((self._folder / "result.json").read_text())
            finished = plan is not None and result["steps"] == plan.total
        except (OSError, ValueError, KeyError, TypeError):
            finished = False
        if finished and not held:
            return "finished"
        if held is False:
            return "stopped"
        if plan is not None and step >= plan.total:
            return "finishing"
        return "running" if recorded else "starting"

    def _eta(self, step: int, plan: Plan | None, speed: float | None) -> float | None:
        """Returns seconds to the last step, at the pace seen, or else at the last record's."""
        if plan is None:
            return None
        now = time.monotonic()
        if self._first is None or step < self._first[1]:
            self._first = (now, step)
        since, first = self._first
        # What was seen holds validations and saves too, but needs a while to be worth more.
        if now - since > 30.0 and step - first >= 5 * max(float(plan.log.steps), 1.0):
            return (plan.total - step) * (now - since) / (step - first)
        return (plan.total - step) * plan.batch_size / speed if speed else None


def _config_of(text: str) -> Any:
    """Returns the config of a config.json; whether its digest is right is for the run to say."""
    stored = json.loads(text)
    if isinstance(stored, dict):
        stored.pop("digest", None)
    return config_lib.from_json(json.dumps(stored))


def _held(lock: pathlib.Path) -> bool | None:
    """Returns whether a run holds its lock; None if this file system or machine cannot tell."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go of at once
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        return True if error.errno in (errno.EACCES, errno.EAGAIN) and lock.exists() else None


def _usual_gap(train: list[dict[str, Any]], batch_size: int) -> float:
    """Returns the seconds of training between the last two training records, 0 if unknown."""
    if not train or not train[-1].get("images_per_second"):
        return 0.0
    before = train[-2]["step"] if len(train) > 1 else 0
    return (train[-1]["step"] - before) * batch_size / train[-1]["images_per_second"]


def _best(validations: list[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """Returns the best record as training chooses it: of equal ones the first."""
    fit = [r for r in validations if r.get(metric) is not None and r.get("loss") is not None]
    sign = -1.0 if metric == "loss" else 1.0
    return max(fit, key=lambda r: sign * r[metric], default=None)
