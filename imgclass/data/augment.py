"""Augmentation on the device: pure functions of a picture, a key and an amount.

`augment` is called inside the jitted train step. Every row draws from its own key, so what happens
to an example depends on (seed, step, row) alone, not on the other rows; only mixup and cutmix join
rows. Another layout of the batch over devices makes the same crops, flips, cuts and pastes bit for
bit; blended values (colour, resampling, mixup) may differ in the last place, as XLA rounds a fused
multiply-add once. Each operation draws from its own branch of the row's key, so switching one on
leaves the draws of the others as they were, and one that is off is not in the compiled program at
all. Nothing here decodes, standardises or is used in evaluation.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from imgclass.data import colour
from imgclass.errors import UsageError

# Branches of a row's key. The order is part of what a seed means: append, never renumber.
_CROP, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _CUTOUT = range(7)


def augment(
    images: jax.Array,
    targets: jax.Array,
    keys: jax.Array,
    batch_key: jax.Array,
    cfg: Any,
    out_size: tuple[int, int],
    fill: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Augments one training batch, in this order, each where the config asks for it.

    1. random_resized_crop, or pad_crop, or else the central window of `out_size`;
    2. horizontal flip; 3. brightness, contrast, saturation, hue, in this fixed order (torchvision
    shuffles the four for each picture); 4. cutout; 5. mixup or cutmix.

    Args:
      images: f32[batch, h, w, C], in [0, 1].
      targets: f32[batch, K], distributions over the classes.
      keys: key[batch], one a row.
      batch_key: key[], for the draws a batch shares.
      cfg: the config's `augment` section.
      out_size: (height, width) of the result.
      fill: f32[C], in [0, 1], for what cutout cuts out.

    Returns:
      (f32[batch, height, width, C] in [0, 1], f32[batch, K]). With everything off and (h, w)
      equal to `out_size` they are the arguments, bit for bit.

    Raises:
      UsageError: at trace time, if `out_size` does not fit in the (padded) picture.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        def branch(operation: int) -> jax.Array:
            return jax.random.fold_in(key, operation)

        if cfg.random_resized_crop:
            scale, ratio = cfg.crop_scale, cfg.crop_ratio
            image = random_resized_crop(image, branch(_CROP), scale, ratio, out_size)
        elif cfg.pad_crop:
            image = pad_crop(image, branch(_CROP), cfg.pad_crop, cfg.pad_mode, out_size)
        else:
            image = center_crop(image, out_size)
        if cfg.flip:
            image = random_flip(image, branch(_FLIP))
        if cfg.brightness:
            factor = colour.draw_factor(branch(_BRIGHTNESS), cfg.brightness)
            image = colour.adjust_brightness(image, factor)
        if cfg.contrast:
            factor = colour.draw_factor(branch(_CONTRAST), cfg.contrast)
            image = colour.adjust_contrast(image, factor)
        if cfg.saturation:
            factor = colour.draw_factor(branch(_SATURATION), cfg.saturation)
            image = colour.adjust_saturation(image, factor)
        if cfg.hue:
            turn = _uniform(branch(_HUE), -cfg.hue, cfg.hue)
            image = colour.adjust_hue(image, turn)
        if cfg.cutout:
            image = cutout(image, branch(_CUTOUT), cfg.cutout, fill)
        return image

    images = jax.vmap(one)(images, keys)
    if cfg.mixup_alpha or cfg.cutmix_alpha:
        images, targets = mix(images, targets, batch_key, cfg.mixup_alpha, cfg.cutmix_alpha)
    return images, targets


def _uniform(key: jax.Array, low: Any, high: Any) -> jax.Array:
    return jax.random.uniform(key, (), jnp.float32, low, high)


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


def random_flip(image: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors [h, w, C] left to right, half of the time."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def cutout(image: jax.Array, key: jax.Array, side: int, fill: jax.Array) -> jax.Array:
    """Fills a square with `fill`; its centre is any pixel, and what hangs over the edge is lost.

    Args:
      image: f32[h, w, C].
      key: key[].
      side: pixels. The square covers [centre - side // 2, centre - side // 2 + side) each way.
      fill: f32[C].

    Returns:
      f32[h, w, C].

    Source: DeVries & Taylor (2017), arXiv:1708.04552.
    """
    h, w = image.shape[:2]
    centre = jax.random.randint(key, (2,), 0, jnp.array([h, w], jnp.int32), jnp.int32)
    inside = _window(centre, jnp.full(2, side, jnp.int32), (h, w))
    return jnp.where(inside[..., None], fill[None, None, :], image)


def _window(centre: jax.Array, sides: jax.Array, size: tuple[int, int]) -> jax.Array:
    """bool[h, w]: the pixels of a window of i32[2] sides about a centre, clipped at the edges."""
    start = centre - sides // 2
    rows, columns = jnp.arange(size[0], dtype=jnp.int32), jnp.arange(size[1], dtype=jnp.int32)
    in_rows = (rows >= start[0]) & (rows < start[0] + sides[0])
    in_columns = (columns >= start[1]) & (columns < start[1] + sides[1])
    return in_rows[:, None] & in_columns[None, :]


def mix(
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[jax.Array, jax.Array]:
    """Mixes row i with row B-1-i, by mixup or cutmix; if both are on, a fair coin a batch.

    The rows of a batch are in random order already, so the reversed batch is as good a partner
    as a permuted one. One share lambda ~ Beta(alpha, alpha) serves the whole batch.

    Args:
      images: f32[batch, h, w, C].
      targets: f32[batch, K].
      key: key[].
      mixup_alpha: 0 for no mixup.
      cutmix_alpha: 0 for no cutmix.

    Returns:
      Mixed images and targets. A row's target is weighted by its true share of the picture.

    Sources: Zhang et al. (2018), arXiv:1710.09412; Yun et al. (2019), arXiv:1905.04899.
    """
    for_coin, for_share, for_centre = jax.random.split(key, 3)
    size = jnp.array(images.shape[1:3], jnp.int32)
    centre = jax.random.randint(for_centre, (2,), 0, size, jnp.int32)
    if not (mixup_alpha and cutmix_alpha):
        alpha = mixup_alpha or cutmix_alpha
        share = jax.random.beta(for_share, alpha, alpha, (), jnp.float32)
        if mixup_alpha:
            return mixup(images, targets, share)
        return cutmix(images, targets, share, centre)
    cut = jax.random.bernoulli(for_coin)
    either = jnp.where(cut, jnp.float32(cutmix_alpha), jnp.float32(mixup_alpha))
    share = jax.random.beta(for_share, either, either, (), jnp.float32)
    blended, pasted = mixup(images, targets, share), cutmix(images, targets, share, centre)
    return jnp.where(cut, pasted[0], blended[0]), jnp.where(cut, pasted[1], blended[1])


def mixup(images: jax.Array, targets: jax.Array, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Blends each row with its partner: share * own + (1 - share) * partner's, in [0, 1]."""
    blend = share * images + (1.0 - share) * images[::-1]
    return jnp.clip(blend, 0.0, 1.0), share * targets + (1.0 - share) * targets[::-1]


def cutmix(
    images: jax.Array, targets: jax.Array, share: jax.Array, centre: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Pastes a window of the partner into each row.

    Args:
      images: f32[batch, h, w, C].
      targets: f32[batch, K].
      share: f32[], wanted of the row itself; the window's sides are sqrt(1 - share) of the
        picture's, rounded down.
      centre: i32[2], row and column.

    Returns:
      Images, and targets weighted by the pixels left after the window was clipped at the edges.
    """
    h, w = images.shape[1:3]
    sides = (jnp.sqrt(1.0 - share) * jnp.array([h, w], jnp.float32)).astype(jnp.int32)
    inside = _window(centre, sides, (h, w))
    kept = 1.0 - jnp.sum(inside, dtype=jnp.int32).astype(jnp.float32) / (h * w)
    return (
        jnp.where(inside[None, :, :, None], images[::-1], images),
        kept * targets + (1.0 - kept) * targets[::-1],
    )
