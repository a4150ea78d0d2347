"""Kills a real training run again and again, and compares what it ends in with one left alone.

    python -m tests.soak --kills=100 --seed=0           # --wait: with checkpoint.wait

Each life of the run ends by SIGKILL or SIGTERM at a moment drawn from the seed, anywhere from the
first import to the middle of a save. After each death every checkpoint is checked against its
digests and the steps lost are counted; at the end parameters, records and result have to be those
of the uninterrupted run, bit for bit. Both are pinned to the same core. Prints a summary, and JSON
on the last line; exit status 0 if nothing was lost or torn. Not a test: tests/test_soak.py is.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from imgclass import checkpoint
from tests import tiny

SAVE = 20  # steps between saves
STEPS = 250  # a kill, on average; a life may overshoot by a hundred
PREEMPTED = 75


@dataclasses.dataclass
class Tally:
    """What the deaths did.

    Attributes:
      kills: lives ended by SIGKILL.
      terms: lives ended by SIGTERM, by exit status; -15 is before the handler was there.
      lost: steps done and not saved, of each SIGKILL.
      beyond: steps done since the last save began, of each SIGKILL.
      in_flight: deaths while a save was being written.
      faults: what should not have been, a line each.
      identical: whether the end is that of the uninterrupted run.
      seconds: of the whole soak.
    """

    kills: int = 0
    terms: dict[str, int] = dataclasses.field(default_factory=dict)
    lost: list[int] = dataclasses.field(default_factory=list)
    beyond: list[int] = dataclasses.field(default_factory=list)
    in_flight: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)
    identical: bool = False
    seconds: float = 0.0

    @property
    def deaths(self) -> int:
        return self.kills + sum(self.terms.values())

    def summary(self) -> dict[str, Any]:
        """Returns plain data for people and machines."""
        return {
            "deaths": self.deaths,
            "sigkill": self.kills,
            "sigterm_by_status": self.terms,
            "killed_while_saving": self.in_flight,
            "save_interval": SAVE,
            "most_steps_since_a_save_began": max(self.beyond, default=0),
            "most_steps_lost": max(self.lost, default=0),
            "faults": self.faults,
            "bit_identical": self.identical,
            "seconds": round(self.seconds, 1),
        }


def soak(folder: pathlib.Path, kills: int, seed: int, minutes: float, wait: bool = False) -> Tally:
    """Runs the uninterrupted run, then the other with `kills` deaths, or as many as time allows."""
    began, draw, tally = time.monotonic(), random.Random(seed), Tally()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    changes = tiny.FULL | {
        "data.feed": "stream",
        "train.total_steps": kills * STEPS,
        "log.every_steps": 5,
        "eval.every_steps": 7 * SAVE + 3,
        "checkpoint.every_steps": SAVE,
        "checkpoint.keep": 1,
        "checkpoint.wait": wait,
        "eval.final_test": True,
    }
    data = tiny.archive(folder)
    whole, run = folder / "whole", folder / "run"
    start(tiny.command(data, folder / "warm", changes | {"train.total_steps": 5}), folder).wait()
    process = start(tiny.command(data, whole, changes), folder)
    startup = seconds_until(process, lambda: logged(whole) > 0)
    if process.wait() != 0:
        raise SystemExit(f"the uninterrupted run failed: {(folder / 'said').read_text()}")
    command = tiny.command(data, run, changes)
    while tally.deaths < kills and time.monotonic() - began < 60 * minutes:
        at, before = durable(run), logged(run)
        process = start(command, folder)
        if draw.random() < 0.3:
            time.sleep(draw.uniform(0, startup))
        else:
            mean = (kills * STEPS - at) / (kills - tally.deaths)
            goal = at + draw.uniform(0, mean)
            seconds_until(process, lambda goal=goal: logged(run) > goal)
            time.sleep(draw.uniform(0, 0.05))
        asked = draw.random() < 0.3
        process.send_signal(signal.SIGTERM if asked else signal.SIGKILL)
        status = process.wait(timeout=300)
        if status == 0:
            break  # done before it could be killed
        note(tally, run, status, asked, before, wait)
    while (status := start(command, folder).wait()) != 0:
        tally.faults.append(f"left alone, it ended with status {status}")
        if len(tally.faults) > 3:
            break
    if status == 0:
        compare(tally, whole, run)
    tally.seconds = time.monotonic() - began
    return tally


def start(command: list[str], folder: pathlib.Path) -> subprocess.Popen:
    """Starts a run whose programs are compiled once for all; what it says goes to folder/said."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with open(folder / "said", "a") as said:
        return subprocess.Popen(
            command, env=tiny.environment() | cache, cwd=tiny.ROOT, stdout=said, stderr=said
        )


def seconds_until(process: subprocess.Popen, condition: Any) -> float:
    """Waits until the condition holds or the process ends; returns how long that took."""
    began = time.monotonic()
    while process.poll() is None and not condition():
        time.sleep(0.01)
    return time.monotonic() - began


def logged(run: pathlib.Path) -> int:
    """Returns the last step of metrics.jsonl, 0 if there is none."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except ValueError:
            continue  # cut short
    return 0


def durable(run: pathlib.Path) -> int:
    """Returns the newest step that is saved, 0 if there is none."""
    return max(tiny.saved_steps(run), default=0)


def note(
    tally: Tally, run: pathlib.Path, status: int, asked: bool, before: int = 0, wait: bool = False
) -> None:
    """Checks what a death has left; `before` is what `logged` said when that life began."""
    saved, done = durable(run), logged(run)
    name = f"death {tally.deaths + 1}"
    newest = max((int(p.name) for p in run.glob("checkpoints/*") if p.name.isdecimal()), default=0)
    saving = newest > saved
    if asked:
        key = str(status)
        tally.terms[key] = tally.terms.get(key, 0) + 1
        if status not in (PREEMPTED, -signal.SIGTERM):
            tally.faults.append(f"{name}: SIGTERM ended in status {status}")
        # Asked before it trained, it left the records of the life before, whose loss was counted.
        if status == PREEMPTED and done > saved and done != before:
            tally.faults.append(f"{name}: SIGTERM lost {done - saved} steps")
    else:
        tally.kills += 1
        tally.in_flight += saving
        tally.lost.append(max(done - saved, 0))
        tally.beyond.append(max(done - max(newest, saved), 0))
        # A step counts as saved once it is on disk, and training goes on meanwhile, unless told to
        # wait: to the next save, which waits for this one.
        if tally.beyond[-1] > SAVE or done - saved > (SAVE if wait else 2 * SAVE):
            tally.faults.append(f"{name}: SIGKILL lost {done - saved} steps")
    for step in tiny.saved_steps(run):
        found = checkpoint.verify(run / f"checkpoints/{step:010d}")
        if isinstance(found, str):
            tally.faults.append(f"{name}: {found}")
    for path in run.glob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            tally.faults.append(f"{name}: {path.name} is torn")


def compare(tally: Tally, whole: pathlib.Path, run: pathlib.Path) -> None:
    """Compares two finished runs."""
    a, b = tiny.arrays(whole), tiny.arrays(run)
    tally.faults += [f"{k} differs" for k in a if a[k].tobytes() != b[k].tobytes()]
    if tiny.records(whole) != tiny.records(run):
        tally.faults.append("metrics.jsonl differs")
    results = [json.loads((path / "result.json").read_text()) for path in (whole, run)]
    if results[0] | tiny.TIMINGS != results[1] | tiny.TIMINGS:
        tally.faults.append("result.json differs")
    tally.identical = not [fault for fault in tally.faults if fault.endswith("differs")]


def main() -> int:
    """Parses the flags, soaks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no new kill after that")
    parser.add_argument("--wait", action="store_true", help="train with checkpoint.wait")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        tally = soak(pathlib.Path(folder), args.kills, args.seed, args.minutes, args.wait)
    for name, value in tally.summary().items():
        sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.write(json.dumps(tally.summary()) + "\n")
    return 1 if tally.faults or not tally.identical else 0


if __name__ == "__main__":
    sys.exit(main())
