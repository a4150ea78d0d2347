"""Starts main.py in several processes on this machine that train one model together.

    python launch/local.py --processes=2 --config=configs/cnn.py --workdir=runs/two

What follows the launcher's own flags goes to main.py as it is. When one process fails the others
are stopped, and its exit status is this program's; with --restarts all are then started again,
and go on from the last checkpoint. Ctrl-C or SIGTERM lets all save and stop, however long that
takes; a second one ends them. For several machines see README.md beside this file.
"""

import argparse
import math
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

MAIN = pathlib.Path(__file__).resolve().parent.parent / "main.py"
GRACE = 10.0  # seconds between telling a process to end and killing it
USAGE = 2  # main.py's status for what no second try mends


def free_port() -> int:
    """Returns a TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def commands(processes: int, port: int, rest: Sequence[str]) -> list[list[str]]:
    """Returns the command of each process."""
    shared = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    if processes == 1:
        return [[sys.executable, str(MAIN), *rest]]
    return [
        [sys.executable, str(MAIN), *rest, *shared, f"--process_id={number}"]
        for number in range(processes)
    ]


def run(processes: int, rest: Sequence[str], restarts: int = 0) -> int:
    """Runs all processes to their end, again after a failure; returns the last one's status."""
    asked: list[int] = []  # the signals that came, in order
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's wish
        signal.signal(signal.SIGHUP, lambda *_: asked.append(signal.SIGTERM))
    for left in range(restarts, -1, -1):
        status = _run_once(processes, rest, asked)
        if status in (0, USAGE) or asked or not left:
            break
        _say(f"starting again, {left - 1} restarts left")
    return status


def _run_once(processes: int, rest: Sequence[str], asked: Sequence[int]) -> int:
    running: list[subprocess.Popen] = []
    try:
        for command in commands(processes, free_port(), rest):
            # A session of its own: Ctrl-C goes to a terminal's whole group, and the signal passed
            # on as well would be the second, which stops without saving.
            running.append(subprocess.Popen(command, start_new_session=True))
        return _wait(running, asked)
    finally:
        for child in running:
            if child.poll() is None:
                child.kill()
                child.wait()


def _wait(running: Sequence[subprocess.Popen], asked: Sequence[int]) -> int:
    """Waits for all, passing on the signals that `asked` grows by. Returns the status to exit with.

    That is the status of the first to fail. Those that still run after a failure or a second
    signal are left to be killed.
    """
    status, passed, deadline = 0, 0, math.inf
    while time.monotonic() < deadline:
        codes = [child.poll() for child in running]
        failed = next((number for number, code in enumerate(codes) if code), None)
        if not status and failed is not None:
            status = codes[failed] or 0
            if not asked and len(running) > 1:
                _say(f"process {failed} {_how(status)}; stopping the others")
        if None not in codes:
            break
        signals = list(asked[passed:])
        passed += len(signals)
        if status and not passed and deadline == math.inf:
            signals = [signal.SIGTERM]  # the others wait for the one that failed
            deadline = time.monotonic() + GRACE
        for number in signals:
            for child in running:
                child.send_signal(number)
        if passed > 1:
            deadline = min(deadline, time.monotonic() + GRACE)
        time.sleep(0.1)
    return status if status >= 0 else 128 - status  # a signal's number, as shells report it


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _say(line: str) -> None:
    sys.stderr.write(f"launch: {line}\n")


def main() -> int:
    """Parses the launcher's flags; the rest is main.py's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("--restarts", type=int, default=0, help="after failures, at most")
    parser.add_argument("--dry_run", action="store_true", help="print the commands")
    args, rest = parser.parse_known_args()
    if args.processes < 1 or args.restarts < 0:
        parser.error("--processes: 1 or more; --restarts: 0 or more")
    if args.processes == 1 and not args.restarts:
        parser.error("--processes: 2 or more, or --restarts; else run main.py itself")
    if not any(word.lstrip("-").startswith("workdir") for word in rest):
        parser.error("--workdir is needed: it is where a restart, or another process, goes on")
    if args.dry_run:
        for command in commands(args.processes, free_port(), rest):
            sys.stdout.write(shlex.join(command) + "\n")
        return 0
    return run(args.processes, rest, args.restarts)


if __name__ == "__main__":
    sys.exit(main())
