"""`imgclass sweep FILE`: the runs of an ablation, or a search for better values."""

import argparse
import json
import pathlib
import shlex
import sys
from typing import Any

from imgclass.errors import UsageError, UserError
from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "sweep", sweep, "run an ablation, or search for better values")
    verb.add_argument("file", metavar="FILE", help="a Python file with get_sweep(); docs/sweep.md")
    verb.add_argument(
        "--root", default="", metavar="FOLDER", help="of the runs (default runs/<name of FILE>)"
    )
    verb.add_argument(
        "--jobs", type=parsing.positive, default=1, help="runs at a time; they share the cores"
    )
    verb.add_argument(
        "--launcher",
        default="local",
        choices=("local", "slurm"),
        help="slurm: submit an ablation's missing runs as a job array and return",
    )
    verb.add_argument(
        "--storage",
        default="",
        metavar="URL",
        help="a search's memory, as Optuna takes it, for many machines (default SQLite in --root)",
    )
    verb.add_argument(
        "--slurm",
        default="",
        metavar="FLAGS",
        help="of launch/slurm.py, such as --slurm='--gpus=1 --time=2:00:00 --dry_run'",
    )


def sweep(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass.sweep import Ablation, declare, pool

    if not pool.MAIN.exists():
        raise UserError(
            f"sweep starts main.py, which is not in {pool.MAIN.parent}; from a checkout: "
            "pip install -e ."
        )
    declared = declare.load(args.file)
    root = pathlib.Path(args.root or f"runs/{pathlib.Path(args.file).stem}")
    if args.slurm and args.launcher != "slurm":
        raise UsageError("--slurm: flags for --launcher=slurm, which is not asked for")
    if isinstance(declared, Ablation):
        if args.storage:
            raise UsageError("--storage: an ablation needs none; it is for a search")
        said = _ablation(declared, root, args)
    else:
        said = _search(declared, root, args)
    if args.json:
        print(json.dumps({"root": str(root)} | said))
    elif said["failed"]:
        print("Failed:")
        for name, reason in said["failed"].items():
            print(f"  {name}: {reason}")
    return 1 if said["failed"] or said.get("problem") else 0


def _make(root: pathlib.Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: cannot be made ({error.strerror}); give --root") from None


def _ablation(declared: Any, root: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
    from imgclass import run
    from imgclass.compare import render
    from imgclass.sweep import ablation, cluster, pool, runs

    each = runs.of_ablation(declared, root)
    runs.check(each)
    _warn(runs.on_test({one.change: one.config for one in each}))
    _make(root)
    missing = [one.name for one in each if one.result is None]
    _say(args, f"{root}: {len(each)} runs, {len(each) - len(missing)} done before")
    if args.launcher == "slurm" and missing:
        submitted = cluster.submit(each, root, args.slurm)
        return {"done": len(each) - len(missing), "submitted": submitted, "failed": {}}
    source = ablation.Missing(each, root, declared.metric, lambda line: _say(args, line))
    pool.run(source, args.jobs)
    made, problem = None, ""
    try:
        made = ablation.finish(declared, each, root)
    except UserError as error:  # the runs are there all the same, and what failed is still said
        problem = f"no table: {'; '.join(str(error).splitlines())}"
        print(problem, file=sys.stderr, flush=True)
    rows: list[dict[str, Any]] = []
    if made is not None:
        rows = [run.finite(render.record(made, row)) for row in made.rows]
        _say(args, "\n" + render.render(made, "markdown"))
        _say(args, f"{root}: table.md, plot.svg")
    done = len(each) - len(source.failed)
    return {
        "done": done,
        "failed": source.failed,
        "metric": declared.metric,
        "changes": rows,
        "notes": list(made.notes) if made else [],
        "problem": problem,
    }


def _search(declared: Any, root: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
    from imgclass.sweep import findings, pool, runs, search
    from imgclass.sweep import study as study_lib

    if args.launcher == "slurm":
        raise UsageError(
            "--launcher=slurm: a search is no job array; start `imgclass sweep FILE "
            "--storage=URL` on each node"
        )
    study_lib.check(declared)
    config = runs.parse(declared.base, study_lib.changes(declared, {}))
    _warn(runs.on_test({"every trial": config}))
    _make(root)
    study = study_lib.begin(declared, root, args.storage)
    before = len(study.get_trials(deepcopy=False))
    _say(args, f"{root}: {declared.trials} trials, {before} begun before")
    source = search.Trials(declared, study, root, not args.storage, lambda line: _say(args, line))
    pool.run(source, args.jobs)
    said = findings.write(declared, study, root)
    if said["best"]:
        best = said["best"]
        value = f"{declared.metric} {best[declared.metric]:.4f}"
        _say(args, f"Best: trial {best['trial']}, validation {value}: {best['values']}")
        _say(args, f"{root}: best.py, trials.md, history.svg, importance.svg")
        _say(args, f"Next:\n  python main.py --config={shlex.quote(best['config'])}")
    return said


def _warn(sentence: str) -> None:
    if sentence:
        print(f"warning: {sentence}", file=sys.stderr, flush=True)


def _say(args: argparse.Namespace, line: str) -> None:
    """Prints a line as things happen; on standard error where standard output is a machine's."""
    print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
