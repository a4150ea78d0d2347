"""Mixing the rows of a batch: mixup and cutmix, pictures and targets alike.

Images are f32[batch, h, w, C] in [0, 1], targets f32[batch, K]. Row i's partner is row B-1-i.
"""

import jax
import jax.numpy as jnp

from imgclass.data import erase

_USE = 3  # branch of the batch's key, beside the three that split gives


def mix(
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float = 1.0,
    switch: float = 0.5,
    mixing: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mixes row i with row B-1-i, by mixup or cutmix; if both are on, a coin a batch chooses.

    The rows of a batch are in random order already, so the reversed batch is as good a partner
    as a permuted one. One share lambda ~ Beta(alpha, alpha) serves the whole batch.

    Args:
      images: f32[batch, h, w, C].
      targets: f32[batch, K].
      key: key[].
      mixup_alpha: 0 for no mixup.
      cutmix_alpha: 0 for no cutmix.
      probability: that a batch is mixed at all.
      switch: probability of cutmix where both are on.
      mixing: bool[], whether to mix at this step; None is yes.

    Returns:
      Mixed images and targets. A row's target is weighted by its true share of the picture.

    Sources: Zhang et al. (2018), arXiv:1710.09412; Yun et al. (2019), arXiv:1905.04899.
    """
    for_coin, for_share, for_centre = jax.random.split(key, 3)
    size = jnp.array(images.shape[1:3], jnp.int32)
    centre = jax.random.randint(for_centre, (2,), 0, size, jnp.int32)
    cut = jax.random.bernoulli(for_coin, switch)
    alpha: float | jax.Array = mixup_alpha or cutmix_alpha
    if mixup_alpha and cutmix_alpha:
        alpha = jnp.where(cut, jnp.float32(cutmix_alpha), jnp.float32(mixup_alpha))
    share = jax.random.beta(for_share, alpha, alpha, (), jnp.float32)
    # A share of 1 leaves pictures and targets as they are.
    if probability < 1.0:
        used = jax.random.bernoulli(jax.random.fold_in(key, _USE), probability)
        share = jnp.where(used, share, 1.0)
    if mixing is not None:
        share = jnp.where(mixing, share, 1.0)
    if not cutmix_alpha:
        return mixup(images, targets, share)
    if not mixup_alpha:
        return cutmix(images, targets, share, centre)
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
    inside = erase.window(centre, sides, (h, w))
    kept = 1.0 - jnp.sum(inside, dtype=jnp.int32).astype(jnp.float32) / (h * w)
    return (
        jnp.where(inside[None, :, :, None], images[::-1], images),
        kept * targets + (1.0 - kept) * targets[::-1],
    )
