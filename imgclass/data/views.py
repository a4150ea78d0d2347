"""Views of a picture for test-time augmentation: fixed, so that a score needs no random key."""

import jax
import jax.numpy as jnp


def views(images: jax.Array, how: str) -> list[tuple[float, jax.Array]]:
    """Returns what a prediction is averaged over, as (weight, images), weights adding up to 1.

    - 'none': the pictures.
    - 'flip': also mirrored left to right.
    - 'flip_shift': those two at half the weight, and the other half shared by the pictures moved
      one pixel up and left, and one down and right (borders reflected), each mirrored too. Source:
      the evaluation of Jordan (2024), arXiv:2404.00498.

    Args:
      images: [batch, h, w, c].
      how: one of `schema.running.VIEWS`.
    """
    if how == "none":
        return [(1.0, images)]
    if how == "flip":
        return _mirrored(1.0, images)
    h, w = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    up_left, down_right = padded[:, 2:, 2:], padded[:, :h, :w]
    return _mirrored(0.5, images) + _mirrored(0.25, up_left) + _mirrored(0.25, down_right)


def _mirrored(weight: float, images: jax.Array) -> list[tuple[float, jax.Array]]:
    return [(weight / 2, images), (weight / 2, images[:, :, ::-1])]
