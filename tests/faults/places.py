"""Places where things fail: file systems of a test's own, and the rights of nobody.

Not a test. What cannot be had on a machine is skipped there.
"""

import contextlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests import tiny

OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]
NO_NETWORK = ["unshare", "--user", "--map-root-user", "--net"]
NOBODY = 65534


def _works(command: Sequence[str]) -> bool:
    if not shutil.which("unshare"):
        return False
    tried = subprocess.run([*command, "true"], capture_output=True)
    return tried.returncode == 0


needs_namespaces = pytest.mark.skipif(
    not (_works(OWN_MOUNTS) and _works(NO_NETWORK)), reason="needs Linux user namespaces"
)


def shell(script: str, **names: object) -> subprocess.CompletedProcess:
    """Runs bash with mounts of its own. `names` are its variables; a list is one command."""
    lines = [
        f"{name}={shlex.quote(str(value))}"
        if not isinstance(value, list)
        else f"{name}() {{ {shlex.join(map(str, value))}; }}"
        for name, value in names.items()
    ]
    return subprocess.run(
        [*OWN_MOUNTS, "bash", "-uc", "\n".join([*lines, script])],
        env=tiny.environment(), cwd=tiny.ROOT, capture_output=True, text=True, timeout=150,
    )  # fmt: skip


def python(code: str, *words: object, before: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """Runs Python code in a process of its own, after the words of `before`."""
    return subprocess.run(
        [*before, sys.executable, "-c", code, *map(str, words)],
        env=tiny.environment(), cwd=tiny.ROOT, capture_output=True, text=True, timeout=150,
    )  # fmt: skip


@contextlib.contextmanager
def as_nobody(*open_to_all: pathlib.Path) -> Iterator[None]:
    """Gives up root's right to read and write everything; the paths given stay within reach.

    pytest's temporary folders are for their owner alone, so those above the paths are opened too.
    """
    if os.geteuid() != 0:
        yield
        return
    for path in open_to_all:
        for folder in (path, *path.parents):
            if folder.stat().st_uid == 0 and folder.name.startswith(("pytest", "test_", "popen")):
                folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
