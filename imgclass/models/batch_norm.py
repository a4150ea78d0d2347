"""Batch normalisation as pure functions, its gradient written out.

Left to automatic differentiation the gradient of the moments takes several passes over the map
that cancel or repeat each other; written out it takes two, one for the sums and one for the result.
The layer with its parameters and running moments is `layers.BatchNorm`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from imgclass.errors import UsageError
from imgclass.models import sums

Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def wide(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """Returns the dtype that sums are taken in: float64 for itself, float32 for all else."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def moments(x: jax.Array, group: int = 0) -> tuple[jax.Array, jax.Array]:
    """Returns each channel's mean and biased variance over groups of consecutive rows.

    The variance is of the centred values, not E[x^2] - E[x]^2, which loses all digits where the
    mean is large beside the spread. Only of 16-bit floats it is the latter, in one pass: where that
    would lose digits in float32, the values had lost them before. Means are taken over pixels, then
    over rows: the row sums stay on the device that holds the row, and short sums round less.

    Args:
      x: float[batch, ..., channels].
      group: rows that share one statistic; 0 for the whole batch.

    Returns:
      mean, variance: [groups, channels], float32 or wider.

    Raises:
      UsageError: at trace time, if `group` does not divide the batch.
    """
    batch, dtype = x.shape[0], wide(x.dtype)
    if group and batch % group:
        raise UsageError(
            f"model.batch_norm_group={group} does not divide the batch of {batch} rows. "
            f"Use a divisor of {batch}, or 0 for the whole batch."
        )
    values = x.astype(dtype)
    centre = _mean(values, group)
    if x.dtype.itemsize == 2:
        return centre, jnp.maximum(_mean(jnp.square(values), group) - jnp.square(centre), 0)
    return centre, _mean(jnp.square(values - by_row(centre, x)), group)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, group: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the batch's own moments: (x - mean) / sqrt(variance + epsilon) * scale + bias.

    Args:
      x: float[batch, ..., channels].
      scale: [channels], float32 or wider.
      bias: [channels], of scale's dtype.
      epsilon: added to the variance.
      group: see `moments`.

    Returns:
      The result, of x's shape and dtype, and `moments(x, group)`; those two are for running
      averages, and nothing can be differentiated through them.
    """
    return _forward(x, scale, bias, epsilon, group)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, group: int
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Saved]:
    centre, spread = moments(x, group)
    inverse = lax.rsqrt(spread + epsilon)
    gain, shift = by_row(inverse * scale[None, :], x), by_row(bias[None, :], x)
    y = (x.astype(centre.dtype) - by_row(centre, x)) * gain + shift
    return (y.astype(x.dtype), centre, spread), (x, centre, inverse, scale)


def _backward(
    epsilon: float, group: int, saved: Saved, cotangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ioffe and Szegedy (2015), section 3, with the terms that cancel left out."""
    x, centre, inverse, scale = saved
    dy = cotangents[0].astype(centre.dtype)
    normal = (x.astype(centre.dtype) - by_row(centre, x)) * by_row(inverse, x)
    mean_dy, mean_product = _mean(dy, group), _mean(dy * normal, group)
    centred = dy - by_row(mean_dy, x) - normal * by_row(mean_product, x)
    dx = centred * by_row(inverse * scale[None, :], x)
    count = x.size // x.shape[-1] // centre.shape[0]
    return dx.astype(x.dtype), mean_product.sum(axis=0) * count, mean_dy.sum(axis=0) * count


normalize.defvjp(_forward, _backward)


def _mean(values: jax.Array, group: int) -> jax.Array:
    batch = values.shape[0]
    rows = group or batch
    pixels = values.size // batch // values.shape[-1]
    by_picture = sums.by_picture(values) / pixels
    return by_picture.reshape(batch // rows, rows, -1).mean(axis=1)


def by_row(values: jax.Array, x: jax.Array) -> jax.Array:
    """Spreads [groups, channels] so that it broadcasts against x [batch, ..., channels]."""
    groups, channels = values.shape
    if groups > 1:
        values = jnp.repeat(values, x.shape[0] // groups, axis=0)
    return values.reshape(values.shape[0], *(1,) * (x.ndim - 2), channels)
