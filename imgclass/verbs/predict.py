"""`imgclass predict RUN PATH...`: the likeliest classes of new pictures."""

import argparse
import contextlib
import csv
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from imgclass import files
from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "predict", predict, "classify new pictures")
    parsing.run_arguments(verb)
    verb.add_argument("paths", nargs="+", metavar="PATH", help="a picture, or a folder of them")
    verb.add_argument("--output", metavar="FILE.csv", help="write a row a picture there")
    verb.add_argument(
        "--top", type=parsing.positive, default=5, help="likeliest classes (default 5)"
    )
    verb.add_argument(
        "--abstain-below",
        type=_probability,
        metavar="P",
        help="give no label to a picture whose likeliest class has a probability below P; "
        "`imgclass report` shows which P has which error",
    )


def _probability(text: str) -> float:
    """Reads a number above 0 and at most 1; argparse makes a refusal of the error."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value


def predict(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import run
    from imgclass.evaluate import predict as prediction
    from imgclass.evaluate import restore

    paths = prediction.find_pictures(args.paths)
    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    names = found.task.class_names
    below = args.abstain_below
    failed = abstained = 0
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        write = None
        if args.output:
            write = stack.enter_context(_csv_file(args.output, names, args.top, below))
        for p in prediction.predict(found, paths):
            if write:
                write(p)
            row: dict[str, Any] = {"path": p.path}
            if p.probabilities is None:
                failed += 1
                sys.stderr.write(f"{p.path}: {p.error}\n")
                row["error"] = p.error
            else:
                best = [
                    {"label": names[i], "probability": float(p.probabilities[i])}
                    for i in p.top(args.top)
                ]
                row |= {**best[0], "top": best}
                unsure = p.is_below(below)
                abstained += unsure
                if below is not None:
                    row["abstained"] = unsure
                if unsure:
                    row["label"] = None
                if not (args.json or args.output):
                    words = [f"{entry['label']} {entry['probability']:.1%}" for entry in best]
                    likely = ", ".join(words)
                    print(f"{p.path}: {f'abstained ({likely})' if unsure else likely}")
            if args.json:
                rows.append(row)
    if args.json:
        about = {"run": args.run, "step": found.step}
        if below is not None:
            about |= {"abstain_below": below, "abstained": abstained}
        print(json.dumps(run.finite(about | {"predictions": rows})))
    elif args.output:
        unlabelled = "" if below is None else f", {abstained} without a label"
        print(f"{args.output}: {len(paths) - failed} pictures{unlabelled}")
    return 1 if failed else 0


@contextlib.contextmanager
def _csv_file(
    path: str, class_names: Sequence[str], top: int, below: float | None
) -> Iterator[Callable[[Any], None]]:
    """Opens a table for predictions, a row each, as they come.

    Columns: path, label, probability, label_2, probability_2, ... to `top`, error. With `below`
    also abstained, before the error: the likeliest class where it is not sure enough to be the
    label, which then is empty. The rows go to a file beside `path`, which takes its name when the
    block ends, and is removed if it fails. Bytes of a path that are not UTF-8 are written as they
    are.

    Yields:
      A function that writes the row of one `predict.Prediction`.

    Raises:
      UserError: the file cannot be written.
    """
    top = min(top, len(class_names))
    columns = ["path", "label", "probability"]
    for place in range(2, top + 1):
        columns += [f"label_{place}", f"probability_{place}"]
    columns += ["abstained"] if below is not None else []
    target = os.path.realpath(path)
    own = os.path.isfile(target) or not os.path.exists(target)
    partial = f"{target}.{os.getpid()}.partial" if own else target  # a pipe has to be itself
    with files.writing(path):
        file = open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    writer = csv.writer(file)

    def write(prediction: Any) -> None:
        row = [prediction.path]
        if prediction.probabilities is None:
            row += [""] * (len(columns) - 1)
        else:
            for label in prediction.top(top):
                row += [class_names[label], f"{prediction.probabilities[label]:.6f}"]
            if below is not None:
                row.append("")
            if prediction.is_below(below):
                row[1], row[-1] = "", row[1]
        with files.writing(path):
            writer.writerow([*row, prediction.error])

    try:
        with files.writing(path):
            writer.writerow([*columns, "error"])
        yield write
        with files.writing(path):
            file.close()
            if own:
                os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        if own:
            pathlib.Path(partial).unlink(missing_ok=True)
        raise
