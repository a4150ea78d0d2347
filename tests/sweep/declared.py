"""Sweeps small enough for a test, and a stub in place of main.py. Not a test."""

import functools
import json
import pathlib
import shutil
import tempfile

from imgclass import config as config_lib
from imgclass.sweep import pool, runs
from tests import tiny
from tests.compare import made

CNN = str(tiny.ROOT / "configs" / "cnn.py")
ALWAYS = {**tiny.BASE, "eval.every_steps": 2, "log.report": False}


def file(folder: pathlib.Path, text: str) -> pathlib.Path:
    """Writes a sweep's file: what get_sweep() returns."""
    path = folder / "declared.py"
    path.write_text(f"from imgclass.sweep import *\ndef get_sweep():\n    return {text}\n")
    return path


def ablation(changes: dict, seeds: int = 2, data: str = "digits", always: dict | None = None):
    """Returns the text of an Ablation of tiny runs."""
    keys = ALWAYS | (always or {})
    return f"Ablation({f'{CNN}:{data}'!r}, {changes!r}, seeds={seeds}, always={keys!r})"


def search(space: str, trials: int, more: str = "", data: str = "digits"):
    """Returns the text of a Search of tiny runs."""
    return f"Search({f'{CNN}:{data}'!r}, {space}, trials={trials}, always={ALWAYS!r}, {more})"


def stub(folder: pathlib.Path, monkeypatch, **plan) -> pathlib.Path:
    """Puts the stub in main.py's place, doing as `plan` says; returns its folder."""
    folder = folder / "stub"
    folder.mkdir(exist_ok=True)
    shutil.copy(pathlib.Path(__file__).with_name("stub.py"), folder / "main.py")
    (folder / "plan.json").write_text(json.dumps({k.replace("_", "-"): v for k, v in plan.items()}))
    monkeypatch.setattr(pool, "MAIN", folder / "main.py")
    return folder


@functools.cache
def _tables() -> bytes:
    import optuna

    with tempfile.TemporaryDirectory() as folder:
        optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db").engine.dispose()
        return (pathlib.Path(folder) / "study.db").read_bytes()


def root(folder: pathlib.Path) -> pathlib.Path:
    """Makes a search's folder with the tables of its storage, which take long to make."""
    folder.mkdir(exist_ok=True)
    if not (folder / "study.db").exists():
        (folder / "study.db").write_bytes(_tables())
    return folder


def starts(folder: pathlib.Path) -> list[str]:
    """Returns the names of the runs that the stub was started for, in order."""
    path = folder / "starts.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def finished(one: runs.Run, right: int, **data) -> None:
    """Writes the folder of a finished run, `right` of its 20 validation pictures right.

    `data` are entries of data.json. The run is to be declared with `STEPS`.
    """
    made.make(one.folder, made.first(right), seed=one.config.seed, **data)
    (one.folder / "config.json").write_text(config_lib.to_json(one.config))


STEPS = {"train.total_steps": made.STEPS}
