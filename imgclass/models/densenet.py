"""DenseNet: each layer takes all maps before it in its stage, and adds a few of its own.

The bottleneck and compression form (DenseNet-BC) for ImageNet, as torchvision and timm have it.
Source: Huang et al. (2017), arXiv:1608.06993, table 1.
"""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.errors import UsageError
from imgclass.models import layers
from imgclass.models.resnet import LINEAR
from imgclass.models.torch_names import Rules


@dataclasses.dataclass(frozen=True)
class Layout:
    """What tells one of them from another.

    Attributes:
      depths: layers in each stage.
      growth: channels that a layer adds.
      stem_width: channels of the first convolution.
    """

    depths: tuple[int, ...]
    growth: int = 32
    stem_width: int = 64


LAYOUTS: dict[str, Layout] = {
    "densenet121": Layout((6, 12, 24, 16)),
    "densenet161": Layout((6, 12, 36, 24), growth=48, stem_width=96),
    "densenet169": Layout((6, 12, 32, 32)),
    "densenet201": Layout((6, 12, 48, 32)),
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}

# A layer's 1x1 convolution gives this many times the growth to its 3x3.
_BOTTLENECK = 4
# Normal with variance 2 / fan_in, as torchvision.
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Layer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution.

    Attributes:
      growth: channels of the result.
      norm: makes a batch norm; takes `name`.
      dtype: of the computation.
    """

    growth: int
    norm: functools.partial
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, h, w, in] to dtype[batch, h, w, growth]."""
        x = jax.nn.relu(self.norm(name="bn1")(x, train))
        x = _conv(_BOTTLENECK * self.growth, 1, 1, self.dtype, "conv1")(x)
        x = jax.nn.relu(self.norm(name="bn2")(x, train))
        return _conv(self.growth, 3, 1, self.dtype, "conv2")(x)


class DenseNet(nn.Module):
    """A stem, stages of layers with a transition between two, the mean over space, a dense layer.

    Attributes:
      num_classes: width of the dense layer.
      layout: see `Layout`.
      stem: 'imagenet' (7x7 stride 2, then max-pool 3x3 stride 2) or 'cifar' (3x3 stride 1).
      batch_norm_momentum: see `layers.BatchNorm`.
      batch_norm_epsilon: see `layers.BatchNorm`.
      batch_norm_group: see `layers.BatchNorm`.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    layout: Layout
    stem: str = "imagenet"
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    batch_norm_group: int = 0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`.

        The maps of the stages are not yet normalised; the last map is.

        Raises:
          UsageError: at trace time, for a picture that the pools between the stages leave empty.
        """
        norm = functools.partial(
            layers.BatchNorm,
            momentum=self.batch_norm_momentum,
            epsilon=self.batch_norm_epsilon,
            group=self.batch_norm_group,
            dtype=self.dtype,
        )
        small = self.stem == "cifar"
        kernel, stride = (3, 1) if small else (7, 2)
        x = _conv(self.layout.stem_width, kernel, stride, self.dtype, "conv1")(x)
        x = jax.nn.relu(norm(name="bn1")(x, train))
        stages = {"stem": x}
        if not small:
            x = layers.max_pool(x, 3, 2, padding=1)
        for stage, depth in enumerate(self.layout.depths, start=1):
            if stage > 1:
                x = self._transition(x, f"transition{stage - 1}", norm, train)
            for index in range(depth):
                layer = Layer(
                    self.layout.growth, norm, self.dtype, name=f"stage{stage}_layer{index + 1}"
                )
                x = jnp.concatenate([x, layer(x, train)], axis=-1)
            stages[f"stage{stage}"] = x
        last_map = jax.nn.relu(norm(name="bn")(x, train))
        pooled = layers.global_mean(last_map)
        head = layers.Dense(self.num_classes, kernel_init=LINEAR, dtype=self.dtype, name="head")
        features = {"stages": stages, "last_map": last_map, "pooled": pooled}
        return head(pooled).astype(jnp.float32), features

    def _transition(
        self, x: jax.Array, name: str, norm: functools.partial, train: bool
    ) -> jax.Array:
        """Halves the channels and both sides."""
        if min(x.shape[1:3]) < 2:
            raise UsageError(
                f"model layer {name}: nothing is left of the picture to halve. Raise "
                f"data.image_size, or use model.stem=cifar."
            )
        x = jax.nn.relu(norm(name=f"{name}_bn")(x, train))
        x = _conv(x.shape[-1] // 2, 1, 1, self.dtype, f"{name}_conv")(x)
        return layers.avg_pool(x, 2)


def build(config: ml_collections.ConfigDict, num_classes: int) -> DenseNet:
    """Builds the module that a checked config.model describes."""
    return DenseNet(
        num_classes=num_classes,
        layout=LAYOUTS[config.name],
        stem=config.stem,
        batch_norm_momentum=config.batch_norm_momentum or 0.9,
        batch_norm_epsilon=config.batch_norm_epsilon or 1e-5,
        batch_norm_group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )


def _conv(
    features: int, kernel: int, stride: int, dtype: jax.typing.DTypeLike, name: str
) -> layers.Conv:
    return layers.Conv(
        features,
        kernel,
        stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=_KAIMING,
        dtype=dtype,
        name=name,
    )


def _in_stage(match: re.Match[str]) -> str:
    part = {"bn": "norm", "conv": "conv"}[match[3]]
    return f"features.denseblock{match[1]}.denselayer{match[2]}.{part}{match[4]}"


_RULES: Rules = (
    ("conv1", "features.conv0"),
    ("bn1", "features.norm0"),
    (r"stage(\d)_layer(\d+)/(bn|conv)(\d)", _in_stage),
    (r"(transition\d)_conv", r"features.\1.conv"),
    (r"(transition\d)_bn", r"features.\1.norm"),
    ("bn", "features.norm5"),
    ("head", "classifier"),
)
TORCH: dict[str, Rules] = {"torchvision": _RULES, "timm": _RULES}
