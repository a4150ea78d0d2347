"""Crops and mirrors of one picture, whole pixels or resampled; pure functions of a key.

Images are f32[h, w, C]. No colour and no targets here; `augment.py` says which is done when.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from imgclass.errors import UsageError


def center_crop(image: jax.Array, out_size: tuple[int, int]) -> jax.Array:
    """Takes the central window of [h, w, C]; an odd spare pixel is left below or to the right.

    Raises:
      UsageError: at trace time, if the window is larger than the picture.
    """
    (h, w), (height, width) = image.shape[:2], out_size
    _check_fits(out_size, (h, w))
    top, left = (h - height) // 2, (w - width) // 2
    return image[top : top + height, left : left + width]


def pad_crop(
    image: jax.Array,
    key: jax.Array,
    pad: int,
    mode: str,
    out_size: tuple[int, int],
) -> jax.Array:
    """Pads all four sides, then takes a window at a whole-pixel offset, each equally likely.

    Args:
      image: f32[h, w, C].
      key: key[].
      pad: pixels on each side.
      mode: 'constant' (black, as the field pads before it standardises) or 'reflect' (mirrored,
        the border pixel not repeated).
      out_size: (height, width) of the window.

    Returns:
      f32[height, width, C].

    Raises:
      UsageError: at trace time, if the window does not fit.
    """
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    _check_fits(out_size, padded.shape[:2])
    spare = jnp.array([padded.shape[0] - out_size[0], padded.shape[1] - out_size[1]], jnp.int32)
    top, left = jax.random.randint(key, (2,), 0, spare + 1, jnp.int32)
    return jax.lax.dynamic_slice(padded, (top, left, 0), (*out_size, image.shape[2]))


def _check_fits(out_size: tuple[int, int], size: tuple[int, ...]) -> None:
    if out_size[0] > size[0] or out_size[1] > size[1]:
        raise UsageError(
            f"data.image_size is {out_size[0]}x{out_size[1]} but the picture to crop it from is "
            f"{size[0]}x{size[1]}. Raise data.load_size, or set augment.random_resized_crop."
        )


def random_resized_crop(
    image: jax.Array,
    key: jax.Array,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    out_size: tuple[int, int],
) -> jax.Array:
    """Resamples a random box to `out_size`: see `draw_box` and `resample`."""
    return resample(image, draw_box(key, image.shape[:2], scale, ratio), out_size)


def draw_box(
    key: jax.Array,
    size: tuple[int, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Draws the box of Inception-style cropping (Szegedy et al. 2015, section 6).

    As in torchvision the share of the area is uniform in `scale` and width/height log-uniform in
    `ratio`. torchvision tries again, up to 10 times, when that box does not fit; here it is shrunk
    to the largest one of that ratio which does. Its corner is uniform where it fits. Edges
    fall anywhere, not only between pixels.

    Args:
      key: key[].
      size: (h, w) of the picture.
      scale: least and greatest share of the picture's area.
      ratio: least and greatest width/height.

    Returns:
      f32[4]: top, left, height, width, in pixels.
    """
    h, w = float(size[0]), float(size[1])
    for_area, for_ratio, for_top, for_left = jax.random.split(key, 4)
    area = h * w * _uniform(for_area, scale[0], scale[1])
    aspect = jnp.exp(_uniform(for_ratio, math.log(ratio[0]), math.log(ratio[1])))
    height, width = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
    fit = jnp.minimum(1.0, jnp.minimum(h / height, w / width))
    height, width = height * fit, width * fit
    top = (h - height) * _uniform(for_top, 0.0, 1.0)
    left = (w - width) * _uniform(for_left, 0.0, 1.0)
    return jnp.stack([top, left, height, width])


def _uniform(key: jax.Array, low: Any, high: Any) -> jax.Array:
    return jax.random.uniform(key, (), jnp.float32, low, high)


def resample(image: jax.Array, box: jax.Array, out_size: tuple[int, int]) -> jax.Array:
    """Resamples a box of the picture to `out_size`, bilinearly.

    Where that makes it smaller the triangle is widened to match (antialiasing), as PIL does. Near
    the box's edge the filter sees the picture beyond it, where torchvision has cut it off.

    Args:
      image: f32[h, w, C].
      box: f32[4]: top, left, height, width, in pixels, inside the picture.
      out_size: (height, width).

    Returns:
      f32[height, width, C], clipped to [0, 1], for weights add up to 1 only to rounding.
    """
    factors = jnp.array(out_size, jnp.float32) / box[2:]
    resampled = jax.image.scale_and_translate(
        image,
        (*out_size, image.shape[2]),
        (0, 1),
        factors,
        -box[:2] * factors,
        method="bilinear",
        antialias=True,
    )
    return jnp.clip(resampled, 0.0, 1.0)


def resized(image: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resamples the whole picture to `size`: see `resample`."""
    h, w = image.shape[:2]
    return resample(image, jnp.array([0, 0, h, w], jnp.float32), size)


def mirror(image: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Mirrors [h, w, C] left to right where bool[] `mirrored` is true."""
    return jnp.where(mirrored, image[:, ::-1], image)


def alternating_sides(key: jax.Array, index: jax.Array, epoch: jax.Array) -> jax.Array:
    """Returns which rows to mirror so that both sides of an example are seen in turn.

    Args:
      key: key[], the same all run; with `index` it decides which side comes first.
      index: i32[batch], each row's example.
      epoch: i32[batch], from 0; the side changes with each.

    Returns:
      bool[batch].

    Source: Jordan (2024), arXiv:2404.00498, section 3.6.
    """
    first = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(index)
    return first ^ (epoch % 2 == 1)
