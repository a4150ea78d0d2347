"""Convolution of few channels as one matrix product with the pictures' windows; for CPU.

XLA:CPU's convolutions, above all their kernel's gradient, are slow where a window holds few values:
the default CNN's step of 32 pictures took 14.8 ms with them and 12.4 like this (2 Zen 4 cores).
Which form is taken, the platform decides that a program is lowered for; where no gradient wants the
windows, and oneDNN is installed, `cpu_conv` does. Nothing else belongs here, and only `layers` and
`cpu_conv` use it.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from imgclass import process
from imgclass.models.apart import apart

# Before and after the rows, before and after the columns, pixels.
Pads = tuple[tuple[int, int], tuple[int, int]]

# Values in a window: those of a 3x3 one of 3 channels, and little more.
MOST = 32
# Of all windows, which are kept for the gradient: 256 MiB of float32.
LARGEST = 2**26


def fits(x: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether the windows are small and not too many; one pixel is a product already."""
    values = math.prod(kernel.shape[:3])
    pixels = math.prod(x.shape[:3])
    return math.prod(kernel.shape[:2]) > 1 and values <= MOST and pixels * values <= LARGEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Convolves at stride 1, as `layers.conv` does.

    Derivatives are for reverse mode, of any order; there are none in forward mode.

    Args:
      x: float[batch, height, width, in].
      kernel: float[m, n, in, out], of x's dtype.
      pads: zeros around the picture.

    Returns:
      float[batch, height', width', out], of x's dtype.
    """
    # oneDNN takes half the time for 3 channels, and twice the time for one (32 pictures).
    if process.onednn and kernel.shape[2] > 1:
        return _plain(x, kernel, pads)
    return _chosen(x, kernel, pads)


def _forward(
    x: jax.Array, kernel: jax.Array, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _chosen(x, kernel, pads), (x, kernel)


def _chosen(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    cpu, default = functools.partial(by_product, pads=pads), functools.partial(_plain, pads=pads)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _backward(
    pads: Pads, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def as_product(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        # The same windows as on the way forward, so XLA makes them once.
        rows, steps = _windows(x, kernel, pads), dy.reshape(-1, dy.shape[-1])
        product = lax.dot_general(rows, steps, (((0,), (0,)), ((), ())))
        return product.reshape(kernel.shape)

    def plain(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: _plain(x, kernel, pads), kernel)[1](dy)[0]

    x, kernel = saved
    dx = jax.vjp(lambda x: _plain(x, kernel, pads), x)[1](dy)[0]
    return dx, lax.platform_dependent(x, kernel, dy, cpu=as_product, default=plain)


conv.defvjp(_forward, _backward)


def _plain(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=layout)


def by_product(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Multiplies windows and kernel; args and result are those of `conv`."""
    product = _windows(x, kernel, pads) @ kernel.reshape(-1, kernel.shape[-1])
    return product.reshape(x.shape[0], *_size(x, kernel, pads), -1)


def _windows(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Returns the window under each pixel of the result, float[pixels, m * n * in]."""
    (m, n), (rows, columns) = kernel.shape[:2], _size(x, kernel, pads)

    @apart
    def cut(x: jax.Array) -> jax.Array:
        wide = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        lines = jnp.concatenate([wide[:, :, j : j + columns] for j in range(n)], axis=-1)
        cells = jnp.concatenate([lines[:, i : i + rows] for i in range(m)], axis=-1)
        return cells.reshape(-1, cells.shape[-1])

    return cut(x)


def _size(x: jax.Array, kernel: jax.Array, pads: Pads) -> tuple[int, int]:
    rows, columns = (
        x.shape[1 + axis] + sum(pads[axis]) - kernel.shape[axis] + 1 for axis in (0, 1)
    )
    return rows, columns
