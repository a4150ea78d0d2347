"""The operations that augmentation policies choose from, with Pillow's arithmetic.

Pictures are levels: f32[h, w, C] of whole numbers from 0 to 255. Under `vmap` every row may do
another operation, and a choice between branches would compute them all. So there is one path for
all: a warp, then a table looked up, then a blend, of which an operation sets one and leaves the
others as they change nothing. One operation costs a picture one warp, one histogram and a 3 x 3
filter, whichever it is. Which operation, and how much of it, is for `policies.py`.
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
    image = _warped(image, operation, amount, fill, interpolation)
    image = _looked_up(image, _tables(image, operation, amount))
    return _blended(image, operation, amount)


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


def _tables(image: jax.Array, operation: jax.Array, amount: jax.Array) -> jax.Array:
    """f32[C, 256]: what each level of a channel becomes."""
    level = jnp.arange(_LEVELS, dtype=jnp.float32)[None, :]
    unit = jnp.exp2(8.0 - amount)
    table = jnp.broadcast_to(level, (image.shape[2], _LEVELS))
    for name, other in (
        ("posterize", jnp.floor(level / unit) * unit),
        ("solarize", jnp.where(level < amount, level, 255.0 - level)),
        ("solarize_add", jnp.where(level < 128.0, jnp.minimum(level + amount, 255.0), level)),
        ("invert", 255.0 - level),
        ("autocontrast", _stretched(image, level)),
        ("equalize", _equalized(image)),
    ):
        table = jnp.where(_is(operation, name), other, table)
    return table


def _stretched(image: jax.Array, level: jax.Array) -> jax.Array:
    """f32[C, 256]: from the least level to black and from the greatest to white."""
    low, high = (end(image, axis=(0, 1))[:, None].astype(jnp.int32) for end in (jnp.min, jnp.max))
    level = level.astype(jnp.int32)
    # In whole numbers: Pillow multiplies by a rounded scale, and is now and then a level lower.
    stretched = jnp.clip((level - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, level).astype(jnp.float32)


def _equalized(image: jax.Array) -> jax.Array:
    """f32[C, 256]: the table that spreads a channel's levels evenly."""
    channels = image.shape[2]
    counts = jnp.zeros(_LEVELS * channels, jnp.int32)
    counts = counts.at[_places(image).reshape(-1)].add(1, mode="promise_in_bounds")
    counts = counts.reshape(channels, _LEVELS)
    greatest = jnp.max(image, axis=(0, 1)).astype(jnp.int32)
    last = jnp.take_along_axis(counts, greatest[:, None], axis=1)
    step = (jnp.sum(counts, axis=1, keepdims=True) - last) // 255
    below = jnp.cumsum(counts, axis=1) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    level = jnp.arange(_LEVELS, dtype=jnp.int32)[None, :]
    return jnp.where(step > 0, table, level).astype(jnp.float32)


def _looked_up(image: jax.Array, tables: jax.Array) -> jax.Array:
    return tables.reshape(-1).at[_places(image)].get(mode="promise_in_bounds")


def _places(image: jax.Array) -> jax.Array:
    """i32[h, w, C]: where each level stands in the tables of all channels, one after the other."""
    starts = _LEVELS * jnp.arange(image.shape[2], dtype=jnp.int32)
    return image.astype(jnp.int32) + starts[None, None, :]


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
