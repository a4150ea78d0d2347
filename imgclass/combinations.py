"""Values that are fine alone and, together, impossible or without effect.

What a value may be by itself is in `schema.py`. A key that belongs to another choice (a filter
count beside a ResNet) is refused only where it is given on the command line: an experiment's file
may set it, and the choice be changed for one run.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

from ml_collections import config_dict

from imgclass.schema import SCHEMA


def _among(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


# (key, what it has to be, the keys of its section, or of all, that are unused otherwise). A key is
# used where all of its rows agree.
USED_WITH: list[tuple[str, Callable[[Any], bool], str]] = [
    ("data.validation_split", _among("auto"), "data.validation_fraction"),
    ("data.test_split", _among("auto"), "data.test_fraction"),
    ("data.resize", _among("crop"), "data.crop_fraction"),
    ("data.resize", _among("pad"), "data.pad_value"),
    ("data.standardize", _among("given"), "data.mean data.std"),
    ("data.feed", _among("auto", "resident"), "data.resident_mb"),
    (
        "model.name",
        # Only against the residual networks: a model added later may share the cnn's keys.
        lambda name: not name.startswith("resnet"),
        "model.filters model.depth model.kernel_size model.stride model.padding model.pool "
        "model.pool_window model.pool_stride model.activation model.batch_norm model.dropout "
        "model.hidden model.head",
    ),
    ("model.name", lambda name: name != "cnn", "model.stem model.zero_init_residual"),
    ("model.pool", _among("max", "avg"), "model.pool_window model.pool_stride"),
    ("augment.random_resized_crop", bool, "augment.crop_scale augment.crop_ratio"),
    ("augment.pad_crop", bool, "augment.pad_mode"),
    ("data.channels", _among(3), "augment.saturation augment.hue"),
    ("optim.schedule", _among("cosine", "linear"), "optim.end_factor"),
    ("optim.schedule", _among("step"), "optim.step_at optim.step_factor"),
    ("optim.name", _among("sgd", "rmsprop"), "optim.momentum"),
    ("optim.name", _among("adam", "adamw", "lamb"), "optim.beta1 optim.beta2"),
    ("optim.name", _among("adam", "adamw", "lamb", "rmsprop"), "optim.eps"),
    ("optim.name", _among("rmsprop"), "optim.rmsprop_decay"),
]


def problems(c: config_dict.ConfigDict, overrides: Collection[str] = ()) -> list[str]:
    """Returns one line for each combination that cannot be, or that ignores an override.

    Args:
      c: a resolved config, each value fine alone.
      overrides: keys given on the command line.
    """
    return _impossible(c, overrides) + _unused(c, overrides)


def _unused(c: config_dict.ConfigDict, overrides: Collection[str]) -> list[str]:
    found: dict[str, str] = {}
    for choice, fits, keys in USED_WITH:
        chosen = _value(c, choice)
        for path in keys.split():
            value = _value(c, path)
            if path in overrides and value != _default(path) and not fits(chosen):
                found.setdefault(path, f"{path}={value!r} is unused with {choice}={chosen!r}")
    for path in ("model.batch_norm_momentum", "model.batch_norm_epsilon", "model.batch_norm_group"):
        plain = c.model.name == "cnn" and not c.model.batch_norm
        if plain and path in overrides and _value(c, path) != _default(path):
            found[path] = f"{path}={_value(c, path)!r} is unused with model.batch_norm=False"
    return list(found.values())


def _value(c: config_dict.ConfigDict, path: str) -> Any:
    section, name = path.split(".")
    value = c[section][name]
    return tuple(value) if isinstance(value, list) else value


def _default(path: str) -> Any:
    section, name = path.split(".")
    entries: Any = SCHEMA[section]
    return entries[name].default


def _impossible(c: config_dict.ConfigDict, overrides: Collection[str]) -> list[str]:
    padded = c.data.load_size or c.data.image_size
    # Adam has no use for it, so a file's may stay when the optimizer is changed for one run.
    nesterov_given = "optim.nesterov" in overrides or c.optim.name in ("sgd", "rmsprop")
    checks = [
        (
            c.data.standardize == "given" and not (c.data.mean and c.data.std),
            "data.standardize='given' needs data.mean and data.std",
        ),
        *(
            (
                c.data.standardize == "given" and len(c.data[k]) not in (0, 1, c.data.channels),
                f"data.{k} has {len(c.data[k])} values for data.channels={c.data.channels}",
            )
            for k in ("mean", "std")
        ),
        (
            bool(c.data.load_size)
            and any(a < b for a, b in zip(c.data.load_size, c.data.image_size, strict=True)),
            f"data.load_size={c.data.load_size} is smaller than "
            f"data.image_size={c.data.image_size}",
        ),
        (
            c.train.batch_size % c.optim.accumulate != 0,
            f"train.batch_size={c.train.batch_size} cannot be cut into "
            f"optim.accumulate={c.optim.accumulate} equal parts",
        ),
        (
            c.model.batch_norm_group > 0
            and (c.train.batch_size // c.optim.accumulate) % c.model.batch_norm_group != 0,
            f"model.batch_norm_group={c.model.batch_norm_group} does not divide the "
            f"{c.train.batch_size // c.optim.accumulate} rows of a (micro-)batch",
        ),
        (
            c.optim.nesterov
            and nesterov_given
            and (c.optim.name != "sgd" or c.optim.momentum == 0),
            "optim.nesterov needs optim.name='sgd' and a momentum",
        ),
        (
            c.optim.eps_hat
            and "optim.eps_hat" in overrides
            and c.optim.name not in ("adam", "adamw"),
            f"optim.eps_hat is for adam and adamw, not {c.optim.name}",
        ),
        (
            c.augment.random_resized_crop and c.augment.pad_crop > 0,
            "augment.random_resized_crop and augment.pad_crop exclude each other",
        ),
        (
            c.augment.crop_scale[0] > c.augment.crop_scale[1],
            f"augment.crop_scale={c.augment.crop_scale} is not (low, high)",
        ),
        (
            c.augment.crop_ratio[0] > c.augment.crop_ratio[1],
            f"augment.crop_ratio={c.augment.crop_ratio} is not (low, high)",
        ),
        (
            c.augment.pad_crop >= min(padded),
            f"augment.pad_crop={c.augment.pad_crop} is no less than a side of "
            f"{tuple(padded)} pictures",
        ),
        (
            c.augment.cutout >= min(c.data.image_size),
            f"augment.cutout={c.augment.cutout} is no less than a side of "
            f"{tuple(c.data.image_size)} pictures",
        ),
        (
            c.data.feed == "stream" and c.train.steps_per_dispatch > 1,
            "train.steps_per_dispatch above 1 needs the resident feed",
        ),
        *((_bad_regex(c[s][k]), f"{s}.{k}={c[s][k]!r}: not a regular expression")
          for s, k in (("data", "group_by"), ("optim", "no_decay"))),
    ]  # fmt: skip
    return [words for wrong, words in checks if wrong]


def _bad_regex(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return True
    return False
