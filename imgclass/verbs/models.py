"""`imgclass models [PATTERN]`: the architectures there are, and how large they are."""

import argparse
import fnmatch
import json
from typing import Any

from imgclass.errors import UsageError
from imgclass.verbs import parsing


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "models", models, "list the architectures, and how large they are")
    verb.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="part of a name, or a pattern such as 'resnet*'",
    )
    verb.add_argument(
        "--classes", type=parsing.positive, default=1000, help="of the last layer (default 1000)"
    )


def models(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import models as registry
    from imgclass.config import nearest

    names = registry.names()
    pattern = args.pattern if set(args.pattern) & set("*?[") else f"*{args.pattern}*"
    chosen = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not chosen:
        raise UsageError(
            f"no model matches {args.pattern!r}{nearest(args.pattern, names)}; "
            "`imgclass models` lists them all"
        )
    rows: list[dict[str, Any]] = []
    width = max(map(len, chosen))
    if not args.json:
        print(f"{'name':{width}}  {'parameters':>11}  {'GMACs':>7}  {'side':>4}  weights of")
    for name in chosen:
        row = _row(name, args.classes)
        rows.append(row)
        if not args.json:
            print(
                f"{name:{width}}  {row['parameters']:11,}  {row['multiply_adds'] / 1e9:7.3f}  "
                f"{row['image_size']:4}  {', '.join(row['sources']) or '-'}",
                flush=True,
            )
    if args.json:
        print(json.dumps({"classes": args.classes, "models": rows}))
    return 0


def _row(name: str, classes: int) -> dict[str, Any]:
    import jax

    from imgclass import config
    from imgclass import models as registry
    from imgclass.models import weights

    section = config.defaults().model
    section.name = name
    side = registry.input_size(name)
    model = registry.create(section, classes, (side, side, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return {
        "name": name,
        "parameters": registry.count_parameters(shapes["params"]),
        "multiply_adds": registry.multiply_adds(model),
        "image_size": side,
        "sources": [one for one in weights.libraries(name) if one != "imgclass"],
    }
