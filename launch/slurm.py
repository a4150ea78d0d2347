"""Submits main.py to Slurm: one task a node, all of them training one model.

    python launch/slurm.py --nodes=4 --gpus=8 --time=24:00:00 -- \\
        --config=configs/imagenet_resnet50.py --workdir=/shared/runs/r50

What follows `--` goes to main.py. Two minutes before the time limit, and when it is preempted, the
run saves and ends with status 75, and the job goes back into the queue; so it does when a process
was lost (69) or stalled (70). --sweep makes a job array, one run for each combination of values;
--runs makes one of a file with a run's arguments on each line, as `imgclass sweep` writes it.
"""

import argparse
import itertools
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --time={time}
#SBATCH --signal=TERM@{notice}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log
{options}
set -u
cd {folder} || exit 1
{environment}{runs}
# Slurm asks the tasks to stop before the time is up (--signal). When it ends the whole job it tells
# this script too: then it is Slurm, or who cancelled it, that decides whether it runs again.
cancelled=0
trap 'cancelled=1' TERM

srun --kill-on-bad-exit=1 {python} main.py --distributed "${{run[@]}}" &
step=$!
wait "$step"
status=$?
while [ "$cancelled" = 1 ] && kill -0 "$step" 2> /dev/null; do # the trap has cut the wait short
    wait "$step"
    status=$?
done

case $status in
    69 | 70 | 75)
        if [ "$cancelled" = 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
            scontrol requeue "$SLURM_JOB_ID"
        fi
        ;;
esac
exit "$status"
"""


def render(args: argparse.Namespace, rest: Sequence[str]) -> str:
    """Returns the batch script of parsed flags and main.py's arguments."""
    options = [*args.sbatch]
    environment = ""
    if args.gpus:
        options.append(f"--gpus-per-node={args.gpus}")
        # Else JAX takes one device a Slurm task.
        devices = ",".join(str(number) for number in range(args.gpus))
        environment = f"export JAX_LOCAL_DEVICE_IDS={devices}\n"
    if args.cpus:
        options.append(f"--cpus-per-task={args.cpus}")
    runs = _one(rest)
    if args.sweep or args.runs:
        each = listed(args.runs, rest) if args.runs else combinations(args.sweep, rest)
        options.append(f"--array=0-{len(each) - 1}")
        runs = _several(each)
    return TEMPLATE.format(
        name=args.name,
        nodes=args.nodes,
        time=args.time,
        notice=args.notice,
        options="".join(f"#SBATCH {option}\n" for option in options),
        folder=shlex.quote(args.folder),
        environment=environment,
        runs=runs,
        python=shlex.quote(args.python),
        restarts=args.restarts,
    )


def combinations(sweep: Sequence[str], rest: Sequence[str]) -> list[list[str]]:
    """Returns main.py's arguments for each combination of 'KEY=VALUE,VALUE...' values.

    Each run has a folder of its own, numbered, inside the --workdir of `rest`.
    """
    pairs = [word.partition("=")[::2] for word in sweep]
    values = [[f"--{key}={value}" for value in text.split(",")] for key, text in pairs]
    found = []
    for number, chosen in enumerate(itertools.product(*values)):
        words = [f"{w}/{number}" if w.lstrip("-").startswith("workdir=") else w for w in rest]
        found.append([*words, *chosen])
    return found


def listed(path: str, rest: Sequence[str]) -> list[list[str]]:
    """Returns main.py's arguments for each line of a file, `rest` after them."""
    lines = pathlib.Path(path).read_text().splitlines()
    return [[*shlex.split(line), *rest] for line in lines]


def _one(rest: Sequence[str]) -> str:
    return f"run=({shlex.join(rest)})\n"


def _several(each: Sequence[Sequence[str]]) -> str:
    cases = "".join(f"    {n}) run=({shlex.join(words)}) ;;\n" for n, words in enumerate(each))
    unknown = '    *) echo "no such run: $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;\n'
    return f"case $SLURM_ARRAY_TASK_ID in\n{cases}{unknown}esac\n"


def parser() -> argparse.ArgumentParser:
    """Returns the launcher's flags."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("--nodes", type=int, default=1)
    made.add_argument("--gpus", type=int, default=0, help="a node; 0 is none")
    made.add_argument("--cpus", type=int, default=0, help="cores a node; 0 is Slurm's default")
    made.add_argument("--time", default="24:00:00", help="limit of one stay, as Slurm takes it")
    made.add_argument("--notice", type=int, default=120, help="seconds to save in before it")
    made.add_argument("--restarts", type=int, default=100, help="times back in the queue, at most")
    made.add_argument("--name", default="imgclass")
    made.add_argument("--folder", default=".", help="of main.py, on the nodes")
    made.add_argument("--python", default="python")
    made.add_argument(
        "--sweep", action="append", default=[], metavar="KEY=A,B",
        help="for example config.optim.lr=0.1,0.01; once for each key",
    )  # fmt: skip
    made.add_argument("--runs", default="", metavar="FILE", help="a run's arguments on each line")
    made.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION",
        help="another #SBATCH line, for example --sbatch=--partition=gpu",
    )  # fmt: skip
    made.add_argument("--dry_run", action="store_true", help="print the script, submit nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Submits, or prints, the job."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    flags, rest = parser(), words[split + 1 :]
    args = flags.parse_args(words[:split])
    if args.runs and args.sweep:
        flags.error("--runs or --sweep, not both")
    each = listed(args.runs, rest) if args.runs else [rest]
    if not all(any(w.lstrip("-").startswith("workdir=") for w in words) for words in each):
        flags.error("give main.py a --workdir=FOLDER, after --: it is where the next stay goes on")
    script = render(args, rest)
    if args.dry_run:
        sys.stdout.write(script)
        return 0
    return subprocess.run(["sbatch"], input=script, text=True).returncode


if __name__ == "__main__":
    sys.exit(main())
