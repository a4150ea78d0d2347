"""`imgclass ensemble RUN RUN ...`: several runs, or checkpoints, scored as one model."""

import argparse
import json
import pathlib
from typing import Any

from imgclass.errors import UsageError
from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(
        verbs, "ensemble", ensemble, "score the average of several runs' predictions"
    )
    verb.add_argument(
        "runs",
        nargs="+",
        metavar="RUN[@CHECKPOINT]",
        help="two or more run folders of the same data, each with best, latest or a step "
        "(runs/cnn-1@406; default best: on validation)",
    )
    parsing.split_argument(verb)
    parsing.tta_argument(verb)
    verb.add_argument(
        "--soup",
        action="store_true",
        help="also score one model that has the mean of the members' weights",
    )


def ensemble(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import run
    from imgclass.evaluate import ensemble as ensembles
    from imgclass.evaluate import outcomes, restore

    if len(args.runs) < 2:
        raise UsageError(f"{args.runs[0]}: one run is no ensemble; give two or more")
    members = [restore.restore(*_split_name(name)) for name in args.runs]
    ensembles.check_same_data(members)
    soup = ensembles.soup(members) if args.soup else None  # refused before anything is scored
    data = outcomes.open_data(members[0])
    said = [outcomes.of_split(m, data, args.split, args.tta, "ensemble") for m in members]
    together = ensembles.average(said)
    entries = [
        {"name": name, "run": str(member.folder), "step": member.step} | _measured(part)
        for name, member, part in zip(args.runs, members, said, strict=True)
    ]
    for entry, part in zip(entries, said, strict=True):
        entry["gain"] = _gain(together, part)
    result: dict[str, Any] = {
        "split": args.split,
        "tta": args.tta,
        "examples": len(together),
        "members": entries,
        "ensemble": _measured(together),
    }
    if soup:
        result["soup"] = _measured(outcomes.of_split(soup, data, args.split, args.tta, "ensemble"))
    if args.json:
        print(json.dumps(run.finite(result)))
    else:
        _show(result)
    return 0


def _split_name(name: str) -> tuple[pathlib.Path, str]:
    """Returns folder and checkpoint of RUN@CHECKPOINT; a folder may have an @ in its own name."""
    folder, at, which = name.rpartition("@")
    if not at or pathlib.Path(name).is_dir():
        return pathlib.Path(name), "best"
    return pathlib.Path(folder), which


def _measured(outcomes: Any) -> dict[str, Any]:
    from imgclass.evaluate import measures

    calibration = measures.calibration(outcomes.probabilities, outcomes.labels)
    return {
        "figures": measures.figures(outcomes),
        **{key: calibration[key] for key in ("nll", "brier", "ece")},
    }


def _gain(together: Any, member: Any) -> dict[str, float]:
    """Returns the accuracy an ensemble has more than a member, and its paired 95% interval."""
    import numpy as np

    from imgclass.evaluate import bootstrap

    more = together.right.astype(np.float64) - member.right
    low, high = bootstrap.of_mean(more)
    return {"value": float(more.mean()), "low": low, "high": high}


def _show(result: dict[str, Any]) -> None:
    views = "" if result["tta"] == "none" else f" ({result['tta']})"
    members = result["members"]
    print(f"{len(members)} models, {result['split']}{views}, {result['examples']:,} pictures")
    lines = [(entry["name"], entry) for entry in members]
    lines += [(name, result[name]) for name in ("ensemble", "soup") if name in result]
    width = max(len(name) for name, _ in lines)
    for name, entry in lines:
        figures = [
            f"{key} {figure['value']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
            for key, figure in entry["figures"].items()
            if key in ("accuracy", "auroc")
        ]
        print(f"  {name:{width}}  {', '.join(figures)}, nll {entry['nll']:.4f}, "
              f"ece {entry['ece']:.4f}")  # fmt: skip
    print("accuracy of the ensemble, less that of")
    for entry in members:
        gain = entry["gain"]
        print(f"  {entry['name']:{width}}  {gain['value']:+.4f} "
              f"[{gain['low']:+.4f}, {gain['high']:+.4f}]")  # fmt: skip
    print("In brackets 95% intervals, by bootstrap over the pictures.")
