"""The airbench nets: small networks built to train on CIFAR-10 in as few seconds as possible.

A 2x2 convolution that whitens the patches it sees, three groups of convolutions that each start as
the identity, a max over what is left and a dense layer without a bias. The whitening kernel comes
from the training pictures (`whitening`) and is not trained, so it stands among the batch
statistics; only its bias is a parameter. Source: Jordan (2024), 94% on CIFAR-10 in 3.29 seconds on
a single GPU, arXiv:2404.00498, and the programs published with it.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.models import layers


@dataclasses.dataclass(frozen=True)
class Layout:
    """What tells the nets apart.

    Attributes:
      widths: channels of the three groups.
      residual: whether a group has a third convolution, and a shortcut around its last two.
      momentum: of the running batch statistics.
      unit_head: whether the dense layer starts with unit variance (for Muon) rather than uniform
        within 1 / sqrt(fan_in).
      scale: what the logits are multiplied by.
    """

    widths: tuple[int, int, int]
    residual: bool = False
    momentum: float = 0.6
    unit_head: bool = False
    scale: float = 1 / 9


LAYOUTS: dict[str, Layout] = {
    "airbench94": Layout((64, 256, 256), unit_head=True, scale=1 / 256),
    "airbench95": Layout((128, 384, 384)),
    "airbench96": Layout((128, 384, 512), residual=True, momentum=0.9),
}
SIZES = dict.fromkeys(LAYOUTS, 32)
TORCH: dict[str, tuple] = {}

EPSILON = 1e-12  # of batch norm; as published
SAMPLE = 5000  # pictures that the whitening kernel is computed from
WHITENING_EPSILON = 5e-4  # added to the eigenvalues

# Uniform within 1 / sqrt(fan_in), as PyTorch.
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def whitening(images: jax.Array) -> jax.Array:
    """Computes the kernel that whitens 2x2 patches, each filter also with its sign turned.

    The filters are the eigenvectors of the patches' second moments (not centred), each divided by
    the root of its eigenvalue, so that on these pictures every output has variance near 1 and no
    two are correlated, but for the signs.

    Args:
      images: f32[n, h, w, c], standardised.

    Returns:
      f32[2, 2, c, 8 * c].
    """
    n, h, w, c = images.shape
    corners = [images[:, i : h - 1 + i, j : w - 1 + j] for i in (0, 1) for j in (0, 1)]
    patches = jnp.stack(corners, axis=3).reshape(n * (h - 1) * (w - 1), 4 * c)
    # Highest: on an accelerator's default of fewer digits the small eigenvalues would be lost.
    moments = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
    values, vectors = jnp.linalg.eigh(moments)
    filters = vectors / jnp.sqrt(values + WHITENING_EPSILON)[None, :]
    return jnp.concatenate([filters, -filters], axis=1).reshape(2, 2, c, 8 * c)


def fit(variables: dict[str, Any], images: jax.Array) -> dict[str, Any]:
    """Returns the variables with the kernel that whitens f32[n, h, w, c] standardised pictures."""
    stats = variables["batch_stats"]
    return variables | {"batch_stats": stats | {"whiten": {"kernel": whitening(images)}}}


def _identity_first(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Draws a kernel whose first outputs pass the inputs through, and the others are random."""
    side, _, channels, features = shape
    kernel = _UNIFORM(key, shape, dtype)
    passed = min(channels, features)
    identity = (
        jnp.zeros(shape, dtype)
        .at[side // 2, side // 2]
        .set(jnp.eye(shape[2], shape[3], dtype=dtype))
    )
    return kernel.at[..., :passed].set(identity[..., :passed])


class Whiten(nn.Module):
    """The first convolution: a kernel that is given, and a bias that is trained."""

    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float[batch, h, w, c] to dtype[batch, h - 1, w - 1, 8 * c]."""
        channels = x.shape[-1]
        shape = (2, 2, channels, 8 * channels)
        start = nn.initializers.orthogonal()
        kernel = self.variable(
            "batch_stats", "kernel", lambda: start(self.make_rng("params"), shape, jnp.float32)
        )
        bias = self.param("bias", nn.initializers.zeros, shape[3:], jnp.float32)
        y = layers.conv(x.astype(self.dtype), kernel.value.astype(self.dtype))
        return y + bias.astype(self.dtype)[None, None, None, :]


class Group(nn.Module):
    """Convolution, max-pool, convolution, each with batch norm and GELU; see `Layout`."""

    width: int
    residual: bool
    momentum: float
    epsilon: float
    group: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps float[batch, h, w, c] to dtype[batch, h // 2, w // 2, width]."""
        gelu = layers.activation("gelu")
        x = layers.max_pool(self._conv(x, 1), 2)
        x = shortcut = gelu(self._norm(x, 1, train))
        if not self.residual:
            return gelu(self._norm(self._conv(x, 2), 2, train))
        x = gelu(self._norm(self._conv(x, 2), 2, train))
        return gelu(self._norm(self._conv(x, 3), 3, train) + shortcut)

    def _conv(self, x: jax.Array, number: int) -> jax.Array:
        return layers.Conv(
            self.width,
            kernel_size=3,
            padding=1,
            use_bias=False,
            kernel_init=_identity_first,
            dtype=self.dtype,
            name=f"conv{number}",
        )(x)

    def _norm(self, x: jax.Array, number: int, train: bool) -> jax.Array:
        return layers.BatchNorm(
            momentum=self.momentum,
            epsilon=self.epsilon,
            group=self.group,
            use_scale=False,
            dtype=self.dtype,
            name=f"bn{number}",
        )(x, train)


class Airbench(nn.Module):
    """See the module. `dtype` is of the computation; parameters and logits are float32."""

    num_classes: int
    layout: Layout
    momentum: float
    epsilon: float
    group: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`."""
        x = layers.activation("gelu")(Whiten(self.dtype, name="whiten")(x))
        stages = {"whiten": x}
        for number, width in enumerate(self.layout.widths, start=1):
            name = f"group{number}"
            layers.check_fits(
                name, x.shape, 2, "VALID", "model.name", "raise data.image_size to 32 or more"
            )
            x = Group(
                width=width,
                residual=self.layout.residual,
                momentum=self.momentum,
                epsilon=self.epsilon,
                group=self.group,
                dtype=self.dtype,
                name=name,
            )(x, train)
            stages[name] = x
        pooled = x.max(axis=(1, 2))
        init = nn.initializers.normal(1.0) if self.layout.unit_head else _UNIFORM
        head = layers.Dense(
            self.num_classes, use_bias=False, kernel_init=init, dtype=self.dtype, name="head"
        )
        logits = head(pooled).astype(jnp.float32) * self.layout.scale
        return logits, {"stages": stages, "last_map": x, "pooled": pooled}


def build(config: ml_collections.ConfigDict, num_classes: int) -> Airbench:
    """Builds the module that a checked config.model describes."""
    layout = LAYOUTS[config.name]
    return Airbench(
        num_classes=num_classes,
        layout=layout,
        momentum=config.batch_norm_momentum or layout.momentum,
        epsilon=config.batch_norm_epsilon or EPSILON,
        group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )
