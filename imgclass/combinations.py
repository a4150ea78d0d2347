"""Values that are fine alone and, together, impossible or without effect.

What a value may be by itself is in `schema`. A key that belongs to another choice (a filter
count beside a ResNet) is refused only where it is given on the command line: an experiment's file
may set it, and the choice be changed for one run.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import config_dict

from imgclass.schema import SCHEMA, UNITS
from imgclass.schema.rules import factor_of


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
    ("model.pool", _among("max", "avg"), "model.pool_window model.pool_stride"),
    (
        "augment.random_resized_crop",
        bool,
        "augment.crop_scale augment.crop_ratio augment.crop_on",
    ),
    ("augment.pad_crop", bool, "augment.pad_mode"),
    ("augment.flip_alternate", lambda on: not on, "augment.flip"),
    ("eval.final_test", bool, "eval.tta"),
    ("augment.cutout", bool, "augment.cutout_inside"),
    (
        "augment.policy",
        lambda name: name != "none",
        "augment.policy_interpolation augment.policy_fill",
    ),
    (
        "augment.policy",
        _among("rand", "rand_increasing"),
        "augment.policy_ops augment.policy_magnitude",
    ),
    ("augment.policy", _among("rand_increasing"), "augment.policy_std"),
    ("augment.policy", _among("augmix"), "augment.augmix_severity"),
    ("augment.erase", bool, "augment.erase_scale augment.erase_ratio augment.erase_with"),
    ("augment.mixup_alpha", bool, "augment.mix_switch"),
    ("augment.cutmix_alpha", bool, "augment.mix_switch"),
    ("data.channels", _among(3), "augment.saturation augment.hue"),
    ("loss.name", _among("bce"), "loss.bce_threshold loss.bce_sum"),
    ("loss.name", _among("focal"), "loss.focal_gamma"),
    ("loss.class_weights", _among("effective"), "loss.effective_beta"),
    ("loss.teacher", bool, "loss.distill_weight loss.distill_temperature loss.distill_feature"),
    ("loss.distill_feature", bool, "loss.distill_feature_weight"),
    ("optim.schedule", _among("cosine", "linear"), "optim.end_factor"),
    ("optim.schedule", _among("step"), "optim.step_at optim.step_factor"),
    ("optim.name", _among("sgd", "lars", "rmsprop", "muon"), "optim.momentum"),
    (
        "optim.name",
        _among("muon"),
        "optim.sgd_momentum optim.muon_params optim.muon_steps optim.muon_dtype "
        "optim.muon_normalize",
    ),
    (
        "optim.schedule",
        _among("constant", "step", "cosine", "linear"),
        "optim.warmup_factor",
    ),
    ("optim.lookahead_steps", bool, "optim.lookahead_decay optim.lookahead_power"),
    ("optim.name", _among("adam", "adamw", "lamb", "lion"), "optim.beta1 optim.beta2"),
    ("optim.name", _among("adam", "adamw", "lamb", "rmsprop"), "optim.eps"),
    ("optim.name", _among("rmsprop"), "optim.rmsprop_decay optim.rmsprop_tf"),
    ("optim.name", _among("lars"), "optim.lars_coefficient"),
    ("optim.ema_decay", bool, "optim.ema_warmup optim.ema_start"),
]


def problems(
    c: config_dict.ConfigDict,
    overrides: Collection[str] = (),
    models: Mapping[str, Collection[str]] | None = None,
) -> list[str]:
    """Returns one line for each combination that cannot be, or that ignores an override.

    Args:
      c: a resolved config, each value fine alone.
      overrides: keys given on the command line.
      models: the keys of config.model that each model reads, by its name.
    """
    return _impossible(c, overrides) + _unused(c, overrides, (models or {}).get(c.model.name))


def _unused(
    c: config_dict.ConfigDict, overrides: Collection[str], read: Collection[str] | None
) -> list[str]:
    found: dict[str, str] = {}
    for path in overrides:
        section, _, name = path.partition(".")
        if section == "model" and read is not None and name not in read:
            value = _value(c, path)
            if value != _default(path):
                found[path] = f"{path}={value!r} is unused with model.name={c.model.name!r}"
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
    nesterov_given = "optim.nesterov" in overrides or c.optim.name in ("sgd", "rmsprop", "muon")
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
            and (c.optim.name not in ("sgd", "muon") or c.optim.momentum == 0),
            "optim.nesterov needs optim.name='sgd' or 'muon', and a momentum",
        ),
        (
            c.optim.warmup_factor > 0
            and "optim.warmup_factor" in overrides
            and not any(c.optim[f"warmup_{unit}"] for unit in UNITS),
            f"optim.warmup_factor={c.optim.warmup_factor} is unused without optim.warmup_*",
        ),
        (
            c.optim.ema_decay > 0 and c.optim.swa_start < 1,
            "optim.ema_decay and optim.swa_start exclude each other: set ema_decay=0 or "
            "swa_start=1",
        ),
        (
            c.optim.average_every > 1
            and "optim.average_every" in overrides
            and c.optim.ema_decay == 0
            and c.optim.swa_start == 1,
            f"optim.average_every={c.optim.average_every} is unused without optim.ema_decay or "
            "optim.swa_start",
        ),
        (
            c.optim.schedule_free
            and (c.optim.name not in ("sgd", "adamw") or c.optim.schedule != "constant"),
            "optim.schedule_free needs optim.name='sgd' or 'adamw', and optim.schedule='constant'",
        ),
        (
            c.optim.schedule_free
            and (c.optim.ema_decay > 0 or c.optim.swa_start < 1 or c.optim.lookahead_steps > 0),
            "optim.schedule_free averages by itself: no ema_decay, swa_start or lookahead_steps",
        ),
        (
            c.optim.schedule_free and c.optim.nesterov,
            "optim.schedule_free has no nesterov form",
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
            c.augment.random_resized_crop
            and c.augment.crop_on == "host"
            and c.data.feed == "resident",
            "augment.crop_on='host' needs the stream feed: data.feed='stream'",
        ),
        (
            c.data.workers > 0 and c.data.feed == "resident",
            "data.workers needs the stream feed: data.feed='stream'",
        ),
        (
            c.augment.random_resized_crop
            and c.augment.crop_on == "host"
            and not c.data.cache
            and "data.load_size" in overrides,
            "data.load_size is unused: augment.crop_on='host' crops the originals (or data.cache)",
        ),
        *(
            (
                c.augment[k][0] > c.augment[k][1],
                f"augment.{k}={c.augment[k]} is not (low, high)",
            )
            for k in ("crop_scale", "crop_ratio", "erase_scale", "erase_ratio")
        ),
        (
            c.augment.policy == "rand_increasing" and c.augment.policy_magnitude > 10,
            f"augment.policy_magnitude={c.augment.policy_magnitude} is of 10 with "
            "augment.policy='rand_increasing'",
        ),
        (
            any(key.startswith("augment.mix_until_") for key in overrides)
            and not (c.augment.mixup_alpha or c.augment.cutmix_alpha),
            "augment.mix_until is unused without augment.mixup_alpha or augment.cutmix_alpha",
        ),
        (
            "augment.mix_probability" in overrides
            and c.augment.mix_probability != 1
            and not (c.augment.mixup_alpha or c.augment.cutmix_alpha),
            f"augment.mix_probability={c.augment.mix_probability} is unused without "
            "augment.mixup_alpha or augment.cutmix_alpha",
        ),
        (
            list(c.augment.size_at) != sorted(set(c.augment.size_at))
            or len(c.augment.size_at) != max(len(c.augment.sizes) - 1, 0),
            f"augment.size_at={c.augment.size_at} has to rise, with one value for each of "
            f"augment.sizes={c.augment.sizes} after the first",
        ),
        (
            c.augment.pad_crop >= min(padded),
            f"augment.pad_crop={c.augment.pad_crop} is no less than a side of "
            f"{tuple(padded)} pictures",
        ),
        (
            c.augment.cutout >= min(*c.data.image_size, *c.augment.sizes),
            f"augment.cutout={c.augment.cutout} is no less than a side of the pictures trained on, "
            f"{tuple(c.data.image_size)}"
            + (f" and augment.sizes={tuple(c.augment.sizes)}" if c.augment.sizes else ""),
        ),
        (
            c.data.sampling != "uniform"
            and (c.loss.logit_adjust > 0 or c.loss.class_weights != "none"),
            f"data.sampling={c.data.sampling!r} evens the classes out already: use it, or "
            "loss.logit_adjust or loss.class_weights",
        ),
        (
            c.loss.logit_adjust > 0 and c.loss.name != "cross_entropy",
            f"loss.logit_adjust is for loss.name='cross_entropy', not {c.loss.name!r}",
        ),
        (
            c.loss.consistency > 0 and (c.augment.mixup_alpha > 0 or c.augment.cutmix_alpha > 0),
            "loss.consistency compares views of one picture, which mixup and cutmix do not leave",
        ),
        (
            c.loss.consistency > 0 and not _changes_pixels(c.augment),
            "loss.consistency has nothing to compare: set augment.policy='augmix', or another way "
            "of changing pixels",
        ),
        (
            bool(c.loss.teacher) and c.loss.distill_weight == 0 and not c.loss.distill_feature,
            "loss.teacher teaches nothing with loss.distill_weight=0 and no loss.distill_feature",
        ),
        (
            c.data.feed == "stream" and c.train.steps_per_dispatch > 1,
            "train.steps_per_dispatch above 1 needs the resident feed",
        ),
        *((_bad_regex(c[s][k]), f"{s}.{k}={c[s][k]!r}: not a regular expression")
          for s, k in (("data", "group_by"), ("optim", "no_decay"), ("optim", "freeze"),
                       ("optim", "muon_params"))),
        *((bool(words), f"optim.lr_factors: {words}")
          for words in map(_bad_factor, c.optim.lr_factors)),
    ]  # fmt: skip
    return [words for wrong, words in checks if wrong]


def _bad_factor(text: str) -> str:
    """Returns what is wrong with an 'optim.lr_factors', or ''."""
    try:
        factor_of(text)
    except ValueError as error:
        return str(error)
    return ""


def _changes_pixels(augment: config_dict.ConfigDict) -> bool:
    """Returns whether views of a picture differ; its crop and its side they share."""
    amounts = ("brightness", "contrast", "saturation", "hue", "cutout", "erase")
    return augment.policy != "none" or any(augment[name] > 0 for name in amounts)


def _bad_regex(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return True
    return False
