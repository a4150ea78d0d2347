"""Every experiment in configs/, with every argument it knows. Not a test."""

import importlib
import pathlib

import ml_collections

from imgclass import config as config_lib

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
_REGNETS = ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
# A folder's name stands in where an experiment wants one; nothing is opened.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "chest_xray": ("FOLDER",),
    "cifar10_cnn": ("",),
    "cifar10_resnet18": ("cosine", "steps", "short"),
    "cifar10_speedrun": ("94", "95", "96"),
    "cnn": ("", "cifar10"),
    "imagenet_convnext": ("tiny", "small", "base", "large"),
    "imagenet_efficientnet": ("b0", "v2_s", "v2_m"),
    "imagenet_mobilenet_v3": ("large", "small"),
    "imagenet_regnet": tuple(f"{kind}_{size}" for kind in "xy" for size in _REGNETS),
    "imagenet_resnet50": (
        "v1", "lr", "trivial", "long", "erase", "smooth", "mixup", "cutmix", "decay", "fixres",
        "ema", "resize", "v2",
    ),
    "imagenet_rsb": ("a1", "a2", "a3"),
    "longtail_cifar10": ("", "10"),
    "traffic_signs": ("FOLDER",),
}  # fmt: skip
EXPERIMENTS = [
    f"{name}:{argument}".rstrip(":")
    for name, arguments in ARGUMENTS.items()
    for argument in arguments
]


def experiment(name: str) -> ml_collections.ConfigDict:
    """Returns the resolved and checked config of 'FILE' or 'FILE:ARGUMENT'."""
    file, _, argument = name.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(argument or None)
    config = config_lib.resolve(config)
    config_lib.check(config)
    return config
