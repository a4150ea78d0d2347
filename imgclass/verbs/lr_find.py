"""`imgclass lr-find CONFIG`: a learning rate to begin with, from one short run."""

import argparse
import json
import pathlib
from typing import Any

from imgclass import files, schema
from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "lr-find", lr_find, "find a learning rate for an experiment")
    verb.add_argument("config", metavar="CONFIG", help="an experiment file, FILE.py[:ARGUMENT]")
    verb.add_argument("--low", type=float, default=1e-7, help="first rate (default 1e-7)")
    verb.add_argument("--high", type=float, default=10.0, help="last rate (default 10)")
    verb.add_argument("--steps", type=parsing.positive, default=100, help="default 100")
    verb.add_argument(
        "--plot",
        metavar="FILE.png|FILE.svg",
        default="lr_find.png",
        help="where to draw the curve (default lr_find.png); '' is nowhere",
    )
    group = verb.add_argument_group("keys", "--config.KEY=VALUE, as for main.py; docs/config.md")
    for key in schema.paths():
        group.add_argument(f"--config.{key}", help=argparse.SUPPRESS)


def lr_find(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from absl import flags
    from ml_collections import config_flags

    from imgclass import arguments, lr_range

    given = {key: text for key, text in vars(args).items() if "." in key and text is not None}
    words = ["lr-find", f"--config={args.config}", *(f"--{k}={v}" for k, v in given.items())]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    config, _ = arguments.parse(words, values)
    if args.plot:
        files.check_figure(pathlib.Path(args.plot))
    curve = lr_range.range_test(config, args.low, args.high, args.steps)
    found = lr_range.suggestions(curve)
    if args.json:
        columns = {name: getattr(curve, name).tolist() for name in ("rates", "losses", "smoothed")}
        print(json.dumps(found | columns | {"plot": args.plot or None}))
    else:
        _show(args, curve, found)
    if args.plot:  # last: it may be that it cannot be written
        lr_range.draw(curve, found, args.plot)
    return 0


def _show(args: argparse.Namespace, curve: Any, found: dict[str, float]) -> None:
    print(f"{args.config}: {len(curve.rates)} of {args.steps} steps, from a rate of {args.low:g}")
    print(f"  --config.optim.lr={found['valley']:.2g}  middle of the longest fall of the loss")
    print(f"  {found['steepest']:.2g} where it falls fastest")
    print(f"  {found['minimum_tenth']:.2g} a tenth of where it is least")
    if args.plot:
        print(f"{args.plot}: the loss over the rate")
