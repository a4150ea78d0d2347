"""The pure steps: (state, batch) -> (state, metrics), and (variables, batch) -> sums.

Promises: no I/O, no global, no clock; everything is bound by arguments when the step is made, so
a step can be traced for any platform, tested on two rows, and reused. What a step does depends on
`state.step` and the batch alone, never on how often it is called, logged or restarted. Sharding
is the caller's: the same function serves one device and a pod.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from imgclass import keys, losses, metrics, objective, optim
from imgclass.data import augment, preprocess, views
from imgclass.models import Model
from imgclass.state import TrainState

Batch = Mapping[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]
EvalStep = Callable[[Any, Batch], tuple[Sums, jax.Array]]


def make_train_step(
    *,
    config: ml_collections.ConfigDict,
    loss: objective.Objective,
    update: optim.Update,
    prepare: preprocess.Preprocess,
    num_classes: int,
    examples: int,
    mix_steps: int | None = None,
    size_steps: tuple[int, ...] = (),
) -> TrainStep:
    """Returns the function that does one update.

    The returned step takes a batch of uint8 pictures (see `data/feed.py`) and returns the next
    state and `{'sums': {name: (sum, count)}, 'finite': bool[]}`. `finite` is whether the loss and
    the gradient norm were; with train.on_nonfinite='skip' a step that was not leaves parameters,
    statistics and optimizer as they were.

    Args:
      config: resolved and checked.
      loss: what is differentiated, from `objective.make`.
      update: what moves the weights along a gradient, from `optim.make_update`.
      prepare: the preprocessing.
      num_classes: K.
      examples: size of the training split, which tells a row's epoch; 0 where nothing asks.
      mix_steps: updates after which mixup and cutmix are off; None is never.
      size_steps: updates after which each of augment.sizes but the first begins.
    """
    augmented = make_augmented(config, prepare, num_classes, examples, mix_steps)
    gradients = optim.sharpness_aware(
        objective.gradients(loss, config.optim.accumulate), config.optim
    )
    stages = [
        _make_stage(augmented, gradients, size) for size in training_sizes(config.augment, prepare)
    ]
    skips = config.train.on_nonfinite == "skip"

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        step = state.step
        # One program for all sizes: which of its branches runs is a matter of the step.
        stage = jnp.sum(step >= jnp.array(size_steps, jnp.int32), dtype=jnp.int32)
        grads, (logits, rows, batch_stats) = jax.lax.switch(stage, stages, state, batch)
        new, rate = update(state, grads, batch_stats)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(jnp.sum(rows)) & jnp.isfinite(norm)
        one = jnp.ones((), jnp.int32)
        sums = metrics.batch_sums(logits, rows, batch["label"], batch["mask"])
        sums |= {"gradient_norm": (norm, one), "learning_rate": (rate, one)}
        if skips:
            new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
            new = new.replace(step=step + 1)
            # A NaN would spoil the sums of a whole window.
            sums = jax.tree.map(lambda s: jnp.where(finite, s, jnp.zeros_like(s)), sums)
        return new, {"sums": sums, "finite": finite}

    return train_step


def training_sizes(
    cfg: ml_collections.ConfigDict, prepare: preprocess.Preprocess
) -> list[tuple[int, int]]:
    """Returns (height, width) of each stage of augment.sizes, of image_size's shape; mostly one."""
    height, width = prepare.image_size
    return [(h, round(h * width / height)) for h in cfg.sizes] or [(height, width)]


def _make_stage(
    augmented: Callable[..., objective.Examples],
    gradients: objective.Gradient,
    size: tuple[int, int],
) -> Callable[[TrainState, Batch], tuple[Any, objective.Outcome]]:
    """Returns (state, batch) -> the gradient and its outcome, on pictures of a size."""

    def stage(state: TrainState, batch: Batch) -> tuple[Any, objective.Outcome]:
        root = jax.random.wrap_key_data(state.key)
        examples = augmented(batch, state.step, root, size)
        dropout = jax.random.fold_in(keys.branch(root, "dropout"), state.step)
        return gradients(state.params, state.batch_stats, examples, dropout)

    return stage


def make_augmented(
    config: ml_collections.ConfigDict,
    prepare: preprocess.Preprocess,
    num_classes: int,
    examples: int,
    mix_steps: int | None,
) -> Callable[[Batch, jax.Array, jax.Array, tuple[int, int]], objective.Examples]:
    """Returns (batch, step, root key, size) -> what the loss is taken of."""
    mean = prepare.mean or (0.0,) * prepare.channels
    turns = examples * config.augment.repeats  # rows until an example's turn comes again

    def augmented(
        batch: Batch, step: jax.Array, root: jax.Array, size: tuple[int, int]
    ) -> objective.Examples:
        count = batch["label"].shape[0]
        images, targets = augment.augment(
            preprocess.to_unit(batch["image"]),
            losses.one_hot(batch["label"], num_classes),
            keys.for_rows(keys.branch(root, "augment"), step, jnp.arange(count)),
            jax.random.fold_in(keys.branch(root, "mix"), step),
            config.augment,
            prepare.image_size,
            jnp.asarray(mean, jnp.float32),
            size=size,
            views=objective.VIEWS if config.loss.consistency else 1,
            mixing=None if mix_steps is None else step < mix_steps,
            example_key=keys.branch(root, "example"),
            index=batch["index"],
            epoch=epochs(step, count, turns) if turns else None,
        )
        return {"image": images, "target": targets}

    return augmented


def make_train_steps(train_step: TrainStep, take: Callable, most: int) -> Callable:
    """Returns a function that does up to `most` steps in one dispatch, for a resident set.

    `count` is an argument and not part of the program, so one compiled program serves every
    stretch between two saves, and a stopped run goes on with the very program it stopped in.

    Returns:
      (state, examples, indices i32[most, B], count i32[]) -> (state, metrics), each metric with
      a leading axis of length `most` whose first `count` entries are meant.
    """

    def train_steps(
        state: TrainState, examples: Any, indices: jax.Array, count: jax.Array
    ) -> tuple[TrainState, dict[str, Any]]:
        _, shapes = jax.eval_shape(train_step, state, take(examples, indices[0]))
        out = jax.tree.map(lambda s: jnp.zeros((most, *s.shape), s.dtype), shapes)

        def body(i: jax.Array, carry: tuple) -> tuple:
            state, out = carry
            state, new = train_step(state, take(examples, indices[i]))
            return state, jax.tree.map(lambda o, n: o.at[i].set(n), out, new)

        return jax.lax.fori_loop(0, count, body, (state, out))

    return train_steps


def make_eval_step(
    *, model: Model, prepare: preprocess.Preprocess, num_classes: int, tta: str = "none"
) -> EvalStep:
    """Returns the function that scores one batch, the logits averaged over `views.views(tta)`.

    The returned step maps (variables, batch) to the metrics' (sum, count) pairs over the rows
    whose mask is true, among them 'by_class' with one entry a class (`metrics.class_sums`), and
    f32[B, K] probabilities of every row. The loss is cross-entropy whatever was trained with.
    """

    def eval_step(variables: Any, batch: Batch) -> tuple[Sums, jax.Array]:
        x = prepare.standardize(preprocess.to_unit(batch["image"]))
        parts = [w * model.apply(variables, view)[0] for w, view in views.views(x, tta)]
        logits = functools.reduce(jnp.add, parts)
        targets = losses.one_hot(batch["label"], num_classes)
        rows = losses.cross_entropy(logits, targets)
        sums = metrics.batch_sums(logits, rows, batch["label"], batch["mask"])
        sums["by_class"] = metrics.class_sums(logits, batch["label"], batch["mask"])
        return sums, jax.nn.softmax(logits)

    return eval_step


def epochs(step: jax.Array, batch_size: int, examples: int) -> jax.Array:
    """Returns the epoch of each row of a step: (step * batch_size + row) // examples.

    The product passes 2^31 in long runs, so it is never formed: with bit b of the step worth
    batch_size * 2^b = q_b * examples + r_b, the sums of q_b and r_b over the bits that are set
    stay small. Exact while 31 * examples + batch_size < 2^32, some 138 million examples.

    Args:
      step: i32[], updates done before this one.
      batch_size: rows of the global batch.
      examples: size of the training split, at least 1.

    Returns:
      i32[batch_size].

    >>> epochs(jnp.int32(3), 4, 13).tolist()  # positions 12 to 15
    [0, 1, 1, 1]
    """
    bits = range(31)
    whole = np.array([(batch_size << b) // examples % 2**32 for b in bits], np.uint32)
    rest = np.array([(batch_size << b) % examples for b in bits], np.uint32)
    is_set = (step.astype(jnp.uint32) >> jnp.arange(31, dtype=jnp.uint32)) & jnp.uint32(1)
    rows = jnp.arange(batch_size, dtype=jnp.uint32)
    further = (jnp.sum(is_set * rest) + rows) // jnp.uint32(examples)
    return (jnp.sum(is_set * whole) + further).astype(jnp.int32)
