"""Averages of weights over steps: of those that are evaluated, and of those trained on.

Pure functions of what there is and the step; `update.make_update` calls them. An average of batch
statistics is taken along with that of the weights: nothing is estimated anew from data.
"""

from typing import Any

import jax
import jax.numpy as jnp


def averages(cfg: Any) -> bool:
    """Returns whether a run evaluates other weights than it trains, so that its state has both."""
    return cfg.ema_decay > 0 or cfg.swa_start < 1 or cfg.schedule_free


def keeps_slow(cfg: Any) -> bool:
    """Returns whether a run's state holds slow weights."""
    return cfg.lookahead_steps > 0 or cfg.schedule_free


def ema_update(ema: Any, new: Any, decay: Any) -> Any:
    """Moves an exponential moving average one step: decay * ema + (1 - decay) * new.

    Args:
      ema: tree of float arrays, the average so far.
      new: tree of the same structure.
      decay: in [0, 1], float or f32[]; 0 gives `new`.

    Returns:
      A tree like `ema`.

    >>> ema_update({'w': 1.0}, {'w': 3.0}, 0.75)
    {'w': 1.5}
    """
    return jax.tree.map(lambda old, now: decay * old + (1.0 - decay) * now, ema, new)


def average(cfg: Any, total: int, step: Any, ema: Any, params: Any, batch_stats: Any) -> Any:
    """Takes the weights after an update into the average that is evaluated.

    With start S = round(part of the run * total), the updates t that are multiples of
    average_every are taken in, the n-th after S (n from 1) with

    - ema_decay: ema <- d * ema + (1 - d) * new, d = ema_decay, or with ema_warmup
      min(ema_decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage;
    - swa_start: ema <- ema + (new - ema) / (n + 1), so the plain mean of the weights at S and of
      those after (Izmailov et al. 2018, arXiv:1803.05407).

    Up to S (of ema_start or swa_start) the average is the newest weights taken in. With
    average_every = 32 and ema_start after the warm-up it is torchvision's --model-ema-steps, whose
    decay for E epochs of batches of B is 1 - (1 - model_ema_decay) * B * 32 / E.

    Args:
      cfg: the config's `optim` section.
      total: updates in the whole run.
      step: i32[], updates done, this one included.
      ema: {'params', 'batch_stats'} so far; {} without averaging.
      params: tree of f32 arrays, after the update.
      batch_stats: tree of f32 arrays, after the update.

    Returns:
      A tree like `ema`.
    """
    if not averages(cfg):
        return {}
    new = {"params": params, "batch_stats": batch_stats}
    swa, every = cfg.swa_start < 1, cfg.average_every
    start = round((cfg.swa_start if swa else cfg.ema_start) * total)
    if not swa and not start and every == 1 and not cfg.ema_warmup:
        return ema_update(ema, new, cfg.ema_decay)
    step = jnp.asarray(step, jnp.int32)
    count = (step // every - start // every).astype(jnp.float32)
    if swa:
        decay = count / (count + 1.0)
    elif cfg.ema_warmup:
        decay = jnp.minimum(cfg.ema_decay, (1.0 + count) / (10.0 + count))
    else:
        decay = jnp.asarray(cfg.ema_decay, jnp.float32)
    moved = ema_update(ema, new, jnp.where(step > start, decay, 0.0))
    return jax.tree.map(lambda a, b: jnp.where(step % every == 0, a, b), moved, ema)


def lookahead(
    cfg: Any, total: int, step: Any, slow: Any, params: Any, batch_stats: Any
) -> tuple[Any, Any, Any]:
    """Pulls the weights back to their slow average, every optim.lookahead_steps updates.

    With k = lookahead_steps, T = total and t the updates done: where k divides t,

        d = lookahead_decay^k * (t / T)^lookahead_power
        slow <- d * slow + (1 - d) * (params, batch_stats)
        params, batch_stats <- slow

    and at t = T the weights become the slow ones whether k divides T or not. Power 3 is the form of
    the CIFAR-10 records (Jordan 2024, arXiv:2404.00498); power 0 and decay (1 - alpha)^(1 / k) are
    Zhang et al. (2019), arXiv:1907.08610.

    Args:
      cfg: the config's `optim` section.
      total: updates in the whole run.
      step: i32[] or int, updates done, this one included.
      slow: {'params', 'batch_stats'}, from the last time; at first those the run began with.
      params: tree of f32 arrays, after the update.
      batch_stats: tree of f32 arrays, after the update.

    Returns:
      (slow, params, batch_stats); what was passed in where lookahead_steps is 0.
    """
    every = cfg.lookahead_steps
    if not every:
        return slow, params, batch_stats
    step = jnp.asarray(step, jnp.int32)
    share = step.astype(jnp.float32) / total
    decay = cfg.lookahead_decay**every * share**cfg.lookahead_power
    due, last = step % every == 0, step >= total
    fast = {"params": params, "batch_stats": batch_stats}
    # Not by a decay of 1: a slow weight must not catch a NaN from a step that will be skipped.
    slow = jax.tree.map(
        lambda old, now: jnp.where(due, decay * old + (1.0 - decay) * now, old), slow, fast
    )
    fast = jax.tree.map(lambda old, now: jnp.where(due | last, old, now), slow, fast)
    return slow, fast["params"], fast["batch_stats"]


def schedule_free(
    cfg: Any, weight: Any, slow: Any, ema: Any, updates: Any, batch_stats: Any
) -> tuple[Any, Any, Any]:
    """Moves the three sets of weights of a schedule-free run.

    The gradient was taken at y, the weights that train. With b = momentum for sgd, beta1 for adamw:

        z <- z + updates;  x <- (1 - c) * x + c * z;  y <- (1 - b) * z + b * x

    x is what is evaluated, and z what the optimizer would have without averaging. Batch statistics
    are those of y; with batch norm the authors advise to estimate them anew at x, which is not done
    here. optax.contrib.schedule_free has the learning rate inside and keeps no x.

    The authors' program weighs by the square of the highest rate so far. That is this update's, as
    the schedule is constant after its warm-up.

    Args:
      cfg: the config's `optim` section.
      weight: c f32[], the square of this update's rate over the sum of squares so far.
      slow: {'params': z, 'batch_stats'}.
      ema: {'params': x, 'batch_stats'}.
      updates: what is added to z, like z.
      batch_stats: after the forward pass.

    Returns:
      (slow, ema, y).

    Source: Defazio et al. (2024), arXiv:2405.15682, equations 3 to 5, and their program.
    """
    b = cfg.momentum if cfg.name == "sgd" else cfg.beta1
    z = jax.tree.map(jnp.add, slow["params"], updates)
    x = ema_update(ema["params"], z, 1.0 - weight)
    y = ema_update(x, z, b)
    return {"params": z, "batch_stats": batch_stats}, {"params": x, "batch_stats": batch_stats}, y
