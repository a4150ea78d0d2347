"""From the config to an optax transformation, without its learning rate."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from imgclass.errors import UsageError
from imgclass.optim import depth, masks, muon
from imgclass.optim.adam import scale_by_adam
from imgclass.optim.lars import scale_by_lars


def create(cfg: Any) -> optax.GradientTransformation:
    """Builds [clip by global norm ->] optimizer from the config, without its learning rate.

    With gradient g, parameter w, weight decay d and learning rate a (all at one step):

    - 'sgd': g += d*w; v = momentum*v + g; w -= a*v (PyTorch's form: a is outside the velocity;
      Keras keeps it inside, which differs when a changes). Nesterov: w -= a*(g + momentum*v).
    - 'adam': g += d*w, then Kingma & Ba (2015), algorithm 1.
    - 'adamw': Adam, and w -= a*d*w besides (Loshchilov & Hutter 2019; a multiplies d, as in
      PyTorch).
    - 'lamb': You et al. (2020), algorithm 2: AdamW's step scaled to the norm of each parameter
      array. The ratio is 1 where either norm is 0, and for what `no_decay` matches, as in apex and
      timm for what does not decay; optax.lamb scales that too.
    - 'lars': `scale_by_lars`, which decays and scales, then momentum as in 'sgd'.
    - 'lion': Chen et al. (2023), algorithm 2: w -= a*(sign(b1*m + (1-b1)*g) + d*w), and then
      m = b2*m + (1-b2)*g.
    - 'rmsprop': g += d*w; s = r*s + (1-r)*g^2; v = momentum*v + g/(sqrt(s) + eps); w -= a*v. The
      default momentum of 0.9 applies; 0 is the plain form. s is 0 at first (PyTorch's form), or
      with `rmsprop_tf` 1, and the root that of s + eps, as in TensorFlow and timm's rmsproptf
      (which keep a inside v).
    - 'muon': the kernels that `muon_params` matches: v = momentum*v + g; w -= a*(O(v) + d*w), with
      O as in `muon.scale_by_orthogonalizing`, of g + momentum*v with Nesterov. The rest is
      'sgd' with `sgd_momentum`. Weights are normalised by `muon.project`, not here.

    'eps_hat' (adam and adamw) is the form at the end of section 2 of Kingma & Ba, used by Keras
    and TensorFlow: a * sqrt(1-b2^t)/(1-b1^t) * m/(sqrt(v) + eps).

    A factor f of `lr_factors` makes it g = f*g + d*w in 'sgd', where only the gradient is scaled,
    and multiplies the whole update, w -= a*f*u, elsewhere. With f = 0 nothing moves the parameter.
    What `freeze` matches has no state, no part in the norm that is clipped, and no update.
    `layer_decay` multiplies whole updates, in 'sgd' too; see `depth`. With `schedule_free` there is
    no momentum here, that of sgd and beta1 of adamw being its own; see `averaging.schedule_free`.

    Args:
      cfg: the config's `optim` section.

    Returns:
      An optax transformation whose `update` needs `params`, and returns u where the update of the
      parameters is -a*u.

    Raises:
      UsageError: unknown optimizer, or a pattern that is no regular expression.
    """
    for key in ("no_decay", "freeze", "muon_params"):  # named here, not while tracing a step
        masks.matching({}, cfg[key], f"optim.{key}")
    masks.lr_factors({}, cfg.lr_factors)
    # The stage is there when off too, so that a run can go on with clipping switched on.
    clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity()
    factors = masks.scale_by_lr_factors(cfg.lr_factors if cfg.name == "sgd" else ())
    tx = optax.chain(optax.chain(clip, factors), *_core(cfg))
    if cfg.freeze:
        tx = optax.partition(
            {"trained": tx, "frozen": optax.set_to_zero()}, lambda params: _labels(cfg, params)
        )
    # Last and outside: the depth of a layer counts the frozen ones too.
    return optax.chain(tx, depth.scale_by_layer(cfg.layer_decay)) if cfg.layer_decay < 1 else tx


def _labels(cfg: Any, params: Any) -> Any:
    frozen = masks.matching(params, cfg.freeze, "optim.freeze")
    return jax.tree.map(lambda f: "frozen" if f else "trained", frozen)


def _core(cfg: Any) -> list[optax.GradientTransformation]:
    """Returns the stages after clipping."""
    mask = cast(Any, lambda params: _decays(cfg, params))
    decay = [optax.add_decayed_weights(cfg.weight_decay, mask=mask)] if cfg.weight_decay else []
    factors = masks.scale_by_lr_factors(cfg.lr_factors)
    momentum = _momentum(0.0 if cfg.schedule_free else cfg.momentum, cfg.nesterov)
    beta1 = 0.0 if cfg.schedule_free else cfg.beta1
    adam = scale_by_adam(beta1, cfg.beta2, cfg.eps, cfg.eps_hat)

    if cfg.name == "sgd":
        return [*decay, *momentum]  # the factors come before
    if cfg.name == "adam":
        return [*decay, adam, factors]
    if cfg.name == "adamw":
        return [adam, *decay, factors]
    if cfg.name == "lamb":
        plain = scale_by_adam(cfg.beta1, cfg.beta2, cfg.eps)
        trust = optax.masked(optax.scale_by_trust_ratio(), mask)
        return [plain, *decay, trust, factors]
    if cfg.name == "rmsprop":
        tf = cfg.rmsprop_tf
        rms = optax.scale_by_rms(cfg.rmsprop_decay, cfg.eps, float(tf), eps_in_sqrt=tf)
        return [*decay, rms, *momentum, factors]
    if cfg.name == "lars":
        lars = scale_by_lars(cfg.lars_coefficient, cfg.weight_decay, mask)
        return [lars, *momentum, factors]
    if cfg.name == "lion":
        return [optax.scale_by_lion(cfg.beta1, cfg.beta2), *decay, factors]
    if cfg.name == "muon":
        orthogonal = muon.scale_by_orthogonalizing(cfg.muon_steps, jnp.dtype(cfg.muon_dtype))

        def labels(params: Any) -> Any:
            chosen = muon.matrices(cfg, params)
            return jax.tree.map(lambda c: "matrix" if c else "other", chosen)

        matrix = optax.chain(*momentum, orthogonal, *decay, factors)
        other = optax.chain(factors, *decay, *_momentum(cfg.sgd_momentum, cfg.nesterov))
        return [optax.partition({"matrix": matrix, "other": other}, labels)]
    raise UsageError(
        f"optim.name={cfg.name!r} is not one of 'sgd', 'adam', 'adamw', 'lamb', 'lars', 'lion', "
        "'rmsprop', 'muon'."
    )


def _momentum(momentum: float, nesterov: bool) -> list[optax.GradientTransformation]:
    return [optax.trace(momentum, nesterov=nesterov)] if momentum else []


def _decays(cfg: Any, params: Any) -> Any:
    """Returns the decay mask, without what a learning-rate factor of 0 keeps where it is."""
    decays = masks.decay_mask(params, cfg.no_decay)
    factors = masks.lr_factors(params, cfg.lr_factors)
    return jax.tree.map(lambda d, f: d and f > 0, decays, factors)
