"""Blanking part of a picture: cutout and random erasing.

Pure functions of a key. Images are f32[h, w, C] in [0, 1].
"""

import jax
import jax.numpy as jnp


def cutout(
    image: jax.Array, key: jax.Array, side: int, fill: jax.Array, inside: bool = False
) -> jax.Array:
    """Fills a square with `fill`.

    Args:
      image: f32[h, w, C].
      key: key[].
      side: pixels. The square covers [centre - side // 2, centre - side // 2 + side) each way.
      fill: f32[C].
      inside: False: the centre is any pixel, and what hangs over the edge is lost (DeVries &
        Taylor 2017, arXiv:1708.04552). True: the whole square is in the picture, every place
        equally likely (airbench96; Jordan 2024, arXiv:2404.00498).

    Returns:
      f32[h, w, C].
    """
    h, w = image.shape[:2]
    low = side // 2 if inside else 0
    spare = side - 1 if inside else 0  # fewer centres than pixels
    high = jnp.array([low + h - spare, low + w - spare], jnp.int32)
    centre = jax.random.randint(key, (2,), low, high, jnp.int32)
    cut = window(centre, jnp.full(2, side, jnp.int32), (h, w))
    return jnp.where(cut[..., None], fill[None, None, :], image)


def random_erasing(
    image: jax.Array,
    key: jax.Array,
    probability: float,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    fill: jax.Array | None,
) -> jax.Array:
    """Blanks a rectangle of random area and shape, some of the time.

    As in torchvision and timm up to ten rectangles are drawn and the first that is smaller than
    the picture both ways is used, anywhere inside; if none is, nothing is blanked.

    Args:
      image: f32[h, w, C], in [0, 1].
      key: key[].
      probability: of doing it.
      scale: least and greatest share of the picture's area.
      ratio: least and greatest height/width, drawn log-uniformly.
      fill: f32[C]; None draws each pixel and channel from [0, 1].

    Returns:
      f32[h, w, C], in [0, 1].

    Source: Zhong et al. (2020), arXiv:1708.04896.
    """
    h, w = image.shape[:2]
    for_noise, key = jax.random.split(key)
    draws = jax.random.uniform(key, (23,), jnp.float32)  # areas, shapes, corner, whether
    area = h * w * (scale[0] + (scale[1] - scale[0]) * draws[:10])
    low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
    shape = jnp.exp(low + (high - low) * draws[10:20])
    sides = jnp.round(jnp.stack([jnp.sqrt(area * shape), jnp.sqrt(area / shape)], 1))
    size = jnp.array([h, w], jnp.float32)
    fits = jnp.all(sides < size[None, :], axis=1)
    used = jnp.any(fits) & (draws[22] < probability)
    chosen = jnp.where(used, sides[jnp.argmax(fits)], 0.0)
    start = jnp.floor(draws[20:22] * (size - chosen + 1.0))
    chosen, start = chosen.astype(jnp.int32), start.astype(jnp.int32)
    blanked = window(start + chosen // 2, chosen, (h, w))
    if fill is None:
        return jnp.where(
            blanked[..., None], jax.random.uniform(for_noise, image.shape, jnp.float32), image
        )
    return jnp.where(blanked[..., None], fill[None, None, :], image)


def window(centre: jax.Array, sides: jax.Array, size: tuple[int, int]) -> jax.Array:
    """bool[h, w]: the pixels of a window of i32[2] sides about a centre, clipped at the edges."""
    start = centre - sides // 2
    rows, columns = jnp.arange(size[0], dtype=jnp.int32), jnp.arange(size[1], dtype=jnp.int32)
    in_rows = (rows >= start[0]) & (rows < start[0] + sides[0])
    in_columns = (columns >= start[1]) & (columns < start[1] + sides[1])
    return in_rows[:, None] & in_columns[None, :]
