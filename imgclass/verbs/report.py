"""`imgclass report RUN`: one page, and one JSON file, on how good a run is and why."""

import argparse
import json
import pathlib

from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(
        verbs, "report", report, "write a run's report: RUN/report.html and RUN/report.json"
    )
    parsing.run_arguments(verb)
    verb.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="default validation, so that a look at test is always asked for, and recorded",
    )


def report(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import report as report_lib
    from imgclass.evaluate import outcomes, restore

    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    data = outcomes.open_data(found)
    split = args.split or report_lib.default_split(data)
    scored = {
        role: outcomes.of_split(found, data, role, verb="report")
        for role in report_lib.needed(data, split)
    }
    content = report_lib.write(found, data, scored, split)
    if args.json:
        print(json.dumps(content))
        return 0
    accuracy = content["measures"]["figures"]["accuracy"]
    print(
        f"{args.run}, step {found.step}, {split}, {content['examples']:,} pictures: accuracy "
        f"{accuracy['value']:.4f} (95%: {accuracy['low']:.4f} to {accuracy['high']:.4f})"
    )
    print(f"{found.folder / 'report.html'}: open it in a browser; report.json has the figures")
    return 0
