"""The missing runs of an ablation as one Slurm job array, rendered by launch/slurm.py.

A search is no array: what it tries next depends on what came of the last. Each node runs the same
`imgclass sweep FILE --storage=URL` instead.
"""

import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

from imgclass.errors import UserError
from imgclass.sweep import pool
from imgclass.sweep.runs import Run

SLURM = pool.MAIN.parent / "launch" / "slurm.py"


def submit(runs: Sequence[Run], root: pathlib.Path, options: str) -> list[str]:
    """Submits the runs that have no result, or prints the script if `options` say --dry_run.

    Args:
      runs: of the ablation; at least one without a result.
      root: the sweep's folder, which exists; the list of runs is written there.
      options: flags of launch/slurm.py, such as '--gpus=1 --time=2:00:00'.

    Returns:
      The names of the runs that were submitted.

    Raises:
      UserError: Slurm has refused the job, or is not here.
    """
    flags = shlex.split(options)
    missing = [one for one in runs if one.result is None]
    listed = root / "slurm-runs.txt"
    try:
        listed.write_text("".join(f"{shlex.join(one.words)}\n" for one in missing))
    except OSError as error:
        raise UserError(f"{listed}: cannot be written ({error.strerror}); give --root") from None
    command = [sys.executable, str(SLURM), f"--runs={listed}", f"--name={root.name}", *flags]
    sys.stdout.flush()
    done = subprocess.run(command)
    if done.returncode:
        raise UserError(
            f"launch/slurm.py ended with status {done.returncode}; nothing was submitted"
        )
    return [] if "--dry_run" in flags else [one.name for one in missing]
