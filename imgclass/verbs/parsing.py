"""The arguments that several verbs share."""

import argparse
from collections.abc import Callable
from typing import Any

from imgclass.schema.running import VIEWS

# What `argparse.ArgumentParser.add_subparsers` returns; its type has no public name.
Verbs = Any


def verb(
    verbs: Verbs, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    """Adds a verb with --json and --debug, and returns its parser.

    Args:
      verbs: the parser's verbs.
      name: what is typed.
      function: does it, and returns the exit status.
      summary: for the help; lower case, no full stop.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        allow_abbrev=False,  # --config.loss.label=1 is a mistake, as for main.py
    )
    parser.set_defaults(verb=function)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for machines")
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    return parser


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds RUN and --checkpoint."""
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/cnn-1")
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|latest|STEP",
        help="which weights (default best: on validation)",
    )


def split_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --split."""
    parser.add_argument(
        "--split",
        default="validation",
        choices=("train", "validation", "test"),
        help="default validation, so that a look at test is always asked for, and recorded",
    )


def tta_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --tta; its values may be typed with - for _."""
    parser.add_argument(
        "--tta",
        default="none",
        type=lambda text: text.replace("-", "_"),
        choices=VIEWS,
        help="average the logits over views of each picture: it and its mirror image, those and "
        "both moved by a pixel two ways, or 7/8 of it five ways, or ten (default none)",
    )


def positive(text: str) -> int:
    """Reads a whole number above 0; argparse makes a refusal of the error."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
