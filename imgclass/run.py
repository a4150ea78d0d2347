"""The run folder: its name, its lock, what it records, and whether a start goes on or is refused.

    config.json  environment.json  data.json  metrics.jsonl  result.json  log.txt
    tensorboard/  checkpoints/

Only the lead process writes. Nothing here trains, and no file that exists is replaced by part of
another.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, TextIO

import jax
import ml_collections

from imgclass import config as config_lib
from imgclass import files, parallel, process
from imgclass.data import fast_decode
from imgclass.errors import UsageError, UserError

logger = logging.getLogger(__name__)

# Keys that leave the state's arrays and the order of examples as they are.
MAY_CHANGE = re.compile(
    r"(log|eval|checkpoint|loss)\..*|augment\.(?!repeats$).*"
    r"|data\.(data_dir|cache|feed|resident_mb|threads|workers|prefetch|max_pixels)"
    r"|train\.(total_.*|devices|fsdp|steps_per_dispatch|on_nonfinite|stall_seconds|stop_seconds)"
    r"|optim\.(lr|schedule|warmup_.*|end_factor|step_at|step_factor|clip_norm)"
)


# Seconds for a lock to come free: who watches a run holds it for a moment, to see if it lives.
_PATIENCE = 0.5


def new_folder(root: pathlib.Path, name: str) -> pathlib.Path:
    """Makes and returns root/<name>-<n> for the first n that is free."""
    number = 1
    while True:
        folder = root / f"{name}-{number}"
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root}: cannot be made ({error.strerror}); give --workdir") from None
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be made ({error.strerror}); give --workdir"
            ) from None


@contextlib.contextmanager
def folder_for(workdir: str, name: str) -> Iterator[pathlib.Path]:
    """Yields `workdir` or, if that is '', a new runs/<name>-<n> that goes again if not used."""
    if workdir:
        yield pathlib.Path(workdir)
        return
    folder = new_folder(pathlib.Path("runs"), name)
    try:
        yield folder
    finally:
        remove_if_unused(folder)


@contextlib.contextmanager
def locked(folder: pathlib.Path, lead: bool = True) -> Iterator[None]:
    """Holds the folder for this run, and makes it if need be; the lead process does it for all.

    A folder made here in which no run got as far as its config goes again.

    Raises:
      UserError: naming the holder if it is taken, or the reason if it cannot be written.
    """
    file, made = None, False
    with parallel.together():
        if lead:
            _check_name(folder)
            made = not folder.exists()
            file = _lock(folder)
    if file is None:
        yield
        return
    with file:
        try:
            yield
        finally:
            if not (folder / "config.json").exists():
                with contextlib.suppress(OSError):
                    (folder / "lock").unlink()  # held still: who has it open looks again
                if made:
                    remove_if_unused(folder)


def _check_name(folder: pathlib.Path) -> None:
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:  # TensorStore, which writes the checkpoints, takes no other names
        raise UserError(
            f"{folder}: the folder's name is not UTF-8; give another --workdir"
        ) from None


def _lock(folder: pathlib.Path) -> TextIO:
    path = folder / "lock"
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except OSError as error:
            reason = "it is a file" if folder.is_file() else error.strerror
            raise UserError(
                f"{folder}: cannot be written ({reason}); give another --workdir"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_open_at(file, path):
                file.truncate(0)
                file.write(f"{os.getpid()} on {platform.node()}")
                file.flush()
                return file
            file.close()  # removed by its last holder since it was opened: a lock on nothing
        except BlockingIOError:
            if time.monotonic() < patience:
                file.close()
                time.sleep(0.02)
                continue
            with file:
                file.seek(0)
                holder = file.read().strip() or "unknown"
            raise UserError(f"{folder} is in use by process {holder}; wait for it to end") from None
        except OSError as error:
            with contextlib.suppress(OSError):  # to close is to write what could not be written
                file.close()
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}); give a --workdir on another disk"
            ) from None


def _is_open_at(file: TextIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def check_config(
    folder: pathlib.Path, config: ml_collections.ConfigDict, allow_change: bool
) -> list[str]:
    """Compares a config with the one the folder was started with, if it was.

    Returns:
      A line for each key that changed, all of them allowed to.

    Raises:
      UsageError: listing every difference, if there is one that was not allowed.
    """
    if not (folder / "config.json").exists():
        return []
    changes = config_lib.difference(load_config(folder), config)
    said = [f"{key}: {old!r} then, {new!r} now" for key, (old, new) in changes.items()]
    fixed = [key for key in changes if not MAY_CHANGE.fullmatch(key)]
    if fixed or (changes and not allow_change):
        lines = [f"{folder} was started with another config:", *[f"  {line}" for line in said]]
        if fixed:
            lines.append(f"Use a new --workdir: {', '.join(fixed)} cannot change within a run")
        else:
            lines.append("Use a new --workdir, or --allow_config_change to go on like this")
        raise UsageError("\n".join(lines))
    return said


def store(folder: pathlib.Path, config: ml_collections.ConfigDict, data: dict[str, Any]) -> None:
    """Writes config.json and data.json, each with a digest of what it says."""
    for name, said in (("data", data), ("config", json.loads(config_lib.to_json(config)))):
        value = finite(said)
        write_json(folder / f"{name}.json", value | {"digest": files.digest(value)})


def load_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the config of a run. Raises UserError if `folder` is not one, or it was altered."""
    path = pathlib.Path(folder) / "config.json"
    try:
        return config_lib.from_json(json.dumps(_unaltered(path, json.loads(path.read_text()))))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a run folder: it has no config.json") from None
    except config_lib.ConfigError as error:
        words = [f"{path}: {problem}" for problem in error.problems]
        raise UserError("\n".join(words)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def load_data(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns what a run stored of its data, None if nothing. Raises UserError if altered."""
    path = pathlib.Path(folder) / "data.json"
    return _unaltered(path, load_json(path))


def _unaltered(path: pathlib.Path, value: Any) -> Any:
    if isinstance(value, dict) and "digest" in value and value.pop("digest") != files.digest(value):
        raise UserError(
            f"{path} was altered since the run wrote it: put it back as it was, or use a new "
            "--workdir"
        )
    return value


def load_json(path: pathlib.Path) -> Any:
    """Returns a JSON file's content, None if there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    files.write_atomically(path, json.dumps(finite(value), indent=2) + "\n")


def finite(value: Any) -> Any:
    """Returns plain data with None for every float that is not finite: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record_start(folder: pathlib.Path, about: Mapping[str, Any] | None = None) -> None:
    """Adds this start, with all that may move a number, to environment.json.

    Args:
      folder: of the run.
      about: what only the caller knows of it.
    """
    path = folder / "environment.json"
    stored = load_json(path) or {"starts": []}
    if not isinstance(stored, dict) or not isinstance(stored.get("starts"), list):
        raise UserError(f"{path} is not a record of starts; move it away")
    write_json(path, {"starts": [*stored["starts"], environment() | dict(about or {})]})


def environment() -> dict[str, Any]:
    """Returns versions, devices, command line and git commit."""
    packages = ("imgclass", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
                "pillow", "tensorflow-datasets", "array-record", "ml-collections")  # fmt: skip
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "directory": os.getcwd(),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": jax.process_count(),
        "packages": versions,
        "decoders": fast_decode.in_use(),
        "git": _git(),
        "tuned": process.applied,
        "settings": {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))},
    }


def _git() -> dict[str, Any] | None:
    root = pathlib.Path(__file__).resolve().parent.parent
    if not ((root / "main.py").exists() and (root / ".git").exists()):
        return None  # installed: a repository that encloses site-packages is another's

    def ask(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


class Records:
    """metrics.jsonl: one JSON object a line, in the order of steps."""

    def __init__(self, path: pathlib.Path, resume_step: int, pending: bool = False):
        """Opens the file, dropping what a killed process wrote past the step it resumes from.

        And, if `pending`, that step's validation, which is still to be done.
        """
        kept, damaged = [], 0
        if path.exists():
            # Bytes, because a flipped bit may leave a line that is no text.
            *lines, last = path.read_bytes().split(b"\n")
            for line in [*lines, last]:
                try:
                    record = json.loads(line)
                    # The test figure follows the last checkpoint: who goes on writes it anew. Its
                    # step is that of the best weights, and says nothing of when it was written.
                    again = pending and record["split"] == "validation"
                    if record["step"] <= resume_step - again and record["split"] != "test":
                        kept.append(line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    damaged += line is not last  # a last line is cut short by any kill
        if damaged:
            logger.warning("%s: %d damaged lines left out", path, damaged)
        if not resume_step:
            kept = []
        files.write_atomically(path, "".join(line.decode() + "\n" for line in kept))
        self._file = path.open("a")

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record; it is on disk when this returns, so no later save can outlive it."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def remove_if_unused(folder: pathlib.Path) -> None:
    """Removes a folder that this start made, unless a run wrote its config there or is about to."""
    if (folder / "config.json").exists() or (folder / "lock").exists():
        return
    with contextlib.suppress(OSError):
        (folder / "log.txt").unlink(missing_ok=True)
        folder.rmdir()
