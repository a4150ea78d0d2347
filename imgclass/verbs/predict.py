"""`imgclass predict RUN PATH...`: the likeliest classes of new pictures."""

import argparse
import contextlib
import csv
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from imgclass.errors import UserError
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


def predict(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass.evaluate import predict as prediction
    from imgclass.evaluate import restore

    paths = prediction.find_pictures(args.paths)
    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    names = found.task.class_names
    failed = 0
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        write = None
        if args.output:
            write = stack.enter_context(_csv_file(args.output, names, args.top))
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
                if not (args.json or args.output):
                    words = [f"{entry['label']} {entry['probability']:.1%}" for entry in best]
                    print(f"{p.path}: {', '.join(words)}")
            if args.json:
                rows.append(row)
    if args.json:
        print(json.dumps({"run": args.run, "step": found.step, "predictions": rows}))
    elif args.output:
        print(f"{args.output}: {len(paths) - failed} pictures")
    return 1 if failed else 0


@contextlib.contextmanager
def _csv_file(path: str, class_names: Sequence[str], top: int) -> Iterator[Callable[[Any], None]]:
    """Opens a table for predictions, a row each, as they come.

    Columns: path, label, probability, label_2, probability_2, ... to `top`, error. The rows go to
    a file beside `path`, which takes its name when the block ends, and is removed if it fails.
    Bytes of a path that are not UTF-8 are written as they are.

    Yields:
      A function that writes the row of one `predict.Prediction`.

    Raises:
      UserError: the file cannot be written.
    """
    top = min(top, len(class_names))
    columns = ["path", "label", "probability"]
    for place in range(2, top + 1):
        columns += [f"label_{place}", f"probability_{place}"]
    target = os.path.realpath(path)
    own = os.path.isfile(target) or not os.path.exists(target)
    partial = f"{target}.{os.getpid()}.partial" if own else target  # a pipe has to be itself
    with _named(path):
        file = open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    writer = csv.writer(file)

    def write(prediction: Any) -> None:
        row = [prediction.path]
        if prediction.probabilities is None:
            row += [""] * (len(columns) - 1)
        else:
            for label in prediction.top(top):
                row += [class_names[label], f"{prediction.probabilities[label]:.6f}"]
        with _named(path):
            writer.writerow([*row, prediction.error])

    try:
        with _named(path):
            writer.writerow([*columns, "error"])
        yield write
        with _named(path):
            file.close()
            if own:
                os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        if own:
            pathlib.Path(partial).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
