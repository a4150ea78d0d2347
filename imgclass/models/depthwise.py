"""Depthwise convolution, one filter a channel: on CPU fast forms, elsewhere XLA's own.

Which of them, the platform decides that a program is lowered for, not the machine that lowers it.
Nothing else belongs here, and only `layers` and `cpu_conv` use it.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from imgclass import process
from imgclass.models import batch_norm

# Before and after the rows, before and after the columns, pixels.
Pads = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Convolves each channel with its own filter, as `layers.conv` does.

    On two loaded CPU cores the fast form took, by shape of eight, a 13th to a 185th of the grouped
    convolution's time for the value and a 9th to a 129th for the gradients; a training step of
    mobilenet_v3_small at 224 pixels took a third, inference of efficientnet_lite0 a quarter.
    Compiling that step for 32 pixels took 1.3 times the processor time. oneDNN, where it is
    installed and the convolution large enough for a call, takes a quarter to a half of that form's
    time for the value (layers of mobilenet_v3_large, 32 pictures), and so makes it.

    Derivatives are for reverse mode, of any order; there are none in forward mode.

    Args:
      x: float[batch, height, width, channels].
      kernel: float[m, n, 1, channels], of x's dtype.
      stride: step of the window, pixels, both ways.
      pads: zeros around the picture; negative ones crop it.

    Returns:
      float[batch, height', width', channels], of x's dtype.
    """
    if process.onednn:  # `cpu_conv` chooses, for there the number of devices is known
        return _grouped(x, kernel, stride, pads)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(by_tap, stride=stride, pads=pads),
        default=functools.partial(_grouped, stride=stride, pads=pads),
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, stride, pads), (x, kernel)


def _backward(
    stride: int, pads: Pads, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def by_tap(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _dx(x, kernel, dy, stride, pads), _dkernel(x, kernel, dy, stride, pads)

    def grouped(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_grouped, stride=stride, pads=pads), x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=by_tap, default=grouped)


conv.defvjp(_forward, _backward)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def by_tap(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Adds up shifted pictures, each times its tap: elementwise, so that it fuses to one loop.

    Args and result are those of `conv`.
    """
    return _correlated(_padded(x, pads), kernel, stride)


@functools.partial(jax.jit, static_argnames="stride")  # outside of one each tap would be a program
def _correlated(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    (height, width), wide = kernel.shape[:2], batch_norm.wide(x.dtype)
    rows, columns = _steps(x.shape[1], height, stride), _steps(x.shape[2], width, stride)
    terms = [
        _every(_every(x, 1, m, rows, stride), 2, n, columns, stride).astype(wide)
        * kernel[m, n].astype(wide)[None, None]
        for m in range(height)
        for n in range(width)
    ]
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _dx(x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Correlates dy, spread out to the pixels it was taken at, with the kernel turned around."""

    def around(axis: int) -> tuple[int, int]:
        before = kernel.shape[axis] - 1 - pads[axis][0]
        spread = (dy.shape[1 + axis] - 1) * stride + 1
        return before, x.shape[1 + axis] + kernel.shape[axis] - 1 - before - spread

    spread = _padded(dy, (around(0), around(1)), stride - 1)
    return _correlated(spread, kernel[::-1, ::-1], 1)


@functools.partial(jax.jit, static_argnames=("stride", "pads"))
def _dkernel(x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Adds up, over rows, the products of dy with the pixels under each tap.

    XLA:CPU reduces down to channels one strided value at a time. So rows are added to sums that
    keep batch and columns, in a loop over vectors, and only those sums are reduced.
    """
    (height, width), wide = kernel.shape[:2], batch_norm.wide(x.dtype)
    x, (batch, rows, columns, channels) = _padded(x, pads), dy.shape

    def add_row(row: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        pixels = lax.dynamic_slice_in_dim(x, row * stride, height, 1).astype(wide)
        step = lax.dynamic_slice_in_dim(dy, row, 1, 1).astype(wide)
        return [s + _every(pixels, 2, n, columns, stride) * step for n, s in enumerate(sums)]

    zeros = jnp.zeros((batch, height, columns, channels), wide)
    sums = lax.fori_loop(0, rows, add_row, [zeros] * width)
    return jnp.stack([s.sum(axis=(0, 2)) for s in sums], 1)[:, :, None].astype(kernel.dtype)


def _padded(x: jax.Array, pads: Pads, between: int = 0) -> jax.Array:
    (top, bottom), (left, right) = pads
    config = ((0, 0, 0), (top, bottom, between), (left, right, between), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _steps(size: int, window: int, stride: int) -> int:
    return (size - window) // stride + 1


def _every(x: jax.Array, axis: int, start: int, count: int, stride: int) -> jax.Array:
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
