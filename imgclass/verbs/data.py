"""`imgclass data CONFIG-OR-PATH`: what is in a data set, and what is wrong with it."""

import argparse
import json

from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "data", data, "look at data before training on it")
    verb.add_argument("data", metavar="CONFIG-OR-PATH", help="a config file, a path or a tfds name")
    verb.add_argument(
        "--sheet",
        metavar="FILE.png",
        default="contact_sheet.png",
        help="where to draw training pictures (default contact_sheet.png); '' is nowhere",
    )


def data(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import arguments, config
    from imgclass.data import findings, inspect, preprocess, sheet, source

    if args.data.partition(":")[0].endswith(".py"):
        chosen = arguments.load_experiment(args.data)
    else:
        chosen = config.defaults()
        chosen.data.name = args.data
    chosen = config.resolve(chosen)
    config.check(chosen)
    opened = source.open_source(chosen.data)
    survey = inspect.survey(opened, chosen.data)
    judged = findings.judge(survey, chosen)
    if not args.json:
        print(sheet.report(survey, judged), flush=True)
    if args.sheet:
        bad = [file.index for file in survey.splits["train"].bad_files]
        picture = sheet.contact_sheet(opened, preprocess.from_config(chosen.data), bad)
        sheet.save(picture, args.sheet)
    if args.json:
        print(json.dumps(sheet.to_json(survey, judged, args.sheet or None)))
    elif args.sheet:
        print(f"\n{args.sheet}: training pictures as the model sees them")
    return 0
