"""Sweeps as processes of their own, to be killed. Not a test."""

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests import tiny


def sweep(
    path: pathlib.Path, root: pathlib.Path, *words: str, log: Any = subprocess.DEVNULL
) -> subprocess.Popen:
    """Starts `imgclass sweep`."""
    code = "from imgclass import cli; cli.console()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "sweep", str(path), f"--root={root}", *words],
        env=tiny.environment(), stdout=log, stderr=log, text=True,
    )  # fmt: skip


def lives(pid: int) -> bool:
    """Returns whether there is such a process, not merely its entry."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def holder(folder: pathlib.Path) -> int:
    """Returns the process that trains in `folder`, as its lock says."""
    return int((folder / "lock").read_text().split()[0])
