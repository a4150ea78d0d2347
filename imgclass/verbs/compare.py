"""`imgclass compare RUN...`: a table of runs, and which differences are more than chance."""

import argparse
import json
import logging
import pathlib
import sys

from imgclass import files
from imgclass.errors import UsageError
from imgclass.verbs import parsing

# What `compare.render` can write, and how such files' names end.
FORMATS = {"markdown": ".md", "csv": ".csv", "latex": ".tex", "html": ".html"}


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "compare", compare, "compare runs, with intervals over their seeds")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="run folders, such as runs/*")
    verb.add_argument(
        "--by",
        default="",
        metavar="KEY[,KEY]",
        help="group runs by these keys of the config (default: all that differ but the seed)",
    )
    verb.add_argument(
        "--split",
        default="validation",
        choices=("validation", "test"),
        help="default validation, so that a look at test is always asked for, and recorded",
    )
    verb.add_argument("--metric", default="accuracy", help="a name in result.json")
    verb.add_argument(
        "--baseline",
        metavar="RUN",
        help="a run of the group that others are compared with (default: the first RUN)",
    )
    verb.add_argument(
        "--format", choices=FORMATS, help="default: as --output's name ends, or markdown"
    )
    verb.add_argument("--output", metavar="FILE", help="write the table there")
    verb.add_argument("--plot", metavar="FILE.png|svg", help="draw means, intervals and seeds")


def compare(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    form = args.format or _format_of(args.output)
    from imgclass import run
    from imgclass.compare import plot, render, table

    if args.plot:
        files.check_figure(pathlib.Path(args.plot))
    logging.getLogger("imgclass.compare").setLevel(logging.INFO)
    by = tuple(key for key in args.by.split(",") if key)
    made = table.make(args.runs, by, args.split, args.metric, args.baseline)
    text = render.render(made, form)
    if args.output:
        with files.writing(args.output):
            pathlib.Path(args.output).write_text(text)
    if args.plot:
        plot.draw(made, pathlib.Path(args.plot))
    if args.json:
        about = {"metric": made.metric, "split": made.split, "examples": made.examples}
        rows = [render.record(made, row) for row in made.rows]
        print(json.dumps(run.finite({**about, "groups": rows, "notes": list(made.notes)})))
        return 0
    if form == "csv" or args.output:
        for note in made.notes:
            sys.stderr.write(f"{note}\n")
    if args.output:
        print(f"{args.output}: {len(made.rows)} groups")
    else:
        sys.stdout.write(text)
    return 0


def _format_of(output: str | None) -> str:
    if not output:
        return "markdown"
    suffix = pathlib.Path(output).suffix
    for name, usual in FORMATS.items():
        if suffix == usual:
            return name
    raise UsageError(f"--output={output}: ends in none of {', '.join(FORMATS.values())}; "
                     "give --format")  # fmt: skip
