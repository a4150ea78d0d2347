"""VGG: 3x3 convolutions in five stages, then three dense layers; with and without batch norm.

As torchvision has them. `model.dropout` is after both hidden dense layers; the paper's rate is
0.5. Source: Simonyan and Zisserman (2015), arXiv:1409.1556, table 1, columns A, B, D and E.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from imgclass.errors import UsageError
from imgclass.models import layers
from imgclass.models.torch_names import Rules


@dataclasses.dataclass(frozen=True)
class Layout:
    """What tells one of them from another.

    Attributes:
      depths: convolutions in each stage.
      batch_norm: whether each is followed by batch norm.
    """

    depths: tuple[int, ...]
    batch_norm: bool = False


_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
LAYOUTS: dict[str, Layout] = {
    **{name: Layout(depths) for name, depths in _DEPTHS.items()},
    **{f"{name}_bn": Layout(depths, batch_norm=True) for name, depths in _DEPTHS.items()},
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}

_WIDTHS = (64, 128, 256, 512, 512)
_GRID = 7
_HIDDEN = 4096
# The dense layer that takes a flattened map: (height, width, channels) of the map.
FLATTENED: dict[str, tuple[int, int, int]] = {"classifier1": (_GRID, _GRID, _WIDTHS[-1])}

# As torchvision starts them; the paper's own start needed a trained shallow net.
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_NORMAL = nn.initializers.normal(0.01)


class VGG(nn.Module):
    """Stages of 3x3 convolutions that end in a 2x2 max-pool, then the dense layers.

    Layers before the dense ones are named by their place in torchvision's list, which counts
    activations and pools too.

    Attributes:
      num_classes: width of the last dense layer.
      layout: see `Layout`.
      dropout: share of each hidden dense layer's outputs set to zero in training.
      batch_norm_momentum: see `layers.BatchNorm`.
      batch_norm_epsilon: see `layers.BatchNorm`.
      batch_norm_group: see `layers.BatchNorm`.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    layout: Layout
    dropout: float = 0.0
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    batch_norm_group: int = 0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`.

        Raises:
          UsageError: at trace time, for pictures under 32 pixels, which five pools leave empty.
        """
        if min(x.shape[1:3]) < 2 ** len(_WIDTHS):
            raise UsageError(
                f"VGG halves the picture five times; {x.shape[1]}x{x.shape[2]} is too small. "
                f"Raise data.image_size to at least (32, 32)."
            )
        x = x.astype(self.dtype)
        place = 0
        stages = {}
        for stage, (width, depth) in enumerate(zip(_WIDTHS, self.layout.depths, strict=True)):
            for _ in range(depth):
                x = layers.Conv(
                    width,
                    3,
                    padding=1,
                    kernel_init=_KAIMING,
                    dtype=self.dtype,
                    name=f"conv{place}",
                )(x)
                place += 1
                if self.layout.batch_norm:
                    x = self._norm(f"bn{place}")(x, train)
                    place += 1
                x = jax.nn.relu(x)
                place += 1
            x = layers.max_pool(x, 2)
            place += 1
            stages[f"stage{stage + 1}"] = x
        last_map = x
        x = adaptive_mean(x, _GRID)
        x = layers.flatten(x, train)
        for name in ("classifier1", "classifier2"):
            pooled = jax.nn.relu(self._dense(_HIDDEN, name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        logits = self._dense(self.num_classes, "head")(x)
        features = {"stages": stages, "last_map": last_map, "pooled": pooled}
        return logits.astype(jnp.float32), features

    def _norm(self, name: str) -> layers.BatchNorm:
        return layers.BatchNorm(
            momentum=self.batch_norm_momentum,
            epsilon=self.batch_norm_epsilon,
            group=self.batch_norm_group,
            dtype=self.dtype,
            name=name,
        )

    def _dense(self, features: int, name: str) -> layers.Dense:
        return layers.Dense(features, kernel_init=_NORMAL, dtype=self.dtype, name=name)


def build(config: ml_collections.ConfigDict, num_classes: int) -> VGG:
    """Builds the module that a checked config.model describes."""
    return VGG(
        num_classes=num_classes,
        layout=LAYOUTS[config.name],
        dropout=config.dropout,
        batch_norm_momentum=config.batch_norm_momentum or 0.9,
        batch_norm_epsilon=config.batch_norm_epsilon or 1e-5,
        batch_norm_group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )


def adaptive_mean(x: jax.Array, side: int) -> jax.Array:
    """Averages a map of any size over a square grid of windows, in float32 or wider.

    Of n pixels, window i takes those from floor(i * n / side) up to ceil((i + 1) * n / side):
    windows overlap where side does not divide n, and repeat pixels where n is less. As PyTorch's
    AdaptiveAvgPool2d.

    Args:
      x: float[batch, height, width, channels].
      side: of the grid, windows.

    Returns:
      float[batch, side, side, channels], of x's dtype.
    """
    if x.shape[1:3] == (side, side):
        return x
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    rows, columns = (jnp.asarray(_windows(n, side), wide) for n in x.shape[1:3])
    means = jnp.einsum(
        "ih,bhwc,jw->bijc", rows, x.astype(wide), columns, precision=jax.lax.Precision.HIGHEST
    )
    return means.astype(x.dtype)


def _windows(n: int, side: int) -> np.ndarray:
    """Returns f64[side, n]: each row averages one window."""
    weights = np.zeros((side, n))
    for i in range(side):
        start, stop = i * n // side, -(-(i + 1) * n // side)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


TORCH: dict[str, Rules] = {
    "torchvision": (
        (r"(?:conv|bn)(\d+)", r"features.\1"),
        ("classifier1", "classifier.0"),
        ("classifier2", "classifier.3"),
        ("head", "classifier.6"),
    )
}
