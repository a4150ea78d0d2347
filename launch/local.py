"""Starts main.py in several processes on this machine that train one model together.

    python launch/local.py --processes=2 --config=configs/cnn.py --workdir=runs/two

What follows --processes goes to main.py as it is. When one process fails the others are stopped,
and its exit status is this program's. Ctrl-C or SIGTERM lets all save and stop, however long that
takes; a second one ends them. For several machines start main.py on each, see README.md.
"""

import argparse
import math
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

MAIN = pathlib.Path(__file__).resolve().parent.parent / "main.py"
GRACE = 10.0  # seconds between telling a process to end and killing it


def free_port() -> int:
    """Returns a TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def commands(processes: int, port: int, rest: Sequence[str]) -> list[list[str]]:
    """Returns the command of each process."""
    shared = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    return [
        [sys.executable, str(MAIN), *rest, *shared, f"--process_id={number}"]
        for number in range(processes)
    ]


def run(processes: int, rest: Sequence[str]) -> int:
    """Runs all processes to their end; returns the first status that is not 0, or 0."""
    asked: list[int] = []  # the signals that came, in order
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's wish
        signal.signal(signal.SIGHUP, lambda *_: asked.append(signal.SIGTERM))
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

    Those that still run after a failure or a second signal are left to be killed.
    """
    status, passed, deadline = 0, 0, math.inf
    while time.monotonic() < deadline:
        codes = [child.poll() for child in running]
        status = status or next((code for code in codes if code), 0)
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


def main() -> int:
    """Parses --processes; the rest is main.py's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, required=True, help="how many; 2 or more")
    args, rest = parser.parse_known_args()
    if args.processes < 2:
        parser.error("--processes: 2 or more; for one, run main.py itself")
    return run(args.processes, rest)


if __name__ == "__main__":
    sys.exit(main())
