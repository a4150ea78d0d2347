"""`imgclass VERB ...`: what can be done with a run, or with data before one.

Exit status: 0 done, 1 failed, 2 wrong usage. With --json the last line of standard output is one
JSON object. What a verb takes and does is in `verbs/`; errors end here, in a line each.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from imgclass import __version__, process
from imgclass.errors import UserError, first_line, is_out_of_memory
from imgclass.verbs import (
    compare,
    data,
    ensemble,
    evaluate,
    explain,
    export,
    import_,
    lr_find,
    models,
    predict,
    report,
    sweep,
    watch,
)

# In the order of the help.
VERBS = (
    evaluate,
    ensemble,
    report,
    predict,
    explain,
    watch,
    compare,
    sweep,
    data,
    lr_find,
    models,
    import_,
    export,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    process.tune()
    try:
        status = args.verb(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        if args.debug:
            raise
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except (MemoryError, RuntimeError, ValueError) as error:  # JAX's is one of the last two
        if args.debug or not is_out_of_memory(error):
            raise
        why = first_line(error)
        sys.stderr.write(f"out of memory: {why}. End other programs, or take a larger machine\n")
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        _drop_output()
        return 1
    except OSError as error:
        if args.debug:
            raise
        if error.filename is not None:
            sys.stderr.write(f"{error.filename}: {error.strerror}\n")
            return 1
        _drop_output()
        sys.stderr.write(f"standard output cannot be written ({error.strerror or error})\n")
        return 1


def _drop_output() -> None:
    """Keeps the interpreter from failing once more on what is left to print, as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> None:
    """The `imgclass` command."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imgclass",
        description="Look at data, choose a model, use what `python main.py` has trained.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"imgclass {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser
