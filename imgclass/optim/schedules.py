"""Learning-rate schedules: pure functions of the step, in updates already done."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgclass.errors import UsageError

Schedule = Callable[[Any], jax.Array]

# Smith & Topin (2018), arXiv:1708.07120; these divisors are the ones the field took up.
ONE_CYCLE_START = 25.0
ONE_CYCLE_END = 1e4
ONE_CYCLE_RISE = 0.3


def schedule(cfg: Any, total_steps: int, warmup_steps: int) -> Schedule:
    """Builds the learning rate as a function of the number of updates already done.

    With peak p = cfg.lr, T = total_steps, W = warmup_steps and t the step:

    - Warm-up, t < W: linear from s at t = 0 to p at t = W, where s = warmup_factor * p, or p/W if
      that is 0.
    - 'constant': p.
    - 'step': p * step_factor^n, n = how many of the steps round(f * T), f in step_at, are <= t.
      A drop that falls inside the warm-up shows at its end.
    - 'cosine': p * (e + (1 - e) * (1 + cos(pi * u)) / 2), u = (t - W) / (T - W), e = end_factor
      (Loshchilov & Hutter 2017, eq. 5, without restarts).
    - 'linear': p * (1 - (1 - e) * u).
    - 'one_cycle': no linear warm-up. Half a cosine from p/25 up to p at t = W (0.3 * T when W is
      0), then half a cosine down to p/10,000. PyTorch's OneCycleLR has the same two halves; its
      default ends at p/250,000 and reaches its marks one step earlier.

    The last update is t = T - 1; the end value itself belongs to t = T and holds from there on.

    Args:
      cfg: the config's `optim` section.
      total_steps: T, updates in the whole run, warm-up included.
      warmup_steps: W, in [0, T].

    Returns:
      A function of a step (int or i32[], traced or not) to f32[].

    Raises:
      UsageError: unknown schedule, or a warm-up longer than the run.
    """
    if not 0 <= warmup_steps <= total_steps:
        raise UsageError(
            f"optim.warmup is {warmup_steps} steps but the run has {total_steps}. "
            "Shorten the warm-up or lengthen the run."
        )
    lr, warm = float(cfg.lr), warmup_steps
    # With W = T the body is never used before the end, but must be built without dividing by 0.
    body_steps = max(total_steps - warmup_steps, 1)
    parts: list[optax.Schedule]
    if cfg.schedule == "constant":
        body = optax.constant_schedule(lr)
    elif cfg.schedule == "step":
        body = _drops(lr, [round(f * total_steps) - warm for f in cfg.step_at], cfg.step_factor)
    elif cfg.schedule == "cosine":
        body = optax.cosine_decay_schedule(lr, body_steps, alpha=cfg.end_factor)
    elif cfg.schedule == "linear":
        body = optax.linear_schedule(lr, lr * cfg.end_factor, body_steps)
    elif cfg.schedule == "one_cycle":
        warm = warmup_steps or max(round(ONE_CYCLE_RISE * total_steps), 1)
        fall_steps = max(total_steps - warm, 1)
        body = optax.cosine_decay_schedule(lr, fall_steps, alpha=1.0 / ONE_CYCLE_END)
    else:
        raise UsageError(
            f"optim.schedule={cfg.schedule!r} is not one of "
            "'constant', 'step', 'cosine', 'linear', 'one_cycle'."
        )
    if cfg.schedule == "one_cycle":
        # A cosine 'decay' to 25 times its start is the rise.
        rise = optax.cosine_decay_schedule(lr / ONE_CYCLE_START, warm, alpha=ONE_CYCLE_START)
        parts = [rise, body]
    elif warm:
        start = lr * cfg.warmup_factor or lr / warm
        parts = [optax.linear_schedule(start, lr, warm), body]
    else:
        parts = [body]
    joined = optax.join_schedules(parts, [warm] * (len(parts) - 1))

    def at(step: Any) -> jax.Array:
        # float32 counts whole steps exactly up to 16.7 million.
        return jnp.asarray(joined(jnp.asarray(step).astype(jnp.float32)), jnp.float32)

    return at


def _drops(lr: float, boundaries: list[int], factor: float) -> optax.Schedule:
    """Like optax.piecewise_constant_schedule, but two drops on one step count twice."""

    def at(step: Any) -> jax.Array:
        passed = sum(jnp.asarray(step >= boundary, jnp.float32) for boundary in boundaries)
        return lr * jnp.asarray(factor, jnp.float32) ** passed

    return at
