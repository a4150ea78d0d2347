"""`imgclass VERB ...`: what can be done with a run, or with data before one.

Exit status: 0 done, 1 failed, 2 wrong usage. With --json the last line of standard output is one
JSON object. Heavy imports wait inside the verbs, so that --help answers at once.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from imgclass import __version__, process
from imgclass.errors import UsageError, UserError


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
    except BrokenPipeError:  # `| head` has seen enough
        _drop_output()
        return 1
    except OSError as error:  # every other file is spoken of where it is used
        if args.debug:
            raise
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
        description="Use what `python main.py --config=FILE` has trained.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"imgclass {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    evaluate = _verb(verbs, "evaluate", _evaluate, "score a run on one of its splits")
    _run_arguments(evaluate)
    evaluate.add_argument(
        "--split",
        default="validation",
        choices=("train", "validation", "test"),
        help="default validation, so that a look at test is always asked for",
    )

    predict = _verb(verbs, "predict", _predict, "classify new pictures")
    _run_arguments(predict)
    predict.add_argument("paths", nargs="+", metavar="PATH", help="a picture, or a folder of them")
    predict.add_argument("--output", metavar="FILE.csv", help="write a row a picture there")
    predict.add_argument("--top", type=_positive, default=5, help="likeliest classes (default 5)")

    data = _verb(verbs, "data", _data, "look at data before training on it")
    data.add_argument("data", metavar="CONFIG-OR-PATH", help="a config file, a path or a tfds name")
    data.add_argument(
        "--sheet",
        metavar="FILE.png",
        default="contact_sheet.png",
        help="where to draw training pictures (default contact_sheet.png); '' is nowhere",
    )
    return parser


def _verb(verbs: Any, name: str, function: Any, summary: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    verb.set_defaults(verb=function)
    verb.add_argument("--json", action="store_true", help="print one JSON object, for machines")
    verb.add_argument("--debug", action="store_true", help="show the traceback of every error")
    return verb


def _run_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run", metavar="RUN", help="a run folder, such as runs/cnn-1")
    verb.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|latest|STEP",
        help="which weights (default best: on validation)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _evaluate(args: argparse.Namespace) -> int:
    from imgclass import build, run
    from imgclass.data import dataset
    from imgclass.evaluate import restore, score

    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    data = dataset.open_dataset(found.task.config, found.data)
    feed = build.eval_feed(found.task, data, args.split)
    if feed is None:
        have = ", ".join(role for role, split in data.splits.items() if len(split))
        raise UsageError(f"{args.run}: its data has no {args.split} split; it has {have}")
    classes = len(found.task.class_names)
    figures = score.score(found.task.jitted_eval_step(), found.variables, feed, classes)
    if args.json:
        about = {"run": args.run, "step": found.step, "split": args.split}
        print(json.dumps(run.finite(about | figures)))
    else:
        print(f"{args.run}, step {found.step}, {args.split}, {figures['examples']:,} pictures")
        for name, value in figures.items():
            if name != "examples":
                print(f"  {name:12s} {value:.4f}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    from imgclass.evaluate import predict, restore

    paths = predict.find_pictures(args.paths)
    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    names = found.task.class_names
    failed = 0
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        write = None
        if args.output:
            write = stack.enter_context(_csv_file(args.output, names, args.top))
        for p in predict.predict(found, paths):
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


def _data(args: argparse.Namespace) -> int:
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
