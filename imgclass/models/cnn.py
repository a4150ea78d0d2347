"""The textbook convolutional network: blocks of convolution and pooling, then dense layers.

At its defaults, on 64x64x3 and 10 classes, it is the first example of the Keras documentation,
weight for weight: Conv 32 3x3 + ReLU, max-pool 2x2, flatten, dense; 308,426 parameters. Softmax is
not part of it: the loss takes logits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.errors import UsageError
from imgclass.models import layers


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
    def __call__(
        self, x: jax.Array, train: bool, offset: jax.Array | None = None
    ) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`."""
        act = layers.activation(self.activation)
        x = x.astype(self.dtype)
        stages = {}
        for block, width in enumerate(self.filters):
            name = f"block{block + 1}"
            for layer in range(self.depth):
                stride = self.stride if layer == 0 else 1
                x = self._conv(f"{name}_conv{layer + 1}", width, stride, x)
                if self.batch_norm:
                    x = layers.BatchNorm(
                        momentum=self.batch_norm_momentum,
                        epsilon=self.batch_norm_epsilon,
                        group=self.batch_norm_group,
                        dtype=self.dtype,
                        name=f"{name}_bn{layer + 1}",
                    )(x, train)
                x = act(x)
            stages[name] = x = self._pool(f"{name}_pool", x)
        if offset is not None:
            x = x + offset.astype(x.dtype)
        last_map = x
        x = layers.global_mean(x) if self.head == "average" else x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.hidden):
            x = act(layers.Dense(width, dtype=self.dtype, name=f"hidden{layer + 1}")(x))
        pooled = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = layers.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        features = {"stages": stages, "last_map": last_map, "pooled": pooled}
        return logits.astype(jnp.float32), features

    def _conv(self, name: str, width: int, stride: int, x: jax.Array) -> jax.Array:
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
        )(x)

    def _pool(self, name: str, x: jax.Array) -> jax.Array:
        if self.pool == "none":
            return x
        remedy = "raise data.image_size, or use fewer model.filters or model.pool=none"
        layers.check_fits(name, x.shape, self.pool_window, "VALID", "model.pool_window", remedy)
        pool = layers.max_pool if self.pool == "max" else layers.avg_pool
        return pool(x, self.pool_window, self.pool_stride)


def build(config: ml_collections.ConfigDict, num_classes: int) -> CNN:
    """Builds the module that config.model describes.

    Raises:
      UsageError: names the key whose value cannot be.
    """
    sizes = ["depth", "kernel_size", "stride", "pool_window", "pool_stride"]
    for key, value in [
        *((key, config[key]) for key in sizes),
        *(("filters", width) for width in config.filters),
        *(("hidden", width) for width in config.hidden),
    ]:
        if value < 1:
            raise UsageError(f"model.{key}={value} must be at least 1.")
    if not 0 <= config.dropout < 1:
        raise UsageError(f"model.dropout={config.dropout} must be in [0, 1).")
    layers.one_of(config.activation, layers.ACTIVATIONS, "model.activation")
    return CNN(
        num_classes=num_classes,
        filters=tuple(config.filters),
        padding=layers.one_of(config.padding, ("VALID", "SAME"), "model.padding"),
        pool=layers.one_of(config.pool, ("max", "avg", "none"), "model.pool"),
        activation=config.activation,
        batch_norm=config.batch_norm,
        batch_norm_momentum=config.batch_norm_momentum,
        batch_norm_epsilon=config.batch_norm_epsilon,
        batch_norm_group=config.batch_norm_group,
        dropout=config.dropout,
        hidden=tuple(config.hidden),
        head=layers.one_of(config.head, ("flatten", "average"), "model.head"),
        dtype=jnp.dtype(config.dtype),
        **{key: config[key] for key in sizes},
    )
