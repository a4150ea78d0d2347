"""`imgclass explain RUN PICTURE...`: which pixels of a picture speak for its class."""

import argparse
import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from imgclass import files
from imgclass.config import nearest
from imgclass.errors import UsageError
from imgclass.verbs import parsing

if TYPE_CHECKING:
    from imgclass.evaluate.restore import Restored

# `explain.maps.METHODS`, which would take a second to import.
METHODS = ("gradcam", "integrated-gradients", "occlusion")

LONGEST = 200  # bytes of a picture's name that are kept: a file's has 255 at most


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "explain", explain, "show which pixels speak for a picture's class")
    parsing.run_arguments(verb)
    verb.add_argument("paths", nargs="+", metavar="PICTURE", help="a picture, or a folder of them")
    verb.add_argument("--method", default="gradcam", choices=METHODS, help="default gradcam")
    verb.add_argument(
        "--label", metavar="CLASS", help="explain this class (default: the one predicted)"
    )
    verb.add_argument(
        "--output",
        metavar="DIR",
        help="write NAME-METHOD.png there (default RUN/explanations)",
    )
    verb.add_argument(
        "--check",
        action="store_true",
        help="also compare each map with those of the same net with random weights",
    )


def explain(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import run
    from imgclass.data import decode
    from imgclass.evaluate import predict as prediction
    from imgclass.evaluate import restore

    paths = prediction.find_pictures(args.paths)
    found = restore.restore(pathlib.Path(args.run), args.checkpoint)
    names = found.task.class_names
    if args.label is not None and args.label not in names:
        raise UsageError(
            f"--label={args.label!r}: {args.run} has no such class"
            f"{nearest(args.label, names) or ' (data.json lists its classes)'}"
        )
    output = pathlib.Path(args.output or os.path.join(args.run, "explanations"))
    explained = _explainer(found, args)
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    for path in paths:
        row: dict[str, Any] = {"path": path}
        rows.append(row)
        try:
            new, png = explained(prediction.content(path))
        except decode.BadImage as error:
            row["error"] = str(error)
        except OSError as error:
            row["error"] = error.strerror or str(error)
        if "error" in row:
            sys.stderr.write(f"{path}: {row['error']}\n")
            continue
        file = output / f"{_name(path, taken)}-{args.method}.png"
        _write(file, png)
        row |= new | {"file": str(file)}
        if not args.json:
            print(_line(row))
    failed = sum("error" in row for row in rows)
    checks = [row["check"] for row in rows if row.get("check") is not None]
    about = {"run": args.run, "step": found.step, "method": args.method, "pictures": rows}
    if args.check:
        about["check"] = sum(checks) / len(checks) if checks else None
    if args.json:
        print(json.dumps(run.finite(about)))
    elif checks:
        print(
            f"rank correlation with maps of random weights: {about['check']:.2f} "
            f"(mean of {len(checks)}; near 0 is good)"
        )
    return 1 if failed else 0


def _explainer(found: "Restored", args: argparse.Namespace) -> Any:
    """Returns a function of a file's bytes that gives a picture's figures and its PNG."""
    import jax
    import jax.numpy as jnp

    from imgclass.data import decode, preprocess
    from imgclass.explain import faithful, maps, overlay

    prepare, model, names = found.task.prepare, found.task.model, found.task.class_names
    # One picture at a time: one device is enough, and all of the weights have to be on it.
    variables = jax.device_put(jax.device_get(found.variables), jax.local_devices()[0])
    apply = jax.jit(model.apply)

    def explained(content: bytes) -> tuple[dict[str, Any], bytes]:
        picture = decode.decode(content, prepare.channels, prepare.max_pixels)
        image = prepare.standardize(preprocess.to_unit(jnp.asarray(prepare.load(picture))))
        chances = jax.device_get(jax.nn.softmax(apply(variables, image[None])[0]))[0]
        best = int(chances.argmax())
        chosen = names.index(args.label) if args.label is not None else best
        label = jnp.int32(chosen)
        (evidence,) = maps.evidence(
            args.method, model, variables, image[None], label[None], prepare
        )
        deletion = faithful.deletion(
            model, variables, image, label, evidence, maps.neutral(prepare)
        )
        row: dict[str, Any] = {
            "label": names[best],
            "probability": float(chances[best]),
            "explained": names[chosen],
            "explained_probability": float(chances[chosen]),
            "deletion": {
                "auc": deletion.auc,
                "random_auc": deletion.random_auc,
                "removed": deletion.removed.tolist(),
                "probability": deletion.probability.tolist(),
                "random": deletion.random.tolist(),
            },
        }
        if args.check:
            row["check"] = faithful.random_correlation(
                args.method, model, image, label, prepare, evidence
            )
        title = f"{names[chosen]} {chances[chosen]:.1%}, {args.method}"
        (shown,) = maps.shown(evidence[None])
        return row, overlay.figure(picture, shown, prepare, deletion, title)

    return explained


def _name(path: str, taken: set[str]) -> str:
    """Returns a name that is not taken, and takes it: a/1.png is '1', b/1.png then '1-2'."""
    stem = pathlib.Path(path).stem
    if len(os.fsencode(stem)) > LONGEST:
        stem = os.fsencode(stem)[:LONGEST].decode(errors="ignore")
    name, again = stem, 1
    while name in taken:
        again += 1
        name = f"{stem}-{again}"
    taken.add(name)
    return name


def _line(row: dict[str, Any]) -> str:
    about = f"{row['path']}: {row['label']} {row['probability']:.1%}"
    if row["explained"] != row["label"]:
        about += f", explained {row['explained']} {row['explained_probability']:.1%}"
    deletion = row["deletion"]
    about += f"; deletion {deletion['auc']:.3f}, random {deletion['random_auc']:.3f}"
    if row.get("check") is not None:
        about += f"; check {row['check']:.2f}"
    return f"{about}; {row['file']}"


def _write(file: pathlib.Path, content: bytes) -> None:
    with files.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
