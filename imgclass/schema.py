"""Every config key: its default, what it means, and what it may be. The only list of keys there is.

`config.py` builds, checks and resolves configs from this table; it holds no key of its own. A
duration stands here once (`Duration`) and may be given in any of its units.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

UNITS = ("steps", "examples", "epochs", "percent")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value may be: a test and the words for it."""

    words: str
    test: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key. The default's type is the key's type; an int may stand for a float."""

    default: Any
    meaning: str
    rule: Rule


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training, given in exactly one unit as `<name>_<unit>`.

    Steps are optimizer updates, examples and epochs are of the training split, percent is of the
    whole run. Giving another unit replaces the default one.
    """

    unit: str
    default: float
    meaning: str
    rule: Rule


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def at_least(low: float) -> Rule:
    return Rule(f"a finite number, {low} or more", lambda v: _finite(v) and v >= low)


def above(low: float) -> Rule:
    return Rule(f"a finite number above {low}", lambda v: _finite(v) and v > low)


def within(low: float, high: float, below: bool = False) -> Rule:
    if below:
        return Rule(f"from {low} to below {high}", lambda v: low <= v < high)
    return Rule(f"from {low} to {high}", lambda v: low <= v <= high)


def one_of(*names: str) -> Rule:
    return Rule("one of " + ", ".join(names), lambda v: v in names)


def each(rule: Rule, sizes: tuple[int, ...] = (), shortest: int = 0) -> Rule:
    """A tuple whose members all follow `rule`, of one of `sizes`, or any size from `shortest`."""
    count = " or ".join(map(str, sizes)) or (f"{shortest} or more" if shortest else "any number of")

    def test(value: Any) -> bool:
        fits = len(value) in sizes if sizes else len(value) >= shortest
        return fits and all(_is_number(v) and rule.test(v) for v in value)

    return Rule(f"{count} values, each {rule.words}", test)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


ANY = Rule("anything", lambda v: True)
NOT_EMPTY = Rule("not empty", bool)
COUNT = Rule("a whole number, 1 or more", lambda v: isinstance(v, int) and v >= 1)
PIXELS = each(COUNT, sizes=(2,))

SCHEMA: dict[str, dict[str, Key | Duration] | Key] = {
    "seed": Key(
        0,
        "Seeds the initial weights, the order of the examples, augmentation and dropout.",
        within(0, 2**63 - 1),
    ),
    "data": {
        "name": Key(
            "digits",
            "'digits' (embedded), a tfds name ('cifar10', 'imagenet2012:5.1.0'), or a path: a "
            "folder of split/class/* or class/* pictures, a .csv or .tsv of path,label[,split], "
            "or a .npz of arrays.",
            NOT_EMPTY,
        ),
        "data_dir": Key("", "Where tfds keeps prepared sets; '' is tfds's own default.", ANY),
        "train_split": Key("train", "Training examples, in the tfds slicing language.", NOT_EMPTY),
        "validation_split": Key(
            "auto",
            "Validation examples. 'auto': the set's own validation split, or else a part carved "
            "out of train. '': none.",
            ANY,
        ),
        "test_split": Key(
            "auto",
            "Test examples. 'auto': the set's own test split; carved only from a source that has "
            "no splits at all. '': none.",
            ANY,
        ),
        "validation_fraction": Key(
            0.1, "Part of train carved out for validation, by class.", within(0.0, 0.9)
        ),
        "test_fraction": Key(
            0.1, "Part carved out for test where a source has no splits.", within(0.0, 0.9)
        ),
        "split_seed": Key(
            0,
            "Seeds the carving, apart from `seed`, so that runs over seeds share their splits.",
            within(0, 2**63 - 1),
        ),
        "group_by": Key(
            "",
            "A regular expression on an example's name; examples with the same match (group 1 if "
            "it has one) stay on one side when splits are carved: patients, video tracks.",
            ANY,
        ),
        "image_key": Key("", "The tfds feature that is the picture; '' finds it.", ANY),
        "label_key": Key("", "The tfds feature that is the class; '' finds it.", ANY),
        "image_size": Key((64, 64), "Height and width the model sees, in pixels.", PIXELS),
        "load_size": Key(
            (),
            "Height and width of training pictures before random crops, in pixels; () is "
            "image_size.",
            each(COUNT, sizes=(0, 2)),
        ),
        "channels": Key(3, "3 for colour, 1 for gray.", Rule("1 or 3", lambda v: v in (1, 3))),
        "resize": Key(
            "stretch",
            "How a picture of another shape becomes image_size: 'stretch' to it, 'crop' its "
            "middle, or 'pad' it to keep everything.",
            one_of("stretch", "crop", "pad"),
        ),
        "crop_fraction": Key(
            1.0, "With resize='crop': the part of each side kept by the crop.", within(0.1, 1.0)
        ),
        "interpolation": Key(
            "bilinear",
            "The resampling filter, always antialiased ('nearest' has nothing to filter).",
            one_of("nearest", "bilinear", "bicubic", "lanczos"),
        ),
        "pad_value": Key(0, "With resize='pad': the gray level of the border.", within(0, 255)),
        "standardize": Key(
            "none",
            "After scaling to [0,1]: 'none', 'given' (subtract mean, divide by std), or 'train' "
            "(the same with mean and std computed once from the training split).",
            one_of("none", "given", "train"),
        ),
        "mean": Key((), "Per channel, in [0,1].", each(within(0.0, 1.0), sizes=(0, 1, 3))),
        "std": Key((), "Per channel, in [0,1] units.", each(above(0.0), sizes=(0, 1, 3))),
        "bad_files": Key(
            "error",
            "A picture that cannot be decoded: 'error' stops and names it; 'skip' checks every "
            "file before training and leaves the bad ones out, named and counted.",
            one_of("error", "skip"),
        ),
        "max_pixels": Key(
            89_478_485,
            "A picture whose header claims more pixels is refused before it is decoded.",
            at_least(1),
        ),
        "feed": Key(
            "auto",
            "'resident' keeps the decoded set on the device; 'stream' decodes ahead with bounded "
            "memory; 'auto' is resident up to resident_mb.",
            one_of("auto", "resident", "stream"),
        ),
        "resident_mb": Key(
            1024,
            "Largest decoded training split that 'auto' keeps on the device, and evaluation split "
            "that 'auto' and 'resident' keep decoded in host memory, MiB.",
            at_least(0),
        ),
        "threads": Key(0, "Threads that read and decode; 0 is one per core.", at_least(0)),
        "prefetch": Key(
            0,
            "Batches decoded ahead, by the 'stream' feed and in evaluation, each by one thread; 0 "
            "is as many as threads, at least 4.",
            at_least(0),
        ),
    },
    "model": {
        "name": Key("cnn", "Which architecture: cnn, resnet18, resnet34, resnet50, ...", NOT_EMPTY),
        "dtype": Key(
            "float32",
            "Arithmetic of convolutions and dense layers; parameters stay float32.",
            one_of("float32", "bfloat16"),
        ),
        "batch_norm_momentum": Key(
            0.9, "Share of the old running statistics kept each step.", within(0.0, 1.0, below=True)
        ),
        "batch_norm_epsilon": Key(1e-5, "Added to the variance.", above(0.0)),
        "batch_norm_group": Key(
            0,
            "Rows that share batch statistics; 0 is the whole global batch, "
            "batch_size/devices gives each device its own.",
            at_least(0),
        ),
        "filters": Key((32,), "cnn: filters of each block.", each(COUNT, shortest=1)),
        "depth": Key(1, "cnn: convolutions in a block.", at_least(1)),
        "kernel_size": Key(3, "cnn: side of the kernel, pixels.", at_least(1)),
        "stride": Key(1, "cnn: stride of a block's first convolution, pixels.", at_least(1)),
        "padding": Key("VALID", "cnn: convolution padding.", one_of("VALID", "SAME")),
        "pool": Key("max", "cnn: pooling that ends a block.", one_of("max", "avg", "none")),
        "pool_window": Key(2, "cnn: side of the pooling window, pixels.", at_least(1)),
        "pool_stride": Key(2, "cnn: stride of the pooling window, pixels.", at_least(1)),
        "activation": Key(
            "relu", "cnn: after each convolution.", one_of("relu", "gelu", "silu", "elu", "tanh")
        ),
        "batch_norm": Key(False, "cnn: batch norm after each convolution.", ANY),
        "dropout": Key(0.0, "cnn: rate before the last dense layer.", within(0.0, 1.0, below=True)),
        "hidden": Key((), "cnn: widths of dense layers before the last.", each(COUNT)),
        "head": Key(
            "flatten",
            "cnn: 'flatten' the last feature map, or 'average' it over positions.",
            one_of("flatten", "average"),
        ),
        "stem": Key(
            "imagenet",
            "resnet: 'imagenet' (7x7 stride 2, max-pool) or 'cifar' (3x3 stride 1).",
            one_of("imagenet", "cifar"),
        ),
        "zero_init_residual": Key(
            True, "resnet: start each block's last batch-norm scale at 0.", ANY
        ),
    },
    "loss": {
        "name": Key("cross_entropy", "Softmax cross-entropy, in nats.", one_of("cross_entropy")),
        "label_smoothing": Key(
            0.0, "Share of the target spread evenly over classes.", within(0.0, 1.0, below=True)
        ),
    },
    "augment": {
        "flip": Key(False, "Mirror left-right, half the pictures.", ANY),
        "pad_crop": Key(0, "Pad by this many pixels, then crop at random.", at_least(0)),
        "pad_mode": Key(
            "constant",
            "What pad_crop pads with: 'constant' (black) or 'reflect'.",
            one_of("constant", "reflect"),
        ),
        "random_resized_crop": Key(False, "Crop a random area and shape, then resize.", ANY),
        "crop_scale": Key(
            (0.08, 1.0), "Area of that crop, as a share.", each(within(0.01, 1.0), sizes=(2,))
        ),
        "crop_ratio": Key(
            (0.75, 1.3333), "Width over height of that crop.", each(above(0.0), sizes=(2,))
        ),
        "brightness": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
        "contrast": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
        "saturation": Key(0.0, "Factor drawn from [1-x, 1+x].", within(0.0, 1.0)),
        "hue": Key(0.0, "Shift drawn from [-x, x] of the colour circle.", within(0.0, 0.5)),
        "cutout": Key(0, "Side of a square blanked at random, pixels.", at_least(0)),
        "mixup_alpha": Key(0.0, "Beta(x, x) of mixup; 0 is off.", at_least(0.0)),
        "cutmix_alpha": Key(0.0, "Beta(x, x) of cutmix; 0 is off.", at_least(0.0)),
    },
    "optim": {
        "name": Key("adam", "Optimizer.", one_of("sgd", "adam", "adamw", "lamb", "rmsprop")),
        "lr": Key(1e-3, "Peak learning rate.", above(0.0)),
        "schedule": Key(
            "constant",
            "Learning rate after warm-up.",
            one_of("constant", "step", "cosine", "linear", "one_cycle"),
        ),
        "warmup": Duration("epochs", 0.0, "Linear warm-up from near 0.", at_least(0)),
        "end_factor": Key(0.0, "cosine, linear: last rate / peak.", within(0.0, 1.0)),
        "step_at": Key(
            (0.5, 0.75), "step: where the rate drops, as parts of the run.", each(within(0.0, 1.0))
        ),
        "step_factor": Key(0.1, "step: what each drop multiplies by.", within(0.0, 1.0)),
        "momentum": Key(0.9, "sgd, rmsprop.", within(0.0, 1.0, below=True)),
        "nesterov": Key(False, "sgd: Nesterov's form.", ANY),
        "beta1": Key(0.9, "adam, adamw, lamb.", within(0.0, 1.0, below=True)),
        "beta2": Key(0.999, "adam, adamw, lamb.", within(0.0, 1.0, below=True)),
        "eps": Key(1e-8, "All but sgd: added to the root of the second moment.", above(0.0)),
        "eps_hat": Key(
            False, "adam, adamw: add eps before bias correction, as Keras and TensorFlow do.", ANY
        ),
        "rmsprop_decay": Key(0.9, "rmsprop: memory.", within(0.0, 1.0, below=True)),
        "weight_decay": Key(
            0.0,
            "sgd, adam, rmsprop: L2 added to the gradient. adamw, lamb: decoupled.",
            at_least(0.0),
        ),
        "no_decay": Key(
            r"(^|/)(bias|scale)$",
            "Regular expression on a parameter's path; matches are not decayed. '' decays all.",
            ANY,
        ),
        "clip_norm": Key(0.0, "Largest global gradient norm; 0 is off.", at_least(0.0)),
        "accumulate": Key(
            1, "Micro-batches a step is cut into, to fit memory; gradients averaged.", at_least(1)
        ),
        "ema_decay": Key(
            0.0,
            "Average the weights with this decay and evaluate the average; 0 is off.",
            within(0.0, 1.0, below=True),
        ),
    },
    "train": {
        "batch_size": Key(32, "Examples a step, over all devices and processes.", at_least(1)),
        "total": Duration("epochs", 10.0, "Length of the run.", above(0)),
        "steps_per_dispatch": Key(
            0,
            "Resident feed: steps run by one call; 0 is 1 on CPU (loops over convolutions are "
            "slow there) and 16 on accelerators.",
            at_least(0),
        ),
        "on_nonfinite": Key(
            "stop",
            "A loss or gradient that is not finite: 'stop' the run, or 'skip' the update.",
            one_of("stop", "skip"),
        ),
        "devices": Key(0, "Devices to use; 0 is all.", at_least(0)),
        "fsdp": Key(False, "Shard parameters and optimizer over devices, not only batches.", ANY),
    },
    "eval": {
        "batch_size": Key(256, "Examples a step, over all devices and processes.", at_least(1)),
        "every": Duration("epochs", 1.0, "Between validations; 0 is at the end only.", at_least(0)),
        "best_metric": Key(
            "accuracy",
            "What 'best' means, on validation.",
            one_of("accuracy", "loss", "top5", "auroc"),
        ),
        "final_test": Key(False, "Evaluate the test split once, at the end.", ANY),
    },
    "checkpoint": {
        "every": Duration("epochs", 1.0, "Between saves; 0 is at the end only.", at_least(0)),
        "keep": Key(2, "Newest checkpoints kept, besides the best.", at_least(1)),
    },
    "log": {
        "every": Duration("steps", 50, "Between training records.", above(0)),
        "tensorboard": Key(True, "Write TensorBoard event files.", ANY),
        "progress": Key(True, "A progress bar when on a terminal.", ANY),
    },
}


def markdown() -> str:
    """Returns docs/config.md: a table of every key, a section each."""
    lines = [
        "# Config keys",
        "",
        "Written by `python -m imgclass.schema > docs/config.md`. On the command line every key is",
        "`--config.<key>=<value>`. A key that ends in `_*` is a duration and is given in exactly",
        f"one unit, one of `{'`, `'.join(f'_{unit}' for unit in UNITS)}`; giving another unit",
        "replaces the default one. Steps are updates, examples and epochs are of the training",
        "split, percent is of the whole run.",
    ]
    header = ["", "| key | default | may be | meaning |", "| --- | --- | --- | --- |"]
    for section, entry in SCHEMA.items():
        if isinstance(entry, Key):
            lines += [*header, _row(section, entry)]
            continue
        lines += ["", f"## {section}", *header]
        lines += [_row(f"{section}.{name}", key) for name, key in entry.items()]
    return "\n".join(lines) + "\n"


def _row(path: str, key: Key | Duration) -> str:
    if isinstance(key, Duration):
        path, default = f"{path}_*", f"{key.default:g} {key.unit}"
    else:
        default = repr(key.default)
    words = key.rule.words
    if words == ANY.words and isinstance(key.default, bool):
        words = "True or False"
    cells = [f"`{path}`", f"`{default}`", words, key.meaning.replace("*", r"\*")]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
