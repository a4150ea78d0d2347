"""Layers that every architecture is built from: convolution, pooling, batch norm, activations.

The fast forms live here and nowhere else, so an architecture file only says what is connected to
what. Pictures are NHWC, kernels HWIO. Parameters are float32 whatever the compute dtype. Nothing
here knows a config, a loss or a data set.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from imgclass.config import nearest
from imgclass.errors import UsageError
from imgclass.models import batch_norm, cpu_conv, depthwise, im2col, sums, tiled_pool
from imgclass.models.apart import apart

# 'VALID', 'SAME' (as TensorFlow and Keras pad), or so many pixels on all four sides (as PyTorch).
Padding = str | int

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "elu": jax.nn.elu,
    # The exact form, as in Keras and PyTorch; jax.nn.gelu alone is the tanh approximation.
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def one_of(value: str, allowed: Iterable[str], key: str) -> str:
    """Returns `value` if it is allowed.

    Args:
      value: what was asked for.
      allowed: the names there are.
      key: the config key that holds the value, such as 'model.name'.

    Raises:
      UsageError: names the key, the nearest known name and all of them.
    """
    names = sorted(allowed)
    if value in names:
        return value
    raise UsageError(
        f"{key}={value!r}: must be one of {', '.join(names)}{nearest(str(value), names)}"
    )


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the elementwise function of that name; UsageError for an unknown one."""
    return ACTIVATIONS[one_of(name, ACTIVATIONS, "model.activation")]


def check_fits(
    layer: str, shape: Sequence[int], window: int, padding: Padding, key: str, remedy: str
) -> None:
    """Raises UsageError if a window is larger than the padded picture under it.

    Args:
      layer: the layer's name, as in the parameter tree.
      shape: [batch, height, width, channels] of what reaches the layer.
      window: side of the square kernel or pooling window, pixels.
      padding: see `Padding`. 'SAME' always fits.
      key: the config key that sets the window.
      remedy: what else would help, as the end of a sentence.
    """
    height, width = shape[1], shape[2]
    room = math.inf if padding == "SAME" else min(height, width) + 2 * _symmetric(padding)
    if window > room:
        raise UsageError(
            f"model layer {layer}: a {window}x{window} window does not fit the {height}x{width} "
            f"picture that reaches it. Lower {key} to at most {room}, or {remedy}."
        )


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: Padding = "VALID",
    groups: int = 1,
) -> jax.Array:
    """Convolves as the field does, which is a cross-correlation: the kernel is not flipped.

    y[b, i, j, o] = sum over m, n, c of x[b, i*stride + m, j*stride + n, c] * kernel[m, n, c, o],
    with zeros outside the picture. Source: Goodfellow et al. (2016), Deep Learning, eq. 9.6. With
    groups, output channels [g * out/groups, (g+1) * out/groups) see input channels
    [g * in/groups, (g+1) * in/groups) only; groups == in is a depthwise convolution.

    Args:
      x: float[batch, height, width, in].
      kernel: float[m, n, in / groups, out], of x's dtype.
      stride: step of the window, pixels, both ways.
      padding: see `Padding`.
      groups: a divisor of in and of out.

    Returns:
      float[batch, height', width', out], of x's dtype.
    """
    cpu_conv.use()
    pads = _pairs(padding)
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), pads)
    if 1 < groups == x.shape[-1] == kernel.shape[-1]:
        return depthwise.conv(x, kernel, stride, tuple(pads))
    if stride == groups == 1 and im2col.fits(x, kernel):
        return im2col.conv(x, kernel, tuple(pads))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def max_pool(
    x: jax.Array, window: int, stride: int | None = None, padding: Padding = "VALID"
) -> jax.Array:
    """Takes the maximum over square windows.

    The gradient goes to one element of a window: the first maximum in row-major order, as NumPy's
    argmax and XLA's select-and-scatter have it, so a flat patch does not count several times. A
    window that holds a NaN gives NaN. Rows and columns that do not fill a window are dropped under
    'VALID'.

    Args:
      x: float[batch, height, width, channels].
      window: side, pixels.
      stride: step, pixels; the window's side when None.
      padding: see `Padding`; what is padded never wins.

    Returns:
      float[batch, height', width', channels], of x's dtype.
    """
    stride = window if stride is None else stride
    if window == stride and padding == "VALID" and window <= tiled_pool.LARGEST_WINDOW:
        return tiled_pool.max_pool(x, window)
    return nn.max_pool(x, (window, window), (stride, stride), _pairs(padding))


def avg_pool(
    x: jax.Array, window: int, stride: int | None = None, padding: Padding = "VALID"
) -> jax.Array:
    """Takes the mean over square windows, of the pixels inside the picture only.

    Padding is left out of the count, as in Keras and TensorFlow; PyTorch counts it by default.

    Args:
      x: float[batch, height, width, channels].
      window: side, pixels.
      stride: step, pixels; the window's side when None.
      padding: see `Padding`.

    Returns:
      float[batch, height', width', channels], of x's dtype.
    """
    stride = window if stride is None else stride
    mean = nn.avg_pool(
        x.astype(batch_norm.wide(x.dtype)),
        (window, window),
        (stride, stride),
        _pairs(padding),
        count_include_pad=False,
    )
    return mean.astype(x.dtype)


def global_mean(x: jax.Array) -> jax.Array:
    """Averages float[batch, height, width, channels] over space, in float32 or wider."""
    total = sums.by_picture(x.astype(batch_norm.wide(x.dtype)))
    return (total / math.prod(x.shape[1:3])).astype(x.dtype)


def flatten(x: jax.Array, train: bool) -> jax.Array:
    """Makes one vector of each picture's map: float[batch, height, width, channels] to [batch, -1].

    In inference XLA:CPU would merge this into whatever made the map, whose loops then divide to
    find a pixel's row, column and channel: the default CNN's pool took 2.5 ms instead of 0.5 (32
    pictures, 2 Zen 4 cores). In training the map is kept for the gradient, and so left alone.
    """

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)

    return flat(x) if train else apart(flat)(x)


class Conv(nn.Module):
    """A convolution with a kernel f32[size, size, in / groups, features] and, if asked, a bias."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = "VALID"
    groups: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, pool: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        """Maps float[batch, h, w, in] to dtype[batch, h', w', features].

        `pool` comes before the bias. Of a max-pool the values are the same, to the bit, as after
        it, and there is that much less to add and, for the gradient, to sum. Where adding the bias
        would round two cells to one value, the gradient goes to the larger, not to the first.
        """
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = conv(x, kernel, self.stride, self.padding, self.groups)
        if pool is not None:
            y = pool(y)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = sums.add_bias(y, bias.astype(self.dtype))
        return y


class Dense(nn.Module):
    """A matrix f32[in, features] and, unless told not to, a bias f32[features], zero at first."""

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float[..., in] to dtype[..., features]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
            y = y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        return y


class BatchNorm(nn.Module):
    """Batch normalisation, y = (x - mean) / sqrt(variance + epsilon) * scale + bias, by channel.

    In training the moments are the batch's own: under `jit` of the whole global batch, or of each
    `group` consecutive rows (ghost batch norm), which no sharding of the batch changes. They are
    float32 or wider. The running moments in collection 'batch_stats' take the mean over groups,

        running = momentum * running + (1 - momentum) * batch,

    and normalise in inference. The running variance is of the biased batch variance, as in Flax
    and Keras; PyTorch stores the unbiased one, n / (n - 1) times as large.

    Source: Ioffe and Szegedy (2015), arXiv:1502.03167; for groups Hoffer et al. (2017),
    arXiv:1705.08741.

    Attributes:
      momentum: weight of the old running moment; PyTorch's momentum is one minus this.
      epsilon: added to the variance.
      group: rows that share one statistic; 0 for the whole batch. Must divide the batch.
      scale_init: initialiser of `scale`; zeros switch a residual branch off at first.
      use_scale: whether there is a `scale`; without it, it is 1.
      dtype: of the result.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    group: int = 0
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    use_scale: bool = True
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises float[batch, ..., channels]; UsageError if the group does not divide batch."""
        channels = (x.shape[-1],)
        scale = jnp.ones(channels, jnp.float32)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        wide = batch_norm.wide(x.dtype)
        scale, bias = scale.astype(wide), bias.astype(wide)
        if train:
            y, *batch = batch_norm.normalize(x, scale, bias, self.epsilon, self.group)
            for running, moment in zip((mean, variance), batch, strict=True):
                new = moment.mean(axis=0).astype(jnp.float32)
                running.value = self.momentum * running.value + (1 - self.momentum) * new
            return y.astype(self.dtype)
        gain = lax.rsqrt(variance.value.astype(wide) + self.epsilon) * scale
        shape = (1,) * (x.ndim - 1) + (-1,)
        centred = x.astype(wide) - mean.value.astype(wide).reshape(shape)
        return (centred * gain.reshape(shape) + bias.reshape(shape)).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation of each vector, (x - mean) / sqrt(variance + epsilon) * scale + bias.

    Moments are float32 or wider. Source: Ba et al. (2016), arXiv:1607.06450.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float[..., channels] to the same shape and dtype."""
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        wide = batch_norm.wide(x.dtype)
        y = x.astype(wide)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.epsilon)
        y = y * scale.astype(wide).reshape(shape) + bias.astype(wide).reshape(shape)
        return y.astype(x.dtype)


def _symmetric(padding: Padding) -> int:
    if padding == "VALID":
        return 0
    if isinstance(padding, int):
        return padding
    raise UsageError(f"padding {padding!r} is unknown: use 'VALID' or 'SAME'.")


def _pairs(padding: Padding) -> str | list[tuple[int, int]]:
    if padding == "SAME":
        return "SAME"
    pixels = _symmetric(padding)
    return [(pixels, pixels), (pixels, pixels)]
