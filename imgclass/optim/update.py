"""One update of the state: everything that moves weights after a gradient is known."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgclass.optim import averaging, muon
from imgclass.optim.schedules import Schedule
from imgclass.state import TrainState

Update = Callable[[TrainState, Any, Any], tuple[TrainState, jax.Array]]


def make_update(
    cfg: Any, tx: optax.GradientTransformation, schedule: Schedule, total: int
) -> Update:
    """Returns the function from a gradient to the next state.

    In this order: Muon's matrices are normalised, the optimizer's update times minus the learning
    rate is added, lookahead pulls back, and the average that is evaluated takes the result in.
    A schedule-free run has a way of its own to add and to average.

    Args:
      cfg: the config's `optim` section.
      tx: from `create`.
      schedule: from `schedule`.
      total: updates in the whole run.

    Returns:
      (state, gradient of its parameters, batch statistics after the forward pass) -> (the next
      state, with one more step; the learning rate f32[] of this update).
    """
    weights = _weights(schedule, total) if cfg.schedule_free else np.zeros(0, np.float32)

    def update(state: TrainState, grads: Any, batch_stats: Any) -> tuple[TrainState, jax.Array]:
        rate = schedule(state.step)
        params = muon.project(cfg, state.params)
        updates, opt_state = tx.update(grads, state.opt_state, params)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        done = state.step + 1
        if cfg.schedule_free:
            weight = jnp.asarray(weights)[state.step]
            slow, ema, params = averaging.schedule_free(
                cfg, weight, state.slow, state.ema, updates, batch_stats
            )
        else:
            slow, params, batch_stats = averaging.lookahead(
                cfg, total, done, state.slow, optax.apply_updates(params, updates), batch_stats
            )
            ema = averaging.average(cfg, total, done, state.ema, params, batch_stats)
        new = dataclasses.replace(
            state,
            step=done,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
            slow=slow,
        )
        return new, rate

    return update


def _weights(schedule: Schedule, total: int) -> np.ndarray:
    """Returns f32[total], the square of each update's rate over the sum of squares up to it.

    From the schedule and not from a running sum in the state: one thing less to save.
    """
    with jax.ensure_compile_time_eval():  # also where the step is made while a program is traced
        rates = np.asarray(schedule(jnp.arange(total, dtype=jnp.int32)), np.float64)
    squares = np.square(rates)
    return (squares / np.cumsum(squares)).astype(np.float32)
