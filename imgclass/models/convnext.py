"""ConvNeXt, a convolutional network with the proportions of a transformer.

Tiny to large as torchvision has them, atto to nano as timm has them; theirs have 1x1 convolutions
where ours have dense layers, which is the same arithmetic. Every norm is a layer norm, so there are
no batch statistics. Source: Liu et al. (2022), arXiv:2201.03545; its stochastic depth is 0.1, 0.4,
0.5 and 0.5 for tiny, small, base and large on ImageNet-1k, and torchvision's the same.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.errors import UsageError
from imgclass.models import blocks, layers
from imgclass.models.torch_names import Rules


class Layout(NamedTuple):
    """Blocks in each of the four stages, and channels of each."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]


LAYOUTS: dict[str, Layout] = {
    "convnext_atto": Layout((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnext_femto": Layout((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnext_pico": Layout((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnext_nano": Layout((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnext_tiny": Layout((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": Layout((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": Layout((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": Layout((3, 3, 27, 3), (192, 384, 768, 1536)),
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}

# The stem divides the sides by 4, each later stage by 2; the windows do not overlap.
_SMALLEST = 32
# What each branch is multiplied with at first (Touvron et al., 2021, arXiv:2103.17239).
_LAYER_SCALE = 1e-6
# The paper's "truncated normal (0.02)" is cut at +-2, a hundred deviations away: never.
_NORMAL = nn.initializers.normal(0.02)


class Block(nn.Module):
    """A residual block: x + scale * project(gelu(expand(norm(depthwise(x))))).

    Attributes:
      drop_path: see `blocks.DropPath`.
      dtype: of the computation.
    """

    drop_path: float
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, h, w, width] to the same."""
        width = x.shape[-1]
        y = _conv(width, 7, padding=3, groups=width, dtype=self.dtype, name="conv")(x)
        y = layers.LayerNorm(name="norm")(y)
        y = _dense(4 * width, self.dtype, "expand")(y)
        y = layers.activation("gelu")(y)
        y = _dense(width, self.dtype, "project")(y)
        scale_init = nn.initializers.constant(_LAYER_SCALE)
        scale = self.param("layer_scale", scale_init, (width,), jnp.float32)
        y = y * scale.astype(self.dtype)[None, None, None, :]
        return x + blocks.DropPath(self.drop_path, name="drop_path")(y, train)


class ConvNeXt(nn.Module):
    """A 4x4 stem of stride 4, four stages, the mean over space, a layer norm and a dense layer.

    Attributes:
      num_classes: width of the dense layer.
      layout: see `Layout`.
      dropout: share of the dense layer's inputs set to zero in training.
      drop_path: rate of the last block, see `blocks.drop_path_rates`.
      dtype: of the computation; parameters, moments and logits are float32.
    """

    num_classes: int
    layout: Layout
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`.

        Raises:
          UsageError: at trace time, if a side is under 32 pixels.
        """
        if min(x.shape[1:3]) < _SMALLEST:
            raise UsageError(
                f"data.image_size={x.shape[1:3]}: ConvNeXt divides the sides by {_SMALLEST}, so "
                f"each must be at least {_SMALLEST} pixels."
            )
        depths, widths = self.layout
        x = _conv(widths[0], 4, stride=4, dtype=self.dtype, name="stem_conv")(x)
        stages = {"stem": (x := layers.LayerNorm(name="stem_norm")(x))}
        rates = iter(blocks.drop_path_rates(self.drop_path, sum(depths)))
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            name = f"stage{stage}"
            if stage > 1:
                x = layers.LayerNorm(name=f"{name}_down_norm")(x)
                x = _conv(width, 2, stride=2, dtype=self.dtype, name=f"{name}_down_conv")(x)
            for block in range(1, depth + 1):
                x = Block(next(rates), self.dtype, name=f"{name}_block{block}")(x, train)
            stages[name] = x
        pooled = layers.LayerNorm(name="norm")(layers.global_mean(x))
        features = {"stages": stages, "last_map": x, "pooled": pooled}
        dropped = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        head = _dense(self.num_classes, self.dtype, "head")
        return head(dropped).astype(jnp.float32), features


def build(config: ml_collections.ConfigDict, num_classes: int) -> ConvNeXt:
    """Builds the module that a checked config.model describes."""
    return ConvNeXt(
        num_classes=num_classes,
        layout=LAYOUTS[config.name],
        dropout=config.dropout,
        drop_path=config.drop_path,
        dtype=jnp.dtype(config.dtype),
    )


_conv = functools.partial(layers.Conv, kernel_init=_NORMAL)


def _dense(features: int, dtype: jax.typing.DTypeLike, name: str) -> layers.Dense:
    return layers.Dense(features, kernel_init=_NORMAL, dtype=dtype, name=name)


def _torchvision(name: str, offset: int) -> Callable[[re.Match[str]], str]:
    # Stem and stages, downsampling and stages take turns: 'features.1' is our stage 1.
    def replace(match: re.Match[str]) -> str:
        block = f".{int(match[2]) - 1}" if match.re.groups > 1 else ""
        return f"features.{2 * int(match[1]) - offset}{block}.{name}"

    return replace


def _timm(name: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}.{name}"


_BLOCK = r"stage(\d)_block(\d+)/"
_DOWN = r"stage(\d)_down_"
TORCH: dict[str, Rules] = {
    "torchvision": (
        ("stem_conv", "features.0.0"),
        ("stem_norm", "features.0.1"),
        (_DOWN + "norm", _torchvision("0", 2)),
        (_DOWN + "conv", _torchvision("1", 2)),
        (_BLOCK + "conv", _torchvision("block.0", 1)),
        (_BLOCK + "norm", _torchvision("block.2", 1)),
        (_BLOCK + "expand", _torchvision("block.3", 1)),
        (_BLOCK + "project", _torchvision("block.5", 1)),
        (_BLOCK + "layer_scale", _torchvision("layer_scale", 1)),
        ("norm", "classifier.0"),
        ("head", "classifier.2"),
    ),
    "timm": (
        ("stem_conv", "stem.0"),
        ("stem_norm", "stem.1"),
        (_DOWN + "norm", lambda match: f"stages.{int(match[1]) - 1}.downsample.0"),
        (_DOWN + "conv", lambda match: f"stages.{int(match[1]) - 1}.downsample.1"),
        (_BLOCK + "conv", _timm("conv_dw")),
        (_BLOCK + "norm", _timm("norm")),
        (_BLOCK + "expand", _timm("mlp.fc1")),
        (_BLOCK + "project", _timm("mlp.fc2")),
        (_BLOCK + "layer_scale", _timm("gamma")),
        ("norm", "head.norm"),
        ("head", "head.fc"),
    ),
}
