"""Augmentation on the device: pure functions of a picture, a key and an amount.

`augment` is called inside the jitted train step. Every row draws from its own key, so what happens
to an example depends on (seed, step, row) alone, not on the other rows; only mixup and cutmix join
rows. Another layout of the batch over devices makes the same crops, flips, cuts and pastes bit for
bit; blended values (colour, resampling, mixup) may differ in the last place, as XLA rounds a fused
multiply-add once, and a policy's, which are cut to whole levels, by a level here and there. Each
operation draws from its own branch of the row's key, so switching one on leaves the draws of the
others as they were, and one that is off is not in the compiled program at all. Nothing here
decodes, standardises or is used in evaluation.
"""

from typing import Any

import jax
import jax.numpy as jnp

from imgclass.data import colour, crop, erase, mix, policies

# Branches of a row's key. The order is part of what a seed means: append, never renumber.
_CROP, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _CUTOUT, _POLICY, _ERASE, _VIEW = range(10)


def augment(
    images: jax.Array,
    targets: jax.Array,
    keys: jax.Array,
    batch_key: jax.Array,
    cfg: Any,
    out_size: tuple[int, int],
    fill: jax.Array,
    *,
    size: tuple[int, int] | None = None,
    views: int = 1,
    mixing: jax.Array | None = None,
    example_key: jax.Array | None = None,
    index: jax.Array | None = None,
    epoch: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Augments one training batch, in this order, each where the config asks for it.

    1. random_resized_crop, if not done on the host, or pad_crop, or else the central window of
    `out_size`;
    2. horizontal flip, random or alternating; 3. a policy's operations; 4. brightness, contrast,
    saturation, hue, in this fixed order (torchvision shuffles the four for each picture);
    5. cutout; 6. random erasing; 7. mixup or cutmix.

    Args:
      images: f32[batch, h, w, C], in [0, 1].
      targets: f32[batch, K], distributions over the classes.
      keys: key[batch], one a row.
      batch_key: key[], for the draws a batch shares.
      cfg: the config's `augment` section.
      out_size: (height, width) of what is cropped.
      fill: f32[C], in [0, 1], for what is blanked, or brought in from outside the picture.
      size: (height, width) to resize the crop to; None leaves it.
      views: pictures made of each row, for a loss that compares them: the first crop and flip
        alone, and of it the others, each with draws of its own.
      mixing: bool[], whether mixup and cutmix are on at this step; None is yes.
      example_key: key[], the same all run, for what stays with an example. It, `index` and `epoch`
        are needed by flip_alternate alone.
      index: i32[batch], each row's place in the training split.
      epoch: i32[batch], passes over the split done before each row.

    Returns:
      f32[batch, height, width, C] in [0, 1], or f32[batch, views, height, width, C] if there are
      several, and f32[batch, K]. With everything off and (h, w) equal to `out_size` they are the
      arguments, bit for bit.

    Raises:
      UsageError: at trace time, if `out_size` does not fit in the (padded) picture.
      ValueError: at trace time, if flip_alternate lacks what it needs, or several views are mixed.
    """
    mixed = cfg.mixup_alpha or cfg.cutmix_alpha
    if mixed and views > 1:
        raise ValueError("several views of a picture cannot be mixed with other pictures")
    sides = None
    if cfg.flip_alternate:
        if example_key is None or index is None or epoch is None:
            raise ValueError("augment.flip_alternate needs example_key, index and epoch")
        sides = crop.alternating_sides(example_key, index, epoch)

    def one(image: jax.Array, key: jax.Array, mirrored: jax.Array | None) -> jax.Array:
        image = _framed(image, key, mirrored, cfg, out_size, size)
        if views == 1:
            return _changed(image, key, cfg, fill)
        view_keys = jax.random.split(jax.random.fold_in(key, _VIEW), views - 1)
        others = jax.vmap(lambda view_key: _changed(image, view_key, cfg, fill))(view_keys)
        return jnp.concatenate([image[None], others])

    images = jax.vmap(one)(images, keys, sides)
    if mixed:
        alphas = cfg.mixup_alpha, cfg.cutmix_alpha
        chances = cfg.mix_probability, cfg.mix_switch
        images, targets = mix.mix(images, targets, batch_key, *alphas, *chances, mixing)
    return images, targets


def _framed(
    image: jax.Array,
    key: jax.Array,
    mirrored: jax.Array | None,
    cfg: Any,
    out_size: tuple[int, int],
    size: tuple[int, int] | None,
) -> jax.Array:
    """Which part of the picture is seen, at what size, from which side."""

    def branch(operation: int) -> jax.Array:
        return jax.random.fold_in(key, operation)

    if cfg.random_resized_crop and cfg.crop_on == "device":
        scale, ratio = cfg.crop_scale, cfg.crop_ratio
        image = crop.random_resized_crop(image, branch(_CROP), scale, ratio, size or out_size)
    elif cfg.pad_crop:
        image = crop.pad_crop(image, branch(_CROP), cfg.pad_crop, cfg.pad_mode, out_size)
    else:
        image = crop.center_crop(image, out_size)
    if size is not None and image.shape[:2] != size:
        image = crop.resized(image, size)
    if mirrored is not None:
        image = crop.mirror(image, mirrored)
    elif cfg.flip:
        image = crop.mirror(image, jax.random.bernoulli(branch(_FLIP)))
    return image


def _changed(image: jax.Array, key: jax.Array, cfg: Any, fill: jax.Array) -> jax.Array:
    """What is done to the pixels that are seen."""

    def branch(operation: int) -> jax.Array:
        return jax.random.fold_in(key, operation)

    if cfg.policy != "none":
        image = policies.apply(image, branch(_POLICY), cfg, fill)
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
        turn = jax.random.uniform(branch(_HUE), (), jnp.float32, -cfg.hue, cfg.hue)
        image = colour.adjust_hue(image, turn)
    if cfg.cutout:
        image = erase.cutout(image, branch(_CUTOUT), cfg.cutout, fill, cfg.cutout_inside)
    if cfg.erase:
        scale, ratio = cfg.erase_scale, cfg.erase_ratio
        with_ = None if cfg.erase_with == "noise" else fill
        image = erase.random_erasing(image, branch(_ERASE), cfg.erase, scale, ratio, with_)
    return image
