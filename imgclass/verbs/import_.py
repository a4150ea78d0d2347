"""`imgclass import WEIGHTS`: a run folder made of weights from elsewhere."""

import argparse
import json
import pathlib

from imgclass import schema
from imgclass.errors import UsageError
from imgclass.verbs import parsing

# The sections of keys that matter to a model that is used and not trained.
_SECTIONS = ("data.", "model.")


def add(verbs: parsing.Verbs) -> None:
    """Adds the verb."""
    verb = parsing.verb(verbs, "import", import_, "make a run folder of weights from elsewhere")
    verb.add_argument(
        "weights",
        metavar="WEIGHTS",
        help="a .safetensors, .pth or .weights.h5 file, or a name such as timm/resnet50.a1_in1k",
    )
    verb.add_argument("--model", required=True, metavar="NAME", help="one of `imgclass models`")
    verb.add_argument(
        "--classes",
        metavar="imagenet|FILE",
        help="class names in order: ImageNet's, or a text file's, a name a line; not needed with "
        "--config.data.name, a data set to evaluate on",
    )
    verb.add_argument("--output", required=True, metavar="RUN", help="the run folder to make")
    group = verb.add_argument_group(
        "keys", "--config.data.KEY=VALUE and --config.model.KEY=VALUE; docs/config.md"
    )
    for path in schema.paths():
        if path.startswith(_SECTIONS):
            group.add_argument(f"--config.{path}", help=argparse.SUPPRESS)


def import_(args: argparse.Namespace) -> int:
    """Does it; returns the exit status."""
    from imgclass import arguments, imported, models
    from imgclass import config as config_lib
    from imgclass.data import class_names

    config, kinds = config_lib.defaults(), config_lib.kinds()
    config.model.update(name=args.model, pretrained=args.weights)
    config.data.name = imported.NO_DATA
    words = {name.removeprefix("config."): text for name, text in vars(args).items() if "." in name}
    given = {path: text for path, text in words.items() if text is not None}
    problems = []
    for path, text in given.items():
        section, _, name = path.partition(".")
        try:
            config[section][name] = arguments.parse_value(text, kinds[path])
        except (ValueError, TypeError) as error:
            problems.append(f"{path}={text}: {error}")
    if problems:
        raise config_lib.ConfigError(problems)
    config_lib.check(config_lib.resolve(config), models=models.used_keys())
    has_data = config.data.name != imported.NO_DATA
    if has_data == bool(args.classes):
        raise UsageError(
            "give --classes=imagenet or --classes=FILE, or else --config.data.name=DATA, whose "
            "classes it is then about"
        )
    names = None if has_data else class_names.read(args.classes)
    found = imported.make_run(pathlib.Path(args.output), config, names, frozenset(given))
    if args.json:
        print(json.dumps({"run": args.output} | found))
        return 0
    side, how = found["preprocess"]["image_size"], found["preprocess"]
    print(f"{args.output}: {args.model}, {found['parameters']:,} parameters by the names of "
          f"{found['library']}, {found['classes']} classes")  # fmt: skip
    print(
        f"  pictures: {side[0]}x{side[1]}, {how['resize']} {how['crop_fraction']:g}, "
        f"{how['interpolation']}, mean {_short(how['mean'])}, std {_short(how['std'])}"
    )
    print(f"Next:\n  imgclass predict {args.output} PICTURE-OR-FOLDER...")
    if has_data:
        print(f"  imgclass evaluate {args.output} --split=test")
    return 0


def _short(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values) or "none"
