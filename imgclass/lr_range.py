"""The learning-rate range test: a short run whose rate rises every step, and what its loss says.

The steps are those of training, on the batches of training; nothing is saved.
"""

import dataclasses
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from imgclass import build, feeds, files, parallel, pretrained, train
from imgclass.data import dataset
from imgclass.errors import UsageError, UserError
from imgclass.evaluate import restore

DIVERGED = 4.0  # times the least smoothed loss ends the test, as in fastai's lr_find
FEWEST = 20  # steps that a curve has to have


@dataclasses.dataclass(frozen=True)
class Curve:
    """A range test.

    Attributes:
      rates: f64[n], the learning rate of each step, rising by one factor a step.
      losses: f64[n], the training loss of each step's batch, before its update.
      smoothed: f64[n], those before it taken in.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray


def range_test(config: ml_collections.ConfigDict, low: float, high: float, steps: int) -> Curve:
    """Trains from the first weights for `steps` steps, the rate rising from `low` to `high`.

    It ends early where the loss is not finite or the smoothed loss `DIVERGED` times its least. The
    config's own rate, schedule and warm-up are not used, everything else is.

    Args:
      config: resolved and checked.
      low: rate of the first step, above 0.
      high: rate of the last, above `low`.
      steps: at least `FEWEST`.

    Raises:
      UsageError: rates or steps that make no curve, or a config that cannot be run.
      UserError: data that cannot be read.

    Source: Smith (2017), arXiv:1506.01186, section 3.3, with a rate that rises exponentially.
    """
    floats = np.finfo(np.float32)
    if not floats.tiny <= low < high <= floats.max or steps < FEWEST:
        raise UsageError(
            f"lr-find needs 0 < low < high and at least {FEWEST} steps; "
            f"got low {low:g}, high {high:g}, {steps} steps"
        )
    mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
    data = dataset.open_dataset(config)
    teacher = restore.load_teacher(config.loss.teacher)
    task = build.from_data(config, data, mesh, steps, 0, teacher)
    growth = math.log(high / low) / (steps - 1)

    def rising(step: jax.Array) -> jax.Array:
        return low * jnp.exp(growth * step.astype(jnp.float32))

    task = dataclasses.replace(task, schedule=rising)
    first = pretrained.load(config, task.model, task.class_names, data.prepare)
    arrays = first.arrays if first else None
    state = task.initial_state(train.sample(task, data), pretrained=arrays)
    train_step = task.jitted_train_step()
    feed = feeds.train_feed(task, data)
    losses: list[float] = []
    try:
        for step in range(steps):
            state, out = train_step(state, feed.batch(step))
            total, count = jax.device_get(out["sums"]["loss"])
            losses.append(float(total) / max(int(count), 1))
            if not bool(out["finite"]):
                losses.pop()
                break
            passed = smooth(losses, steps)
            if passed[-1] > DIVERGED * passed.min():
                break
    finally:
        feed.close()
    rates = low * np.exp(growth * np.arange(len(losses)))
    return Curve(rates, np.array(losses), smooth(losses, steps))


def smooth(losses: list[float] | np.ndarray, steps: int) -> np.ndarray:
    """Returns f64[n], the mean of each loss and those before it, each step back weighing less.

    A step back multiplies a weight by 1 - 2 / steps, so that a curve is as smooth however many
    steps it has; at 100 it is the 0.98 of fastai.

    >>> smooth([1.0, 2.0], 4).round(4).tolist()  # (2 + 0.5 * 1) / 1.5
    [1.0, 1.6667]
    """
    memory = 1.0 - 2.0 / steps
    sums = itertools.accumulate(losses, lambda total, loss: memory * total + loss)
    weights = itertools.accumulate([1.0] * len(losses), lambda total, one: memory * total + one)
    return np.array([total / weight for total, weight in zip(sums, weights, strict=True)])


def suggestions(curve: Curve) -> dict[str, float]:
    """Reads learning rates off a curve, less its first tenth and last five steps.

    - 'valley': the middle of the longest sequence of ever lower losses, others between them left
      out. The least sensitive of the three to noise, and the one to take.
    - 'steepest': where, before it is least, the loss falls most for the logarithm of the rate.
    - 'minimum_tenth': a tenth of the rate where it is least.

    Raises:
      UserError: the loss did not fall.

    Source: `SuggestionMethod` of fastai 2.7, `valley`, `steep` (which also looks beyond the least
    loss, where it may find the way down from a spike) and `minimum`.
    """
    inside = slice(len(curve.rates) // 10, -5)
    rates, losses = curve.rates[inside], curve.smoothed[inside]
    if len(losses) < 2 or losses.argmin() == 0:
        raise UserError(
            f"the loss fell at no rate from {curve.rates[0]:g} to {curve.rates[-1]:g} in "
            f"{len(curve.rates)} steps: begin with a lower --low, or take more --steps"
        )
    # The rates stand evenly on their logarithm, so a difference is a slope.
    steepest = int(np.diff(losses[: losses.argmin() + 1]).argmin())
    return {
        "valley": float(rates[_valley(losses)]),
        "steepest": float(rates[steepest]),
        "minimum_tenth": float(rates[losses.argmin()] / 10),
    }


def _valley(losses: np.ndarray) -> int:
    """Returns the middle of the longest falling subsequence, as fastai finds it."""
    lengths = np.ones(len(losses), np.int64)
    for i in range(1, len(losses)):
        above = losses[:i] > losses[i]
        lengths[i] += lengths[:i][above].max(initial=0)
    end = int(lengths.argmax())
    start = max(end - int(lengths[end]), 0)  # as if none were left out between
    third = (end - start) / 3
    return start + int(third) + int(third / 2)


def draw(curve: Curve, marks: dict[str, float], path: str) -> None:
    """Draws losses over rates, and the suggestions, to a file.

    Raises:
      UsageError: its name ends in neither .png nor .svg.
      UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="0.8", linewidth=1, label="of a batch")
    axes.plot(curve.rates, curve.smoothed, color="C0", label="smoothed")
    for number, (name, rate) in enumerate(marks.items()):
        label = f"{name.replace('_', ' ')}: {rate:.2g}"
        axes.axvline(rate, color=f"C{number + 1}", linestyle="--", linewidth=1, label=label)
    least, first = float(curve.losses.min()), float(curve.smoothed[0])
    room = 0.3 * abs(first - least) + 1e-6
    axes.set_ylim(least - room, first + room)  # what is lost at high rates would hide the rest
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, nats")
    axes.legend()
    files.save_figure(figure, pathlib.Path(path), dpi=120)
