"""`imgclass watch RUN`: a run in a terminal while it trains, on this machine or a shared disk."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from imgclass.verbs import parsing

if TYPE_CHECKING:
    from imgclass.watch.look import View, Watch

REFRESH = 1.0  # seconds
PATIENCE = 10.0  # seconds that a run may be stopped for, as between a kill and its restart
_OVER = ("finished", "imported")
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # a screen of its own, no cursor
_HOME, _REST, _TO_END = "\x1b[H", "\x1b[J", "\x1b[K"


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "watch", watch, "look at a run while it trains")
    verb.add_argument("run", metavar="RUN", help="a run folder, such as runs/cnn-1")
    verb.add_argument(
        "--once", action="store_true", help="print how it stands now, and do not wait for its end"
    )


def watch(args: argparse.Namespace) -> int:
    """Does it; returns the exit status: 1 if the run stopped before its end."""
    from imgclass.watch import frame, look

    watched = look.Watch(pathlib.Path(args.run))
    terminal = sys.stdout.isatty()
    color = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if args.once:
        view = watched.look()
    elif terminal and not args.json and os.environ.get("TERM") != "dumb":
        view = _on_screen(watched, color)
    else:
        view = _in_lines(watched, quiet=args.json)
    if args.json:
        print(json.dumps(view.to_json()))
    else:
        size = shutil.get_terminal_size()
        print(frame.frame(view, size.columns, size.lines - 1, color))
    return 0 if args.once or view.state in _OVER else 1


def _on_screen(watched: "Watch", color: bool) -> "View":
    """Redraws until the run is over; returns the last view."""
    from imgclass.watch import frame

    def leave(number: int, where: FrameType | None) -> None:
        del where
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)  # else the screen would stay as it is
    sys.stdout.write(_ENTER)
    try:
        for view in _views(watched):
            size = shutil.get_terminal_size()
            drawn = frame.frame(view, size.columns, size.lines, color)
            shown = f"{_TO_END}\r\n".join(drawn.split("\n")[: size.lines])
            sys.stdout.write(f"{_HOME}{shown}{_TO_END}{_REST}")
            sys.stdout.flush()
        return view
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, before)


def _in_lines(watched: "Watch", quiet: bool) -> "View":
    """Prints a line for each change until the run is over; returns the last view."""
    from imgclass.watch import frame

    said = None
    for view in _views(watched):
        now = (view.state, view.step, len(view.records))
        if now != said and not quiet:
            print(frame.summary(view), flush=True)
        said = now
    return view


def _views(watched: "Watch") -> Iterator["View"]:
    """Yields the run again and again until it is over."""
    stopped_since: float | None = None
    while True:
        view = watched.look()
        yield view
        if view.state in _OVER:
            return
        if view.state != "stopped":
            stopped_since = None
        elif stopped_since is None:
            stopped_since = time.monotonic()
        elif time.monotonic() - stopped_since >= PATIENCE:
            return
        time.sleep(REFRESH)
