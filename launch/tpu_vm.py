"""Starts main.py on every worker of a Cloud TPU VM, from where gcloud is.

    python launch/tpu_vm.py NAME --zone=us-central2-b -- \\
        --config=configs/imagenet_resnet50.py --workdir=/mnt/shared/runs/r50

What follows `--` goes to main.py, which finds the other workers by the TPU's metadata. The code has
to be at --folder on every worker already, and the run folder on a disk that all share.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence


def render(args: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Returns the gcloud command of parsed flags and main.py's arguments."""
    run = shlex.join([args.python, "main.py", "--distributed", *rest])
    # Status 69, 70 and 75 are a lost process, a stalled one and a preempted run: it can go on.
    again = (
        f"for try in $(seq 0 {args.restarts}); do {run}; status=$?; "
        'case $status in 69|70|75) sleep 10 ;; *) break ;; esac; done; exit "$status"'
    )
    inner = f"cd {shlex.quote(args.folder)} && {{ {again if args.restarts else run}; }}"
    command = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", args.name, "--worker=all"]
    command += [f"--zone={args.zone}"] if args.zone else []
    command += [f"--project={args.project}"] if args.project else []
    return [*command, f"--command=bash -c {shlex.quote(inner)}"]


def parser() -> argparse.ArgumentParser:
    """Returns the launcher's flags."""
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("name", help="of the TPU VM")
    made.add_argument("--zone", default="", help="gcloud's default if not given")
    made.add_argument("--project", default="", help="likewise")
    made.add_argument("--folder", default="imgclass", help="of main.py, on the workers")
    made.add_argument("--python", default="python3")
    made.add_argument("--restarts", type=int, default=0, help="on the same VM, at most")
    made.add_argument("--dry_run", action="store_true", help="print the command, start nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Starts, or prints, the run."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    flags, rest = parser(), words[split + 1 :]
    args = flags.parse_args(words[:split])
    if not any(word.lstrip("-").startswith("workdir=") for word in rest):
        flags.error("give main.py a --workdir=FOLDER, after --, on a disk that all workers share")
    command = render(args, rest)
    if args.dry_run:
        sys.stdout.write(shlex.join(command) + "\n")
        return 0
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
