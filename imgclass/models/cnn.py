"""The textbook convolutional network: blocks of convolution and pooling, then dense layers.

At its defaults, on 64x64x3 and 10 classes, it is the first example of the Keras documentation,
weight for weight: Conv 32 3x3 + ReLU, max-pool 2x2, flatten, dense; 308,426 parameters. Softmax is
not part of it: the loss takes logits.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.models import layers

SIZES: dict[str, int] = {"cnn": 64}


class CNN(nn.Module):
    """Blocks of (convolution, batch norm, activation) x depth and a pool; then dense layers.

    Kernels start Glorot uniform and biases at zero, as in Keras. Convolutions have no bias where
    batch norm follows, which has its own.

    Attributes:
      num_classes: width of the last dense layer.
      filters: channels of each block; one block an entry.
      depth: convolutions in a block.
      kernel_size: side of a kernel, pixels.
      stride: step of a block's first convolution, pixels; the others step by 1.
      padding: 'VALID' or 'SAME', of the convolutions; pools are always 'VALID'.
      pool: 'max', 'avg' or 'none'.
      pool_window: side of the pooling window, pixels.
      pool_stride: its step, pixels.
      activation: a name in `layers.ACTIVATIONS`, also of the hidden dense layers.
      batch_norm: whether each convolution is followed by batch norm.
      batch_norm_momentum: see `layers.BatchNorm`.
      batch_norm_epsilon: see `layers.BatchNorm`.
      batch_norm_group: see `layers.BatchNorm`.
      dropout: share of the inputs of the last dense layer set to zero in training.
      hidden: widths of the dense layers before the last.
      head: 'flatten' keeps every pixel of the last map, 'average' its mean over space.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    filters: tuple[int, ...] = (32,)
    depth: int = 1
    kernel_size: int = 3
    stride: int = 1
    padding: str = "VALID"
    pool: str = "max"
    pool_window: int = 2
    pool_stride: int = 2
    activation: str = "relu"
    batch_norm: bool = False
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    batch_norm_group: int = 0
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()
    head: str = "flatten"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`."""
        act = layers.activation(self.activation)
        # A max passes through what never falls: the same values, and less to do after the pool (a
        # tenth of the default step's time on CPU).
        early = self.pool == "max" and self.activation == "relu" and not self.batch_norm
        x = x.astype(self.dtype)
        stages = {}
        for block, width in enumerate(self.filters):
            name = f"block{block + 1}"
            for layer in range(self.depth):
                stride = self.stride if layer == 0 else 1
                last = layer == self.depth - 1
                pool = functools.partial(self._pool, f"{name}_pool") if last and early else None
                x = self._conv(f"{name}_conv{layer + 1}", width, stride, x, pool)
                if self.batch_norm:
                    x = layers.BatchNorm(
                        momentum=self.batch_norm_momentum,
                        epsilon=self.batch_norm_epsilon,
                        group=self.batch_norm_group,
                        dtype=self.dtype,
                        name=f"{name}_bn{layer + 1}",
                    )(x, train)
                x = act(x)
            stages[name] = x = x if early else self._pool(f"{name}_pool", x)
        last_map = x
        x = layers.global_mean(x) if self.head == "average" else layers.flatten(x, train)
        for layer, width in enumerate(self.hidden):
            x = act(layers.Dense(width, dtype=self.dtype, name=f"hidden{layer + 1}")(x))
        pooled = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = layers.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        features = {"stages": stages, "last_map": last_map, "pooled": pooled}
        return logits.astype(jnp.float32), features

    def _conv(
        self,
        name: str,
        width: int,
        stride: int,
        x: jax.Array,
        pool: Callable[[jax.Array], jax.Array] | None,
    ) -> jax.Array:
        remedy = "raise data.image_size, or use fewer model.filters or model.padding=SAME"
        layers.check_fits(
            name, x.shape, self.kernel_size, self.padding, "model.kernel_size", remedy
        )
        return layers.Conv(
            width,
            self.kernel_size,
            stride,
            self.padding,
            use_bias=not self.batch_norm,
            dtype=self.dtype,
            name=name,
        )(x, pool)

    def _pool(self, name: str, x: jax.Array) -> jax.Array:
        if self.pool == "none":
            return x
        remedy = "raise data.image_size, or use fewer model.filters or model.pool=none"
        layers.check_fits(name, x.shape, self.pool_window, "VALID", "model.pool_window", remedy)
        pool = layers.max_pool if self.pool == "max" else layers.avg_pool
        return pool(x, self.pool_window, self.pool_stride)


def build(config: ml_collections.ConfigDict, num_classes: int) -> CNN:
    """Builds the module that a checked config.model describes."""
    return CNN(
        num_classes=num_classes,
        filters=tuple(config.filters),
        depth=config.depth,
        kernel_size=config.kernel_size,
        stride=config.stride,
        padding=config.padding,
        pool=config.pool,
        pool_window=config.pool_window,
        pool_stride=config.pool_stride,
        activation=config.activation,
        batch_norm=config.batch_norm,
        batch_norm_momentum=config.batch_norm_momentum or 0.9,
        batch_norm_epsilon=config.batch_norm_epsilon or 1e-5,
        batch_norm_group=config.batch_norm_group,
        dropout=config.dropout,
        hidden=tuple(config.hidden),
        head=config.head,
        dtype=jnp.dtype(config.dtype),
    )
