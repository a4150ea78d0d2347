"""Convolutions on one CPU by oneDNN, where it is installed; only `layers` uses it.

XLA:CPU's convolutions reach 133 GFLOP/s on airbench94's layers, oneDNN's 220 (2 Zen 4 cores). A
convolution stays `lax.conv_general_dilated`, with all that JAX knows of it: derivatives of every
kind, batching, counting. Only what it becomes in a program for one CPU device is chosen here. In a
program for several devices or for export it is XLA's own, but for what `depthwise` and `im2col` ask
for: they have forms that are faster on a CPU.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from imgclass import process
from imgclass.models import depthwise, im2col, onednn
from imgclass.models.onednn import Convolution

# Multiply-adds under which the call costs more than it gains.
LEAST = 5_000_000
# XLA runs a program of under a thousand operations in the thread that asks for it, and a call to
# oneDNN counts as none; but it must not be called from the main thread (see `onednn`). So each call
# is given a sum over that many numbers, which it does not read.
BALLAST = 4096
_USUAL = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC

_xlas: Callable[..., Any] | None = None  # JAX's own rule, where ours is in its place


def use() -> None:
    """Has oneDNN make convolutions from now on, if `process.tune` found it."""
    global _xlas
    if _xlas is None and process.onednn:
        try:
            rules = mlir._platform_specific_lowerings["cpu"]
            _xlas = rules[lax.conv_general_dilated_p].rule
        except (AttributeError, KeyError):
            _without("this JAX keeps its rules elsewhere")
        else:
            mlir.register_lowering(lax.conv_general_dilated_p, _lower, platform="cpu")


def leave() -> None:
    """Leaves convolutions to XLA again; what is compiled stays as it is."""
    global _xlas
    if _xlas is not None:
        mlir.register_lowering(lax.conv_general_dilated_p, _xlas, platform="cpu")
        _xlas = None


def _without(reason: object) -> None:
    process.onednn = ""
    process.applied[:] = [line for line in process.applied if not line.startswith("oneDNN")]
    logging.getLogger(__name__).warning("oneDNN is not used for convolutions: %s", reason)


def _lower(context: Any, left: Any, right: Any, **params: Any) -> Any:
    """Lowers one convolution: JAX's interface for rules of `jax.interpreters.mlir`."""
    assert _xlas is not None
    convolution = _possible(context, params)
    if convolution is None:
        (x, kernel), (y,) = context.avals_in, context.avals_out
        form = _other_form(x, kernel, y, params)
        if form is None:
            return _xlas(context, left, right, **params)
        return mlir.lower_fun(form, multiple_results=False)(context, left, right)
    (out,) = context.avals_out

    def call(left: jax.Array, right: jax.Array) -> Any:
        if convolution.what == onednn.INPUT:  # lax has turned the kernel around
            right = lax.rev(right, params["dimension_numbers"].rhs_spec[2:])
        target = jax.ffi.ffi_call(onednn.TARGET, jax.ShapeDtypeStruct(out.shape, out.dtype))
        first = left.reshape(-1)[0] + right.reshape(-1)[0]  # of no constant, or it would be folded
        ballast = jnp.maximum(lax.iota(first.dtype, BALLAST), first).sum()
        return target(left, right, ballast, what=convolution.text())

    return mlir.lower_fun(call, multiple_results=False)(context, left, right)


def _other_form(x: Any, kernel: Any, y: Any, params: Mapping[str, Any]) -> Callable | None:
    """Returns the form that `depthwise` or `im2col` has for a convolution they asked for."""
    same = x.dtype == kernel.dtype == y.dtype and jnp.issubdtype(x.dtype, jnp.floating)
    spread = max(*params["lhs_dilation"], *params["rhs_dilation"], params["batch_group_count"]) > 1
    if not same or spread or params["dimension_numbers"] != _USUAL:
        return None
    (stride, *others), groups = params["window_strides"], params["feature_group_count"]
    if 1 < groups == x.shape[-1] == y.shape[-1] and others == [stride]:
        return functools.partial(depthwise.by_tap, stride=stride, pads=params["padding"])
    if groups == stride == max(others) == 1 and im2col.fits(x, kernel):
        return functools.partial(im2col.by_product, pads=params["padding"])
    return None


def _possible(context: Any, params: Mapping[str, Any]) -> Convolution | None:
    module = context.module_context
    one = getattr(module.axis_context, "num_devices", None) == 1
    aside = jax.config.values["jax_cpu_enable_async_dispatch"]  # else all is run where it is asked
    if not (one and aside) or module.lowering_parameters.for_export:
        return None
    (left, right), (out,) = context.avals_in, context.avals_out
    convolution = planned(left, right, out, params)
    if convolution is None or not process.onednn:
        return None
    try:
        onednn.load(process.onednn)
    except (OSError, AttributeError, RuntimeError, onednn.Failed) as error:
        _without(error)
        return None
    return convolution if onednn.can(convolution) else None


def planned(left: Any, right: Any, out: Any, params: Mapping[str, Any]) -> Convolution | None:
    """Returns what a convolution of JAX's is to oneDNN, None if nothing that is worth a call.

    JAX has the gradients as convolutions too: that of the input with dy spread out by the stride
    and the kernel turned around, that of the kernel with the picture's channels as its batch and
    dy as its kernel. oneDNN wants to hear which is which.

    Args:
      left: the shape and dtype of one operand.
      right: of the other, the kernel's or what stands in its place.
      out: of the result.
      params: those of `lax.conv_general_dilated_p`.
    """
    if not left.dtype == right.dtype == out.dtype or str(left.dtype) not in onednn.DTYPES:
        return None
    if left.ndim < 3 or 0 in (*left.shape, *right.shape, *out.shape):
        return None
    steps, spread = params["window_strides"], params["lhs_dilation"]
    features, batches = params["feature_group_count"], params["batch_group_count"]
    layout, before = params["dimension_numbers"], tuple(low for low, _ in params["padding"])
    a, b, c = _seen(left, layout[0]), _seen(right, layout[1]), _seen(out, layout[2])
    stride, dilation, groups = steps, params["rhs_dilation"], features
    unspread = max(spread) == 1
    # Which of several forms that are right is the fast one: in a gradient of a usual layout the
    # axes of batch and channels, or of out and in, have changed places.
    of_kernel = layout.lhs_spec[0] > layout.lhs_spec[1]
    of_input = layout.rhs_spec[0] < layout.rhs_spec[1] or not unspread
    if of_kernel and unspread and features == 1:
        what, x, kernel, y = onednn.KERNEL, _swapped(a), _swapped(c), _swapped(b)
        stride, dilation, groups = dilation, steps, batches
    elif of_input and features == batches == max(steps) == 1:
        what, x, kernel, y = onednn.INPUT, c, _swapped(b), a
        stride = spread
        reach = zip(kernel.shape[2:], dilation, before, strict=True)
        before = tuple((k - 1) * d - low for k, d, low in reach)
    elif unspread and batches == 1:
        what, x, kernel, y = onednn.FORWARD, a, b, c
    else:
        return None
    sizes = x.shape[2:], kernel.shape[2:], y.shape[2:]
    # As far as the last window reaches; lax may have padded more, or less where it left some out.
    after = tuple(
        max(0, (n - 1) * s + (k - 1) * d + 1 - size - low)
        for size, k, n, s, d, low in zip(*sizes, stride, dilation, before, strict=True)
    )
    if min(before) < 0 or math.prod(y.shape) * math.prod(kernel.shape[1:]) < LEAST:
        return None
    if what != onednn.KERNEL and groups == math.prod(kernel.shape[2:]) == 1:
        return None  # a product of matrices, which XLA makes faster; not so its kernel's gradient
    shapes = x.shape, kernel.shape, y.shape, x.strides, kernel.strides, y.strides
    # As plain integers: JAX passes on what it was given, NumPy's among them.
    numbers = [tuple(map(int, each)) for each in (*shapes, stride, dilation, before, after)]
    return Convolution(what, str(left.dtype), int(groups), *numbers)


class _Seen(NamedTuple):
    """An array's shape and strides in elements, batch (or out) and channels first."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _seen(aval: Any, order: Sequence[int]) -> _Seen:
    strides = [math.prod(aval.shape[axis + 1 :]) for axis in range(aval.ndim)]
    return _Seen(tuple(aval.shape[axis] for axis in order), tuple(strides[axis] for axis in order))


def _swapped(array: _Seen) -> _Seen:
    """Returns the same with its first two axes exchanged."""
    return _Seen(*((values[1], values[0], *values[2:]) for values in array))
