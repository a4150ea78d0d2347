"""Colour changes of one picture on the device: brightness, contrast, saturation, hue.

Pure functions of f32[h, w, C] in [0, 1]; results are in [0, 1] too. `augment.py` draws the amounts.
"""

import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's mode 'L'


def draw_factor(key: jax.Array, amount: float) -> jax.Array:
    """Draws f32[], uniform in [max(0, 1 - amount), 1 + amount], as torchvision's ColorJitter."""
    return jax.random.uniform(key, (), jnp.float32, max(0.0, 1.0 - amount), 1.0 + amount)


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies by `factor`: 0 is black, 1 the picture itself. Clipped to [0, 1]."""
    return jnp.clip(image * factor, 0.0, 1.0)


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves away from the mean grey level: 0 is flat grey, 1 the picture. Clipped to [0, 1]."""
    level = jnp.mean(_grey(image))
    return jnp.clip(level + factor * (image - level), 0.0, 1.0)


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves away from the grey picture: 0 is grey, 1 the picture. Clipped to [0, 1].

    Only red, green and blue have a saturation: unless C is 3 the picture is returned as it is.
    """
    if image.shape[2] != 3:
        return image
    grey = _grey(image)
    return jnp.clip(grey + factor * (image - grey), 0.0, 1.0)


def _grey(image: jax.Array) -> jax.Array:
    """f32[h, w, C] to f32[h, w, 1]; unless C is 3, the mean of the channels."""
    weights = _LUMA if image.shape[2] == 3 else (1.0 / image.shape[2],) * image.shape[2]
    # A sum and not a matrix product, which accelerators may round to fewer bits.
    return jnp.sum(image * jnp.array(weights, jnp.float32)[None, None, :], axis=2, keepdims=True)


def adjust_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Turns the hue by `turn` of the circle; 1/3 takes red to green. Clipped to [0, 1].

    Unless C is 3 the picture is returned as it is.

    Source: Smith (1978), Color Gamut Transform Pairs, the HSV hexcone.
    """
    if image.shape[2] != 3:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.max(image, axis=2)
    chroma = value - jnp.min(image, axis=2)
    safe = jnp.where(chroma == 0.0, 1.0, chroma)
    sixths = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    # From hue back to a channel: value minus the part of the chroma that this hue lacks there.
    place = (sixths + 6.0 * turn)[..., None] + jnp.array([5.0, 3.0, 1.0], jnp.float32)[None, None]
    place = jnp.mod(place, 6.0)
    lack = jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)
    return jnp.clip(value[..., None] - chroma[..., None] * lack, 0.0, 1.0)
