"""How well a run holds up: on spoiled pictures and under attack.

A figure here is of the pictures as the run prepares them, so that severity 3 means the same to
every run on pictures of one size. Which pictures, and what befalls them, is a function of `SEED`
and not of the run's own seed: runs on the same data are tried on the same pictures. Nothing is
written; `verbs/evaluate.py` writes robustness.json.
"""

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from imgclass import keys, parallel
from imgclass.data import load, preprocess
from imgclass.data.source import Split
from imgclass.evaluate import attacks, bootstrap
from imgclass.evaluate.corruptions import (
    EXTRA,
    MAIN,
    SEVERITIES,
    constants_for,
    corrupt,
)
from imgclass.evaluate.restore import Restored

SEED = 0
PGD_STEPS = 10
# PGD's step is this share of the bound: 10 of them reach from one side of it to the other.
PGD_STEP = 0.25
# AlexNet's error on ImageNet and, over the five severities, on each corruption of it.
# Source: Hendrycks and Dietterich (2019), arXiv:1903.12261, and github.com/hendrycks/robustness.
ALEXNET_CLEAN = 0.4345
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def chosen(count: int, wanted: int) -> np.ndarray:
    """Returns int64[min(count, wanted)], ascending: which of `count` examples are tried.

    More of them hold all that fewer hold.
    """
    return np.sort(np.random.default_rng(SEED).permutation(count)[:wanted])


def corrupted(
    found: Restored, split: Split, examples: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Scores a run on spoiled pictures.

    Pictures are spoiled on host threads while the device scores, one batch of examples after the
    other, so that memory does not grow with their number.

    Args:
      found: the run.
      split: where the examples are.
      examples: int64[n], positions in it.
      names: of `CORRUPTIONS`.

    Returns:
      name -> bool[5, n], whether the run is right, by severity and example.

    Raises:
      UserError: a picture cannot be read.
    """
    task = found.task
    eval_step, rows = task.jitted_eval_step(), _rows(found, len(examples))
    right = {name: np.zeros((len(SEVERITIES), len(examples)), bool) for name in names}
    batches = -(-len(examples) // rows) * len(names) * len(SEVERITIES)
    spoiled = _spoiled(found, split, examples, names, rows)
    for start, name, severity, pictures in tqdm(
        spoiled, "corruptions", batches, leave=False, disable=None
    ):
        part = examples[start : start + rows]
        labels = split.labels[part]
        batch = _batch(found, pictures, labels, part, rows)
        probabilities = np.asarray(parallel.fetch(eval_step(found.variables, batch)[1]))
        place = slice(start, start + len(part))
        right[name][severity - 1, place] = _right(probabilities[: len(part)], labels)
    return right


def _spoiled(
    found: Restored, split: Split, examples: np.ndarray, names: Sequence[str], rows: int
) -> Iterator[tuple[int, str, int, np.ndarray]]:
    """Yields (place of the first example, corruption, severity, uint8 pictures)."""
    prepare = found.task.prepare
    threads = load.thread_count(found.task.config.data.threads)

    def jobs() -> Iterator[tuple[int, str, int, np.ndarray, np.ndarray]]:
        for start in range(0, len(examples), rows):
            part = examples[start : start + rows]
            pictures = load.examples(split, part, prepare, prepare.image_size)
            for name, severity in itertools.product(names, SEVERITIES):
                yield start, name, severity, pictures, part

    def made(job: tuple[int, str, int, np.ndarray, np.ndarray]) -> tuple[int, str, int, np.ndarray]:
        start, name, severity, pictures, part = job
        return start, name, severity, corrupt(pictures, name, severity, SEED, part)

    yield from load.in_order(made, jobs(), threads, threads)


def corruption_figures(
    right: dict[str, np.ndarray], clean: np.ndarray, size: tuple[int, int], imagenet: bool
) -> dict[str, Any]:
    """Returns the figures of `corrupted`, as robustness.json holds them.

    Errors are shares in [0, 1], and means over examples, severities and corruptions in turn. Only
    the benchmark's fifteen count, and of those the ones that were tried.

    Args:
      right: from `corrupted`.
      clean: bool[n], whether the run is right on the same examples as they are.
      size: height and width of the pictures.
      imagenet: whether they are ImageNet's, of which AlexNet's errors are known.

    Returns:
      'constants', the set that was taken, 'accuracy' and 'accuracy_interval' as they are,
      'by_corruption': name -> {'accuracy': one a severity, 'error', 'extra'}, and, if one of the
      fifteen was tried, 'mean_error', 'mean_error_interval' (95%, over examples) and
      'relative_error' (mean_error less the error on the pictures as they are); with all fifteen of
      ImageNet's also 'mce' and 'relative_mce', which are 1 for AlexNet.
    """
    by_name = {
        name: {
            "accuracy": rows.mean(1).tolist(),
            "error": 1.0 - float(rows.mean()),
            "extra": name in EXTRA,
        }
        for name, rows in right.items()
    }
    figures: dict[str, Any] = {"constants": constants_for(*size)}
    figures |= with_interval("accuracy", clean)
    main = [name for name in MAIN if name in right]
    if main:
        wrong = 1.0 - np.mean([right[name].mean(0) for name in main], axis=0)
        figures |= with_interval("mean_error", wrong)
        figures["relative_error"] = figures["mean_error"] - (1.0 - float(clean.mean()))
    if imagenet and len(main) == len(MAIN) and figures["constants"] == "imagenet":
        lost = 1.0 - float(clean.mean())
        errors = {name: by_name[name]["error"] for name in MAIN}
        figures["mce"] = float(np.mean([errors[name] / ALEXNET[name] for name in MAIN]))
        figures["relative_mce"] = float(
            np.mean([(errors[n] - lost) / (ALEXNET[n] - ALEXNET_CLEAN) for n in MAIN])
        )
    return figures | {"by_corruption": by_name}


def with_interval(name: str, values: np.ndarray) -> dict[str, Any]:
    """Returns {name: the mean of float or bool[n], name_interval: [low, high]}, 95% bootstrap."""
    share = values.dtype == bool
    between = bootstrap.of_share(values) if share else bootstrap.of_mean(values)
    return {name: float(np.mean(values)), f"{name}_interval": list(between)}


def attacked(
    found: Restored, split: Split, examples: np.ndarray, epsilons: Sequence[float]
) -> list[dict[str, Any]]:
    """Scores a run under FGSM and PGD of every bound.

    Args:
      found: the run.
      split: where the examples are.
      examples: int64[n], positions in it.
      epsilons: bounds, in units of [0, 1].

    Returns:
      {'attack', 'epsilon', 'accuracy', 'accuracy_interval'} each, and of 'pgd' also 'steps',
      'step_size' and 'starts'.

    Raises:
      UserError: a picture cannot be read.
    """
    prepare, rows = found.task.prepare, _rows(found, len(examples))
    logits, gradient = _compiled(found)
    start_key = keys.stream(SEED, "pgd")
    right: dict[tuple[str, float], list[np.ndarray]] = collections.defaultdict(list)
    for first in tqdm(range(0, len(examples), rows), "attacks", leave=False, disable=None):
        part = examples[first : first + rows]
        labels = split.labels[part]
        pictures = load.examples(split, part, prepare, prepare.image_size)
        batch = _batch(found, pictures, labels, part, rows)
        x, truth = preprocess.to_unit(batch["image"]), batch["label"]
        start = attacks.random_start(start_key, batch["index"], x.shape[1:])
        for epsilon in epsilons:
            size = PGD_STEP * epsilon
            moved = {
                "fgsm": attacks.fgsm(gradient, x, truth, epsilon),
                "pgd": attacks.pgd(gradient, x, truth, epsilon, PGD_STEPS, size, start),
            }
            for name, image in moved.items():
                scores = np.asarray(parallel.fetch(logits(image)))[: len(part)]
                right[name, epsilon].append(_right(scores, labels))
    extra = {"fgsm": {}, "pgd": {"steps": PGD_STEPS, "starts": 1}}
    return [
        {"attack": name, "epsilon": epsilon}
        | with_interval("accuracy", np.concatenate(parts))
        | extra[name]
        | ({"step_size": PGD_STEP * epsilon} if name == "pgd" else {})
        for (name, epsilon), parts in right.items()
    ]


def _compiled(found: Restored) -> tuple[attacks.LogitsOf, attacks.Gradient]:
    model, prepare = found.task.model, found.task.prepare

    def logits_of(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, prepare.standardize(x))[0]

    def gradient(variables: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        return attacks.gradient_of(lambda moved: logits_of(variables, moved))(x, labels)

    # The weights are arguments: as constants they would be part of the program.
    score, climb = jax.jit(logits_of), jax.jit(gradient)
    return (
        lambda x: score(found.variables, x),
        lambda x, labels: climb(found.variables, x, labels),
    )


def _rows(found: Restored, examples: int) -> int:
    """Returns rows of a batch: those of an evaluation, or all examples, shared by the devices."""
    devices = found.task.mesh.devices.size
    return -(-min(found.task.config.eval.batch_size, examples) // devices) * devices


def _batch(
    found: Restored, pictures: np.ndarray, labels: np.ndarray, index: np.ndarray, rows: int
) -> dict[str, jax.Array]:
    """Returns a batch on the devices, padded to `rows`."""

    def padded(values: np.ndarray, kind: Any) -> np.ndarray:
        out = np.zeros((rows, *values.shape[1:]), kind)
        out[: len(values)] = values
        return out

    return parallel.put_rows(found.task.mesh)(
        {
            "image": padded(pictures, np.uint8),
            "label": padded(labels, np.int32),
            "index": padded(index, np.int32),
            "mask": padded(np.ones(len(labels), bool), bool),
        }
    )


def _right(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns bool[n], whether the label scores highest; of equals the lowest class does."""
    return (scores.argmax(1) == labels) & ~np.isnan(scores).any(1)
