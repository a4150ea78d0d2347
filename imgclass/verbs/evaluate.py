"""`imgclass evaluate RUN`: the figures of a run on one of its splits."""

import argparse
import json
import pathlib

from imgclass.errors import UsageError
from imgclass.schema.running import VIEWS
from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "evaluate", evaluate, "score a run on one of its splits")
    parsing.run_arguments(verb)
    verb.add_argument(
        "--split",
        default="validation",
        choices=("train", "validation", "test"),
        help="default validation, so that a look at test is always asked for",
    )
    verb.add_argument(
        "--tta",
        default="none",
        choices=VIEWS,
        help="average the logits over views of each picture: it and its mirror image, or those and "
        "both moved by a pixel two ways (default none)",
    )


def evaluate(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import feeds, run
    from imgclass.data import dataset
    from imgclass.evaluate import restore, score

    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    if found.data["kind"] == "none":
        raise UsageError(
            f"{args.run}: imported without data; import it with --config.data.name=DATA"
        )
    data = dataset.open_dataset(found.task.config, found.data)
    feed = feeds.eval_feed(found.task, data, args.split)
    if feed is None:
        have = ", ".join(role for role, split in data.splits.items() if len(split))
        raise UsageError(f"{args.run}: its data has no {args.split} split; it has {have}")
    classes = len(found.task.class_names)
    figures = score.score(found.task.jitted_eval_step(args.tta), found.variables, feed, classes)
    if args.json:
        about = {"run": args.run, "step": found.step, "split": args.split, "tta": args.tta}
        print(json.dumps(run.finite(about | figures)))
    else:
        views = "" if args.tta == "none" else f" ({args.tta})"
        print(
            f"{args.run}, step {found.step}, {args.split}{views}, {figures['examples']:,} pictures"
        )
        for name, value in figures.items():
            if name != "examples":
                print(f"  {name:18s} {value:.4f}")
    return 0
