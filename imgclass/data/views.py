"""Views of a picture for test-time augmentation: fixed, so that a score needs no random key."""

import jax
import jax.numpy as jnp

# The side of a crop. Source: Krizhevsky, Sutskever and Hinton (2012), who cut 224 of 256 pixels.
CROP = 7 / 8


def views(images: jax.Array, how: str) -> list[tuple[float, jax.Array]]:
    """Returns what a prediction is averaged over, as (weight, images), weights adding up to 1.

    - 'none': the pictures.
    - 'flip': also mirrored left to right.
    - 'flip_shift': those two at half the weight, and the other half shared by the pictures moved
      one pixel up and left, and one down and right (borders reflected), each mirrored too. Source:
      the evaluation of Jordan (2024), arXiv:2404.00498.
    - 'five_crop': 7/8 of the picture from each corner and from the middle, each widened again to
      the whole size, linearly. The published crops are cut from a picture made larger, and keep
      its scale; a prepared picture has no more pixels than it has, so that here things come out
      8/7 as large as the model was trained on, as in a random resized crop.
    - 'ten_crop': those five, each mirrored too.

    Args:
      images: [batch, h, w, c].
      how: one of `schema.running.VIEWS`.
    """
    if how == "none":
        return [(1.0, images)]
    if how == "flip":
        return _mirrored(1.0, images)
    if how in ("five_crop", "ten_crop"):
        crops = _crops(images)
        weight = 1.0 / len(crops)
        if how == "five_crop":
            return [(weight, crop) for crop in crops]
        return [view for crop in crops for view in _mirrored(weight, crop)]
    h, w = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    up_left, down_right = padded[:, 2:, 2:], padded[:, :h, :w]
    return _mirrored(0.5, images) + _mirrored(0.25, up_left) + _mirrored(0.25, down_right)


def _mirrored(weight: float, images: jax.Array) -> list[tuple[float, jax.Array]]:
    return [(weight / 2, images), (weight / 2, images[:, :, ::-1])]


def _crops(images: jax.Array) -> list[jax.Array]:
    """Returns the corners, in reading order, and the middle, each of the pictures' own size."""
    h, w = images.shape[1:3]
    height, width = max(1, round(CROP * h)), max(1, round(CROP * w))
    down, right = h - height, w - width
    places = [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
    return [
        jax.image.resize(images[:, i : i + height, j : j + width], images.shape, "linear")
        for i, j in places
    ]
