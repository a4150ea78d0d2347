"""The operations that augmentation policies choose from, with Pillow's arithmetic.

Pictures are levels: f32[h, w, C] of whole numbers from 0 to 255. Under `vmap` every row may do
another operation, and a choice between branches computes them all. So what operations share is
done once for all of them: one warp, one histogram and one 3 x 3 filter a picture, whichever its
operation is. Which operation, and how much of it, is for `policies.py`.
"""

import jax
import jax.numpy as jnp

from imgclass.data import warp

# The number of an operation and what its amount means.
NAMES = (
    "identity",
    "shear_x",  # pixels to the left, a row down
    "shear_y",  # pixels up, a column to the right
    "shift_x",  # pixels to the right
    "shift_y",  # pixels down
    "rotate",  # degrees, anticlockwise
    "brightness",  # factor: 0 is black, 1 the picture
    "contrast",  # factor: 0 is the mean grey level
    "saturation",  # factor: 0 is grey
    "sharpness",  # factor: 0 is smoothed
    "posterize",  # bits kept
    "solarize",  # levels from this one on are inverted
    "solarize_add",  # levels below 128 are raised by this
    "autocontrast",  # none
    "equalize",  # none
    "invert",  # none
)
NUMBER = {name: number for number, name in enumerate(NAMES)}
_LEVELS = 256


def operate(
    image: jax.Array, operation: jax.Array, amount: jax.Array, fill: jax.Array, interpolation: str
) -> jax.Array:
    """Does one operation.

    Args:
      image: f32[h, w, C], whole levels.
      operation: i32[], a place in `NAMES`.
      amount: f32[], see there.
      fill: f32[C], whole levels, for what a warp brings in from outside.
      interpolation: 'nearest' or 'bilinear', for warps.

    Returns:
      f32[h, w, C], whole levels.
    """
    # Side by side and not one after the other: XLA would compute each again for every pixel of the
    # next that asks for it, five times slower on a CPU.
    warped = _warped(image, operation, amount, fill, interpolation)
    blended = _blended(image, operation, amount)
    mapped = _mapped(image, operation, amount)
    moves = (operation >= NUMBER["shear_x"]) & (operation <= NUMBER["rotate"])
    maps = operation >= NUMBER["posterize"]
    return jnp.where(moves, warped, jnp.where(maps, mapped, blended))


def _is(operation: jax.Array, name: str) -> jax.Array:
    return operation == NUMBER[name]


def _warped(
    image: jax.Array, operation: jax.Array, amount: jax.Array, fill: jax.Array, interpolation: str
) -> jax.Array:
    def given(name: str) -> jax.Array:
        return jnp.where(_is(operation, name), amount, 0.0)

    affine = warp.matrix(
        image.shape[:2],
        shear_x=given("shear_x"),
        shear_y=given("shear_y"),
        right=given("shift_x"),
        down=given("shift_y"),
        degrees=given("rotate"),
    )
    return jnp.floor(warp.warp(image, affine, fill, interpolation))  # as Pillow casts


def _mapped(image: jax.Array, operation: jax.Array, amount: jax.Array) -> jax.Array:
    """What a level becomes by itself, or by how often each occurs in its channel."""
    unit = jnp.exp2(8.0 - amount)
    mapped = image
    for name, other in (
        ("posterize", jnp.floor(image / unit) * unit),
        ("solarize", jnp.where(image < amount, image, 255.0 - image)),
        ("solarize_add", jnp.where(image < 128.0, jnp.minimum(image + amount, 255.0), image)),
        ("invert", 255.0 - image),
        ("autocontrast", _stretched(image)),
        ("equalize", _equalized(image)),
    ):
        mapped = jnp.where(_is(operation, name), other, mapped)
    return mapped


def _stretched(image: jax.Array) -> jax.Array:
    """Each channel from its least level to black and from its greatest to white."""
    level = image.astype(jnp.int32)
    low, high = (end(level, axis=(0, 1), keepdims=True) for end in (jnp.min, jnp.max))
    # In whole numbers: Pillow multiplies by a rounded scale, and is now and then a level lower.
    stretched = (level - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, level).astype(jnp.float32)


def _equalized(image: jax.Array) -> jax.Array:
    """Each channel's levels spread evenly."""
    channels = image.shape[2]
    starts = _LEVELS * jnp.arange(channels, dtype=jnp.int32)[None, None, :]
    level = image.astype(jnp.int32)
    counts = jnp.zeros(_LEVELS * channels, jnp.int32)
    counts = counts.at[(level + starts).reshape(-1)].add(1, mode="promise_in_bounds")
    below = jnp.cumsum(counts.reshape(channels, _LEVELS), axis=1).reshape(-1) - counts
    greatest = jnp.max(level, axis=(0, 1), keepdims=True)
    # As many pixels as are not of the greatest level, over 255 steps.
    step = below.at[greatest + starts].get(mode="promise_in_bounds") // 255
    darker = below.at[level + starts].get(mode="promise_in_bounds")
    equalized = jnp.minimum((step // 2 + darker) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, equalized, level).astype(jnp.float32)


def _blended(image: jax.Array, operation: jax.Array, amount: jax.Array) -> jax.Array:
    grey = _grey(image)
    mean = jnp.floor(jnp.mean(grey, keepdims=True) + 0.5)
    poor = jnp.zeros_like(image)
    for name, other in (("contrast", mean), ("saturation", grey), ("sharpness", _smooth(image))):
        poor = jnp.where(_is(operation, name), other, poor)
    used = (operation >= NUMBER["brightness"]) & (operation <= NUMBER["sharpness"])
    factor = jnp.where(used, amount, 1.0)
    return jnp.clip(jnp.floor(poor + factor * (image - poor)), 0.0, 255.0)


def _grey(image: jax.Array) -> jax.Array:
    """f32[h, w, 1]: Pillow's mode 'L', in its fixed-point arithmetic; unless C is 3, the mean."""
    if image.shape[2] != 3:
        return jnp.floor(jnp.mean(image, axis=2, keepdims=True) + 0.5)
    weights = jnp.array([19595, 38470, 7471], jnp.int32)[None, None, :]
    total = jnp.sum(image.astype(jnp.int32) * weights, axis=2, keepdims=True)
    return ((total + 0x8000) >> 16).astype(jnp.float32)


def _smooth(image: jax.Array) -> jax.Array:
    """The mean of 3 x 3 pixels, the middle one counted five times; the border is left as it is."""
    h, w = image.shape[:2]
    if h < 3 or w < 3:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4.0 * image[1:-1, 1:-1]
    around = ((1, 1), (1, 1), (0, 0))
    inner = jnp.pad(jnp.ones((h - 2, w - 2, 1), bool), around)
    return jnp.where(inner, jnp.pad(jnp.floor(total / 13.0 + 0.5), around), image)
