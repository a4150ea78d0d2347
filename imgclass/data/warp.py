"""Affine changes of one picture: shear, shift and turn, sampled as Pillow samples.

A matrix (a, b, c, d, e, f) takes the place of an output pixel to the place in the input that it
shows: x' = a x + b y + c, y' = d x + e y + f, places in pixels from the top left corner, so that
pixel (row, column) has its centre at (column + 0.5, row + 0.5). That is `PIL.Image.transform`'s.
"""

import jax
import jax.numpy as jnp


def matrix(
    size: tuple[int, ...],
    *,
    shear_x: jax.Array,
    shear_y: jax.Array,
    right: jax.Array,
    down: jax.Array,
    degrees: jax.Array,
) -> jax.Array:
    """Returns f32[6] of one change; of the amounts, each f32[], at most one is not 0.

    Args:
      size: height and width of the picture.
      shear_x: pixels to the left that each row is shifted, for every row above it.
      shear_y: pixels up that each column is shifted, for every column before it.
      right: pixels.
      down: pixels.
      degrees: anticlockwise, about the middle.
    """
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = size[1] / 2.0, size[0] / 2.0
    first = (cos, shear_x - sin, x - cos * x + sin * y - right)
    second = (shear_y + sin, cos, y - sin * x - cos * y - down)
    return jnp.stack(first + second)


def warp(image: jax.Array, affine: jax.Array, fill: jax.Array, interpolation: str) -> jax.Array:
    """Samples [h, w, C] at the places that a matrix names.

    Args:
      image: f32[h, w, C].
      affine: f32[6], from `matrix`.
      fill: f32[C], for places outside the picture.
      interpolation: 'nearest' or 'bilinear'; within half a pixel of the edge the latter takes the
        edge's pixels, as Pillow does, and not a blend with `fill`.

    Returns:
      f32[h, w, C].
    """
    h, w = image.shape[:2]
    a, b, c, d, e, f = affine
    column = jnp.arange(w, dtype=jnp.float32)[None, :] + 0.5
    row = jnp.arange(h, dtype=jnp.float32)[:, None] + 0.5
    x, y = a * column + b * row + c, d * column + e * row + f
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    if interpolation == "nearest":
        sampled = _at(image, jnp.floor(y), jnp.floor(x))
    else:
        x, y = x - 0.5, y - 0.5
        left, top = jnp.floor(x), jnp.floor(y)
        right, low = (x - left)[..., None], (y - top)[..., None]
        above = _between(_at(image, top, left), _at(image, top, left + 1), right)
        below = _between(_at(image, top + 1, left), _at(image, top + 1, left + 1), right)
        sampled = _between(above, below, low)
    return jnp.where(inside[..., None], sampled, fill[None, None, :])


def _at(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """The pixels nearest to whole places, f32[h, w] each."""
    h, w, channels = image.shape
    row, column = jnp.clip(row, 0, h - 1), jnp.clip(column, 0, w - 1)
    place = row.astype(jnp.int32) * w + column.astype(jnp.int32)
    return image.reshape(h * w, channels).at[place].get(mode="promise_in_bounds")


def _between(one: jax.Array, other: jax.Array, part: jax.Array) -> jax.Array:
    return one + (other - one) * part
