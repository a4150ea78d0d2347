"""Optimizers and learning-rate schedules, each a pure function of the config.

The train step multiplies what an optimizer returns by minus the learning rate at the state's step,
so there is one count of steps, also where an update was skipped. Gradients are averaged over
accumulated batches by the step, not here.
"""

import re
from collections.abc import Callable
from typing import Any, cast

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

    - Warm-up, t < W: linear from p/W at t = 0 to p at t = W, that is p * (1/W + (1 - 1/W) * t/W).
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
        parts = [optax.linear_schedule(lr / warm, lr, warm), body]
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


def decay_mask(params: Any, no_decay: str) -> Any:
    """Says which parameters weight decay applies to.

    Args:
      params: tree of arrays; a leaf's name is its keys joined by '/', as 'block1/conv/kernel'.
      no_decay: regular expression searched for in the name; '' excludes nothing.

    Returns:
      A tree like `params` of bool, true where the parameter decays.

    Raises:
      UsageError: `no_decay` is no regular expression.

    >>> decay_mask({'dense': {'kernel': 0.0, 'bias': 0.0}}, r'(^|/)(bias|scale)$')
    {'dense': {'bias': False, 'kernel': True}}
    """
    try:
        pattern = re.compile(no_decay)
    except re.error as error:
        raise UsageError(
            f"optim.no_decay={no_decay!r} is not a regular expression: {error}."
        ) from None

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # An empty pattern would match every name, and switch decay off silently.
        return not (no_decay and pattern.search(name))

    return jax.tree_util.tree_map_with_path(decays, params)


def create(cfg: Any) -> optax.GradientTransformation:
    """Builds [clip by global norm ->] optimizer from the config, without its learning rate.

    With gradient g, parameter w, weight decay d and learning rate a (all at one step):

    - 'sgd': g += d*w; v = momentum*v + g; w -= a*v (PyTorch's form: a is outside the velocity;
      Keras keeps it inside, which differs when a changes). Nesterov: w -= a*(g + momentum*v).
    - 'adam': g += d*w, then Kingma & Ba (2015), algorithm 1.
    - 'adamw': Adam, and w -= a*d*w besides (Loshchilov & Hutter 2019; a multiplies d, as in
      PyTorch).
    - 'lamb': You et al. (2020), algorithm 2: AdamW's step scaled to the norm of each parameter
      array, biases and scales too; the ratio is 1 where either norm is 0.
    - 'rmsprop': g += d*w; s = r*s + (1-r)*g^2 from s = 0; v = momentum*v + g/(sqrt(s) + eps);
      w -= a*v (PyTorch's form; TensorFlow's starts at s = 1 with eps inside the root). The
      default momentum of 0.9 applies; 0 is the plain form.

    'eps_hat' (adam and adamw) is the form at the end of section 2 of Kingma & Ba, used by Keras
    and TensorFlow: a * sqrt(1-b2^t)/(1-b1^t) * m/(sqrt(v) + eps).

    Args:
      cfg: the config's `optim` section.

    Returns:
      An optax transformation whose `update` needs `params`, and returns u where the update of the
      parameters is -a*u.

    Raises:
      UsageError: unknown optimizer, or `no_decay` is no regular expression.
    """
    decay_mask({}, cfg.no_decay)  # a bad pattern is named here, not while tracing the first step
    decay = []
    if cfg.weight_decay:
        mask = cast(Any, lambda params: decay_mask(params, cfg.no_decay))
        decay = [optax.add_decayed_weights(cfg.weight_decay, mask=mask)]
    momentum = [optax.trace(cfg.momentum, nesterov=cfg.nesterov)] if cfg.momentum else []
    adam = scale_by_adam(cfg.beta1, cfg.beta2, cfg.eps, cfg.eps_hat)

    if cfg.name == "sgd":
        core = [*decay, *momentum]
    elif cfg.name == "adam":
        core = [*decay, adam]
    elif cfg.name == "adamw":
        core = [adam, *decay]
    elif cfg.name == "lamb":
        core = [scale_by_adam(cfg.beta1, cfg.beta2, cfg.eps), *decay, optax.scale_by_trust_ratio()]
    elif cfg.name == "rmsprop":
        rms = optax.scale_by_rms(cfg.rmsprop_decay, cfg.eps, eps_in_sqrt=False)
        core = [*decay, rms, *momentum]
    else:
        raise UsageError(
            f"optim.name={cfg.name!r} is not one of 'sgd', 'adam', 'adamw', 'lamb', 'rmsprop'."
        )
    # The stage is there when off too, so that a run can go on with clipping switched on.
    clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity()
    return optax.chain(clip, *core)


def scale_by_adam(
    b1: float, b2: float, eps: float, eps_hat: bool = False
) -> optax.GradientTransformation:
    """Adam's direction, with epsilon after the bias correction or before it.

    optax.scale_by_adam has only the first form (its eps would have to be eps/sqrt(1 - b2^t), 32
    times larger at the first step, for the second), and raises a float to an int32 power, which
    strict dtype promotion refuses. The state is optax's own.

    Args:
      b1: decay of the first moment m.
      b2: decay of the second moment v.
      eps: added to the root of the second moment.
      eps_hat: which form.

    Returns:
      A transformation to direction(t), t = 1 at the first update:
      m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps), or with `eps_hat`
      sqrt(1-b2^t)/(1-b1^t) * m / (sqrt(v) + eps).

    Source: Kingma & Ba (2015), algorithm 1, and the note at the end of its section 2.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: (1.0 - b1) * g + b1 * m, state.mu, grads)
        nu = jax.tree.map(lambda v, g: (1.0 - b2) * g * g + b2 * v, state.nu, grads)
        t = count.astype(jnp.float32)
        first, second = 1.0 - b1**t, 1.0 - b2**t

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            if eps_hat:
                return jnp.sqrt(second) / first * m / (jnp.sqrt(v) + eps)
            return m / first / (jnp.sqrt(v / second) + eps)

        return jax.tree.map(direction, mu, nu), optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


def ema_update(ema: Any, new: Any, decay: float) -> Any:
    """Moves an exponential moving average one step: decay * ema + (1 - decay) * new.

    Args:
      ema: tree of float arrays, the average so far.
      new: tree of the same structure.
      decay: in [0, 1); 0 gives `new`.

    Returns:
      A tree like `ema`.

    >>> ema_update({'w': 1.0}, {'w': 3.0}, 0.75)
    {'w': 1.5}
    """
    return jax.tree.map(lambda old, now: decay * old + (1.0 - decay) * now, ema, new)
