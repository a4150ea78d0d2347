"""Augmentation policies: which operations a picture gets, and how much of each.

RandAugment in torchvision's form and in timm's, TrivialAugment, AutoAugment's three policies and
AugMix. A picture's draws come from its own key. The operations are in `operations.py`; nothing
here knows of batches. Pictures are rounded to whole levels first, as files hold them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from imgclass.data import autoaugment, operations

# What a level from 0 to 1 means to each operation, in the order of the names beside it: the
# amount's middle and how far a fair coin moves it up or down.
Scale = tuple[jax.Array, jax.Array]
# (operations i32[n], amounts f32[n])
Draws = tuple[jax.Array, jax.Array]

_STANDARD = (
    "identity", "shear_x", "shear_y", "shift_x", "shift_y", "rotate", "brightness", "saturation",
    "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize", "invert",
)  # fmt: skip
_RAND = _STANDARD[:-1]  # torchvision's: all but invert
_INCREASING = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add",
    "saturation", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "shift_x", "shift_y",
)  # fmt: skip
_AUGMIX = (  # the paper leaves out what ImageNet-C tests with
    "autocontrast", "equalize", "posterize", "rotate", "solarize", "shear_x", "shear_y", "shift_x",
    "shift_y",
)  # fmt: skip
_CHAINS, _LONGEST = 3, 3  # of AugMix


def apply(image: jax.Array, key: jax.Array, cfg: Any, fill: jax.Array) -> jax.Array:
    """Does to a picture what the config's policy draws for it.

    Args:
      image: f32[h, w, C], in [0, 1].
      key: key[].
      cfg: the config's `augment` section; `policy` is not 'none'.
      fill: f32[C], in [0, 1], for what policy_fill='mean' brings in from outside.

    Returns:
      f32[h, w, C], in [0, 1].
    """
    levels = jnp.round(image * 255.0)
    outside = jnp.round(fill * 255.0) if cfg.policy_fill == "mean" else jnp.zeros_like(fill)

    run = functools.partial(_in_turn, fill=outside, interpolation=cfg.policy_interpolation)
    if cfg.policy == "augmix":
        share, weights, draws = draw_chains(key, cfg.augmix_severity, image.shape[:2])
        chains = jax.vmap(run, (None, 0))(levels, draws)
        blend = jnp.sum(weights[:, None, None, None] * chains, axis=0)
        levels = (1.0 - share) * levels + share * blend
    else:
        levels = run(levels, draw(key, cfg, image.shape[:2]))
    return levels / 255.0


def _in_turn(levels: jax.Array, draws: Draws, fill: jax.Array, interpolation: str) -> jax.Array:
    def one(levels: jax.Array, drawn: Draws) -> tuple[jax.Array, None]:
        return operations.operate(levels, *drawn, fill, interpolation), None

    return jax.lax.scan(one, levels, draws)[0]


def draw(key: jax.Array, cfg: Any, size: tuple[int, ...]) -> Draws:
    """Draws a picture's operations, by any policy but AugMix.

    Args:
      key: key[].
      cfg: the config's `augment` section.
      size: height and width of the picture, which shifts are shares of.
    """
    if cfg.policy in autoaugment.PAIRS:
        return _auto(key, cfg.policy, size)

    count = 1 if cfg.policy == "trivial_wide" else cfg.policy_ops
    for_noise, key = jax.random.split(key)
    noise = jax.random.normal(for_noise, (count,), jnp.float32)

    def one(uniform: jax.Array, noise: jax.Array) -> Draws:
        if cfg.policy == "trivial_wide":
            return _choose(uniform, _RAND, _standard(jnp.floor(31 * uniform[2]) / 30.0, size, True))
        if cfg.policy == "rand":
            return _choose(uniform, _RAND, _standard(jnp.float32(cfg.policy_magnitude / 30), size))
        level = jnp.clip((cfg.policy_magnitude + cfg.policy_std * noise) / 10.0, 0.0, 1.0)
        operation, amount = _choose(uniform, _INCREASING, _increasing(level, size))
        return jnp.where(uniform[2] < 0.5, operation, 0), amount

    return jax.vmap(one)(jax.random.uniform(key, (count, 3), jnp.float32), noise)


def _choose(uniform: jax.Array, names: tuple[str, ...], scale: Scale) -> Draws:
    """One of the names, each as likely, and its amount with a fair sign; uses two draws."""
    numbers = jnp.array([operations.NUMBER[name] for name in names], jnp.int32)
    place = jnp.floor(len(names) * uniform[0]).astype(jnp.int32)
    sign = jnp.where(uniform[1] < 0.5, 1.0, -1.0)
    middle, spread = scale
    return numbers[place], middle[place] + sign * spread[place]


def _scale(names: tuple[str, ...], table: dict[str, tuple[Any, Any]]) -> Scale:
    rows = [table.get(name, (0.0, 0.0)) for name in names]
    middle = jnp.stack([jnp.asarray(row[0], jnp.float32) for row in rows])
    return middle, jnp.stack([jnp.asarray(row[1], jnp.float32) for row in rows])


def _standard(level: jax.Array, size: tuple[int, ...], wide: bool = False) -> Scale:
    """torchvision's magnitudes, for `_STANDARD`; wide: TrivialAugmentWide's."""
    share = 150.0 / 331.0
    down, right = (32.0, 32.0) if wide else (share * size[0], share * size[1])
    shear, degrees, colour, bits = (0.99, 135.0, 0.99, 6.0) if wide else (0.3, 30.0, 0.9, 4.0)
    table: dict[str, tuple[Any, Any]] = {
        "shear_x": (0.0, shear * level),
        "shear_y": (0.0, shear * level),
        "shift_x": (0.0, jnp.floor(right * level)),
        "shift_y": (0.0, jnp.floor(down * level)),
        "rotate": (0.0, degrees * level),
        "posterize": (8.0 - jnp.round(bits * level), 0.0),
        "solarize": (255.0 - 255.0 * level, 0.0),
    }
    for name in ("brightness", "saturation", "contrast", "sharpness"):
        table[name] = (1.0, colour * level)
    return _scale(_STANDARD, table)


def _increasing(level: jax.Array, size: tuple[int, ...]) -> Scale:
    """timm's magnitudes, all of which do more at a higher level, for `_INCREASING`."""
    table: dict[str, tuple[Any, Any]] = {
        "rotate": (0.0, 30.0 * level),
        "posterize": (4.0 - jnp.floor(4.0 * level), 0.0),
        "solarize": (256.0 - jnp.floor(256.0 * level), 0.0),
        "solarize_add": (jnp.floor(110.0 * level), 0.0),
        "shear_x": (0.0, 0.3 * level),
        "shear_y": (0.0, 0.3 * level),
        "shift_x": (0.0, 0.45 * size[1] * level),
        "shift_y": (0.0, 0.45 * size[0] * level),
    }
    for name in ("saturation", "contrast", "brightness", "sharpness"):
        table[name] = (1.0, 0.9 * level)
    return _scale(_INCREASING, table)


def _auto(key: jax.Array, policy: str, size: tuple[int, ...]) -> Draws:
    """One of a policy's pairs, each operation of it with its own probability."""
    pairs = autoaugment.PAIRS[policy]
    uniform = jax.random.uniform(key, (5,), jnp.float32)  # the pair, two chances, two signs
    place = jnp.floor(len(pairs) * uniform[0]).astype(jnp.int32)
    numbers = jnp.array([[operations.NUMBER[o] for o, _, _ in pair] for pair in pairs], jnp.int32)
    chances = jnp.array([[chance for _, chance, _ in pair] for pair in pairs], jnp.float32)
    levels = jnp.array([[level / 9.0 for _, _, level in pair] for pair in pairs], jnp.float32)
    rows = jnp.array([[_STANDARD.index(o) for o, _, _ in pair] for pair in pairs], jnp.int32)
    middle, spread = jax.vmap(lambda level: _standard(level, size))(levels[place])
    both, row = jnp.arange(2), rows[place]
    sign = jnp.where(uniform[3:] < 0.5, 1.0, -1.0)
    used = uniform[1:3] < chances[place]
    amounts = middle[both, row] + sign * spread[both, row]
    return jnp.where(used, numbers[place], 0), amounts


def draw_chains(
    key: jax.Array, severity: float, size: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, Draws]:
    """Draws AugMix: three chains of one to three operations each, and how they are blended.

    Args:
      key: key[].
      severity: greatest magnitude, of 10.
      size: height and width of the picture, which shifts are shares of.

    Returns:
      f32[]: the share of the blend of the chains, the rest being the picture itself; f32[3]: the
      chains' weights in it; operations i32[3, 3] and amounts f32[3, 3], a row for each chain.

    Source: Hendrycks et al. (2020), arXiv:1912.02781, figure 4, and its program's magnitudes.
    """
    for_weights, for_share, for_chains = jax.random.split(key, 3)

    def one(uniform: jax.Array) -> Draws:
        level = (0.1 + (severity - 0.1) * uniform[2]) / 10.0
        table: dict[str, tuple[Any, Any]] = {
            "posterize": (4.0 - jnp.floor(4.0 * level), 0.0),
            "rotate": (0.0, jnp.floor(30.0 * level)),
            "solarize": (256.0 - jnp.floor(256.0 * level), 0.0),
            "shear_x": (0.0, 0.3 * level),
            "shear_y": (0.0, 0.3 * level),
            "shift_x": (0.0, jnp.floor(size[1] / 3.0 * level)),
            "shift_y": (0.0, jnp.floor(size[0] / 3.0 * level)),
        }
        return _choose(uniform, _AUGMIX, _scale(_AUGMIX, table))

    def chain(uniform: jax.Array) -> Draws:
        length = 1 + jnp.floor(_LONGEST * uniform[0, 3]).astype(jnp.int32)
        numbers, amounts = jax.vmap(one)(uniform)
        return jnp.where(jnp.arange(_LONGEST) < length, numbers, 0), amounts

    uniform = jax.random.uniform(for_chains, (_CHAINS, _LONGEST, 4), jnp.float32)
    share = jax.random.uniform(for_share, (), jnp.float32)  # Beta(1, 1)
    weights = jax.random.exponential(for_weights, (_CHAINS,), jnp.float32)
    weights = weights / jnp.sum(weights)  # Dirichlet(1, 1, 1)
    return share, weights, jax.vmap(chain)(uniform)
