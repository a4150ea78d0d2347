"""Programs timed against each other: fresh processes, in turns, with one allocator's settings.

A machine that slows down slows all of them, and nothing that one leaves in memory helps another.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# glibc's names for what `imgclass.process` sets: buffers are kept, not given back each step.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}


def run(programs: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs each command once a round, in turns.

    Args:
      programs: name -> command whose last line of output is a JSON object.
      rounds: how often.

    Returns:
      name -> one such object a round.

    Raises:
      SystemExit: a program failed; with its last lines.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for number in range(rounds):
        for name, command in programs.items():
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, **MALLOC}
            )
            if done.returncode:
                tail = "\n".join(done.stderr.strip().splitlines()[-5:])
                raise SystemExit(f"{name}: status {done.returncode}\n{tail}")
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            sys.stderr.write(f"round {number + 1} {name}: {json.dumps(found[name][-1])}\n")
    return found
