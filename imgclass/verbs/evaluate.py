"""`imgclass evaluate RUN`: the figures of a run on one of its splits, and how they hold up."""

import argparse
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from imgclass import files
from imgclass.errors import UsageError, UserError
from imgclass.verbs import parsing

EXAMPLES = 1000
EPSILONS = (2 / 255, 8 / 255)


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "evaluate", evaluate, "score a run on one of its splits")
    parsing.run_arguments(verb)
    parsing.split_argument(verb)
    parsing.tta_argument(verb)
    verb.add_argument(
        "--robustness",
        action="store_true",
        help="also on pictures spoiled in 19 ways, each at 5 severities, and under attack; writes "
        "RUN/robustness.json",
    )
    verb.add_argument(
        "--against",
        metavar="DATA",
        help="also on another data set that has the same classes, a folder or a name; writes "
        "RUN/robustness.json",
    )
    verb.add_argument(
        "--examples",
        type=parsing.positive,
        metavar="N",
        help="spoil and attack so many pictures, always the same ones "
        f"(default {EXAMPLES}), and take as many of --against (default all)",
    )
    verb.add_argument(
        "--corruptions",
        metavar="NAME,...",
        type=lambda text: tuple(text.replace("-", "_").split(",")),
        help="which of the 19, 'none' for none (default all)",
    )
    verb.add_argument(
        "--epsilons",
        metavar="E,...",
        type=_epsilons,
        default=EPSILONS,
        help="bounds of the attacks, of pixels in [0, 1], such as 2/255; 'none' for no attacks "
        "(default 2/255,8/255)",
    )


def evaluate(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import run
    from imgclass.evaluate import figures, measures, outcomes, restore, shift

    names = _corruptions(args)
    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    data = outcomes.open_data(found)
    # What could refuse does so before the split is scored: a look at test must not be for nothing.
    second = shift.second_source(found, args.against) if args.against else None
    path = found.folder / "robustness.json"
    if args.robustness or args.against:
        _check_writable(path)
    said = outcomes.of_split(found, data, args.split, args.tta)
    about = {"run": args.run, "step": found.step, "split": args.split, "tta": args.tta}
    result: dict[str, Any] = {**about, **figures.of(said)}
    known = measures.figures(said).items()
    intervals = {name: [figure["low"], figure["high"]] for name, figure in known}
    result["intervals"] = intervals
    if len(found.task.class_names) == 2:
        result["positive"] = found.task.class_names[1]
    if not args.json:
        views = "" if args.tta == "none" else f" ({args.tta})"
        count = f"{result['examples']:,} pictures"
        print(f"{args.run}, step {found.step}, {args.split}{views}, {count}")
        for name, value in result.items():
            if name not in {*about, "examples", "intervals", "positive"}:
                between = f"  {_between(intervals[name])}" if name in intervals else ""
                print(f"  {name:18s} {value:.4f}{between}")
        if "positive" in result:
            print(f"  the positive class is {result['positive']}, the second of the two")
    extra = _robustness(args, found, data.splits[args.split], said.right, names, second)
    if extra:
        stored = _stored(path)  # only now: another command may have written meanwhile
        with files.writing(path):
            run.write_json(path, stored | extra)
    if args.json:
        print(json.dumps(run.finite(result | extra)))
    elif extra:
        for line in _lines(extra):
            print(line)
        print(f"written to {path}")
    return 0


def _robustness(
    args: argparse.Namespace,
    found: Any,
    split: Any,
    right: Any,
    names: tuple[str, ...],
    second: Any,
) -> dict[str, Any]:
    """Returns the sections of robustness.json that were asked for.

    Args:
      args: of the command.
      found: the run, a `restore.Restored`.
      split: the split that was scored.
      right: bool[n], whether the run is right on it.
      names: corruptions.
      second: source, a `shift.Second`, or None.
    """
    import time

    from imgclass.evaluate import robustness, shift

    examples = robustness.chosen(len(split), args.examples or EXAMPLES)
    about = {"step": found.step, "split": args.split, "examples": len(examples)}
    sections: dict[str, Any] = {}

    def timed(pictures: int, start: float) -> dict[str, float]:
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "images_per_second": pictures / seconds}

    if second is not None:
        figures = shift.compared(found, right, second, args.examples, args.tta)
        first = {"examples": len(right), **robustness.with_interval("accuracy", right)}
        sections["shift"] = about | {"tta": args.tta} | first | {"second": figures}
    if args.robustness and names:
        start = time.perf_counter()
        spoiled = robustness.corrupted(found, split, examples, names)
        took = timed(5 * len(names) * len(examples), start)
        size = found.task.prepare.image_size
        imagenet = found.data["name"].startswith("imagenet2012")
        figures = robustness.corruption_figures(spoiled, right[examples], size, imagenet)
        sections["corruptions"] = about | took | figures
    if args.robustness and args.epsilons:
        start = time.perf_counter()
        attacks = robustness.attacked(found, split, examples, args.epsilons)
        took = timed(2 * len(args.epsilons) * len(examples), start)
        clean = robustness.with_interval("accuracy", right[examples])
        sections["attacks"] = about | took | clean | {"by_attack": attacks}
    return sections


def _stored(path: pathlib.Path) -> dict[str, Any]:
    """Returns what robustness.json holds, {} if it is not there; UserError if it is damaged."""
    from imgclass import run

    stored = run.load_json(path) or {}
    if not isinstance(stored, dict):
        raise UserError(f"{path} is not what evaluate writes; move it away")
    return stored


def _check_writable(path: pathlib.Path) -> None:
    """Raises UserError if robustness.json is damaged, or its folder cannot be written."""
    import tempfile

    _stored(path)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); evaluate a copy of the run folder"
        ) from None


def _corruptions(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the corruptions to try. Raises UsageError where the options do not fit together."""
    if args.robustness and args.tta != "none":
        raise UsageError("--robustness is of single views: drop --tta, or ask for one at a time")
    if not args.robustness:
        asked = {"--corruptions": args.corruptions, "--epsilons": args.epsilons is not EPSILONS}
        idle = [name for name, given in asked.items() if given]
        if args.examples and not args.against:
            idle.append("--examples")
        if idle:
            raise UsageError(f"{', '.join(idle)}: of no use here without --robustness")
        return ()
    from imgclass.evaluate.corruptions import CORRUPTIONS

    if args.corruptions is None:
        return tuple(CORRUPTIONS)
    if args.corruptions == ("none",):
        return ()
    for name in args.corruptions:
        if name not in CORRUPTIONS:
            known = ", ".join(CORRUPTIONS)
            raise UsageError(f"--corruptions: no {name!r}; there are {known}")
    return tuple(name for name in CORRUPTIONS if name in args.corruptions)


def _epsilons(text: str) -> tuple[float, ...]:
    """Reads '2/255,0.03'; argparse makes a refusal of the error."""
    if text == "none":
        return ()
    found = []
    for part in text.split(","):
        above, _, below = part.partition("/")
        try:
            value = float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not 0 < value <= 1:
            raise argparse.ArgumentTypeError(f"{part!r} is not a number above 0, 1 at most")
        found.append(value)
    return tuple(found)


def _between(interval: list[float]) -> str:
    return f"(95%: {interval[0]:.4f} to {interval[1]:.4f})"


def _lines(sections: Mapping[str, Any]) -> Iterator[str]:
    """Yields the sections as tables."""
    if spoiled := sections.get("corruptions"):
        yield (
            f"corruptions, {spoiled['examples']:,} pictures, constants '{spoiled['constants']}', "
            f"{spoiled['images_per_second']:,.0f} images/s"
        )
        yield f"  {'accuracy at severity':20s}      1      2      3      4      5   error"
        for name, row in spoiled["by_corruption"].items():
            shares = " ".join(f"{share:6.3f}" for share in row["accuracy"])
            also = "  (extra)" if row["extra"] else ""
            yield f"  {name:20s} {shares}  {row['error']:6.3f}{also}"
        if "mean_error" in spoiled:
            main = sum(not row["extra"] for row in spoiled["by_corruption"].values())
            of = "" if main == 15 else f" of {main}"  # the fifteen of the benchmark
            mean, interval = spoiled["mean_error"], _between(spoiled["mean_error_interval"])
            yield f"  mean error{of} {mean:.4f} {interval}"
            yield f"  above the error as they are by {spoiled['relative_error']:.4f}"
        if "mce" in spoiled:
            yield f"  mCE {spoiled['mce']:.1%}, relative mCE {spoiled['relative_mce']:.1%}"
    if attacks := sections.get("attacks"):
        yield f"attacks, {attacks['examples']:,} pictures"
        yield f"  none                      : {attacks['accuracy']:.4f}"
        for row in attacks["by_attack"]:
            steps = f", {row['steps']} steps" if "steps" in row else ""
            what = f"{row['attack']} of {row['epsilon'] * 255:.3g}/255{steps}"
            yield f"  {what:26s}: {row['accuracy']:.4f}  {_between(row['accuracy_interval'])}"
    if shift := sections.get("shift"):
        second = shift["second"]
        yield f"{second['against']}, {second['examples']:,} pictures"
        for name, form in (("accuracy", ".4f"), ("difference", "+.4f")):
            yield f"  {name:18s} {second[name]:{form}}  {_between(second[f'{name}_interval'])}"
        if second["missing_classes"]:
            yield f"  without {', '.join(second['missing_classes'])}, which it does not have"
