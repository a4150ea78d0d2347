"""The pure steps: (state, batch) -> (state, metrics), and (variables, batch) -> sums.

Promises: no I/O, no global, no clock; everything is bound by arguments when the step is made, so
a step can be traced for any platform, tested on two rows, and reused. What a step does depends on
`state.step` and the batch alone, never on how often it is called, logged or restarted. Sharding
is the caller's: the same function serves one device and a pod.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from imgclass import keys, losses, metrics, optim
from imgclass.data import augment, preprocess
from imgclass.models import Model
from imgclass.state import TrainState

Batch = Mapping[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]
EvalStep = Callable[[Any, Batch], tuple[Sums, jax.Array]]


def make_train_step(
    *,
    config: ml_collections.ConfigDict,
    model: Model,
    tx: optax.GradientTransformation,
    schedule: optim.Schedule,
    prepare: preprocess.Preprocess,
    num_classes: int,
) -> TrainStep:
    """Returns the function that does one update.

    The returned step takes a batch of uint8 pictures (see `data/feed.py`) and returns the next
    state and `{'sums': {name: (sum, count)}, 'finite': bool[]}`. `finite` is whether the loss and
    the gradient norm were; with train.on_nonfinite='skip' a step that was not leaves parameters,
    statistics and optimizer as they were.
    """
    roots = {name: keys.stream(config.seed, name) for name in ("augment", "mix", "dropout")}
    parts = config.optim.accumulate

    def forward(
        params: Any, batch_stats: Any, x: jax.Array, targets: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _, batch_stats = model.apply_train(variables, x, key)
        rows = losses.cross_entropy(logits, targets)
        return jnp.mean(rows), (logits, rows, batch_stats)

    def gradients(
        params: Any, batch_stats: Any, x: jax.Array, targets: jax.Array, key: jax.Array
    ) -> tuple[Any, tuple[jax.Array, jax.Array, Any]]:
        grad = jax.grad(forward, has_aux=True)
        if parts == 1:
            return grad(params, batch_stats, x, targets, key)

        def micro(carry: tuple, part: tuple) -> tuple:
            total, batch_stats = carry
            index, x, targets = part
            new, (logits, rows, batch_stats) = grad(
                params, batch_stats, x, targets, jax.random.fold_in(key, index)
            )
            return (jax.tree.map(jnp.add, total, new), batch_stats), (logits, rows)

        zeros = jax.tree.map(jnp.zeros_like, params)
        cut = (jnp.arange(parts), _cut(x, parts), _cut(targets, parts))
        scanned: Any = jax.lax.scan(micro, (zeros, batch_stats), cut)
        (total, batch_stats), (logits, rows) = scanned
        mean = jax.tree.map(lambda g: g / parts, total)
        return mean, (_join(logits), _join(rows), batch_stats)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        step = state.step
        row_keys = keys.for_rows(roots["augment"], step, jnp.arange(batch["label"].shape[0]))
        targets = losses.one_hot_smooth(batch["label"], num_classes, config.loss.label_smoothing)
        images, targets = augment.augment(
            preprocess.to_unit(batch["image"]),
            targets,
            row_keys,
            jax.random.fold_in(roots["mix"], step),
            config.augment,
            prepare.image_size,
            jnp.asarray(prepare.mean or (0.0,) * prepare.channels, jnp.float32),
        )
        grads, (logits, rows, batch_stats) = gradients(
            state.params,
            state.batch_stats,
            prepare.standardize(images),
            targets,
            jax.random.fold_in(roots["dropout"], step),
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        rate = schedule(step)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(jnp.sum(rows)) & jnp.isfinite(norm)
        new = TrainState(
            step=step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=_averaged(state, params, batch_stats, config.optim.ema_decay),
        )
        if config.train.on_nonfinite == "skip":
            new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
            new = new.replace(step=step + 1)
        one = jnp.ones((), jnp.int32)
        sums = metrics.batch_sums(logits, rows, batch["label"], batch["mask"])
        sums |= {"gradient_norm": (norm, one), "learning_rate": (rate, one)}
        if config.train.on_nonfinite == "skip":  # a NaN would spoil the sums of a whole window
            sums = jax.tree.map(lambda s: jnp.where(finite, s, jnp.zeros_like(s)), sums)
        return new, {"sums": sums, "finite": finite}

    return train_step


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


def make_eval_step(*, model: Model, prepare: preprocess.Preprocess, num_classes: int) -> EvalStep:
    """Returns the function that scores one batch.

    The returned step maps (variables, batch) to the metrics' (sum, count) pairs over the rows
    whose mask is true, and f32[B, K] probabilities of every row.
    """

    def eval_step(variables: Any, batch: Batch) -> tuple[Sums, jax.Array]:
        x = prepare.standardize(preprocess.to_unit(batch["image"]))
        logits, _ = model.apply(variables, x)
        targets = losses.one_hot_smooth(batch["label"], num_classes, 0.0)
        rows = losses.cross_entropy(logits, targets)
        sums = metrics.batch_sums(logits, rows, batch["label"], batch["mask"])
        return sums, jax.nn.softmax(logits)

    return eval_step


def _averaged(state: TrainState, params: Any, batch_stats: Any, decay: float) -> Any:
    if not state.ema:
        return {}
    return optim.ema_update(state.ema, {"params": params, "batch_stats": batch_stats}, decay)


def _cut(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B/parts, ...], every part taking rows from every device's share."""
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def _join(x: jax.Array) -> jax.Array:
    """Undoes `_cut`."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
