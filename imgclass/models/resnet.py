"""Residual networks, version 1.5, and their kin: ResNeXt, wide bottlenecks, SE-ResNet.

As torchvision has them, and timm where it does not. Version 1.5 puts the stride of a bottleneck on
its 3x3 convolution. Padding is explicit and the same on both sides: 'SAME' at stride 2 pads one
side more, and torchvision's weights would then give other logits. Nets that normalise before they
convolve are in `resnet_v2.py`, those of Zagoruyko and Komodakis in `wide_resnet.py`.

Sources: He et al. (2015), arXiv:1512.03385; for small pictures section 4.2, with the first stage's
width of 64 kept. Xie et al. (2017), arXiv:1611.05431. Hu et al. (2018), arXiv:1709.01507.
Stochastic depth (`model.drop_path`) is 0.05 in recipes A1 and A2 of Wightman et al. (2021),
arXiv:2110.00476, and none in the papers above.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.models import blocks, layers
from imgclass.models.torch_names import Rules


@dataclasses.dataclass(frozen=True)
class Layout:
    """What tells one residual network from another.

    Attributes:
      depths: blocks in each of the four stages.
      bottleneck: 1x1, 3x3, 1x1 convolutions in a block; else two of 3x3.
      widen: width of a bottleneck's inner convolutions, as a multiple of the plain network's.
      groups: of the 3x3 convolution of a bottleneck.
      squeeze_excite: whether a gate of its channels ends each branch.
    """

    depths: tuple[int, ...]
    bottleneck: bool = True
    widen: int = 1
    groups: int = 1
    squeeze_excite: bool = False


class Part(NamedTuple):
    """One convolution: output channels, side of the square kernel, stride, groups."""

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1


# He et al. (2015), table 1.
DEPTHS: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

# '32x4d' is 32 groups of 4 channels in the first stage: 128, twice the plain 64.
LAYOUTS: dict[str, Layout] = {
    "resnet18": Layout(DEPTHS[18], bottleneck=False),
    "resnet34": Layout(DEPTHS[34], bottleneck=False),
    "resnet50": Layout(DEPTHS[50]),
    "resnet101": Layout(DEPTHS[101]),
    "resnet152": Layout(DEPTHS[152]),
    "resnext50_32x4d": Layout(DEPTHS[50], widen=2, groups=32),
    "resnext101_32x8d": Layout(DEPTHS[101], widen=4, groups=32),
    "resnext101_64x4d": Layout(DEPTHS[101], widen=4, groups=64),
    "wide_resnet50_2": Layout(DEPTHS[50], widen=2),
    "wide_resnet101_2": Layout(DEPTHS[101], widen=2),
    "seresnet18": Layout(DEPTHS[18], bottleneck=False, squeeze_excite=True),
    "seresnet34": Layout(DEPTHS[34], bottleneck=False, squeeze_excite=True),
    "seresnet50": Layout(DEPTHS[50], squeeze_excite=True),
    "seresnet101": Layout(DEPTHS[101], squeeze_excite=True),
    "seresnet152": Layout(DEPTHS[152], squeeze_excite=True),
    "seresnext50_32x4d": Layout(DEPTHS[50], widen=2, groups=32, squeeze_excite=True),
    "seresnext101_32x4d": Layout(DEPTHS[101], widen=2, groups=32, squeeze_excite=True),
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}

# Normal with variance 2 / fan_out (He et al., 2015, arXiv:1502.01852), as torchvision.
KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform within 1 / sqrt(fan_in), as PyTorch's Linear. Its bias starts so too; ours at zero.
LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Channels of a squeeze-and-excitation's input for one of its hidden layer, which has 8 or more.
_SQUEEZE = 16


class Block(nn.Module):
    """A residual block: relu(shortcut(x) + branch(x)).

    Attributes:
      width: channels of the branch; a bottleneck returns four times as many.
      stride: 2 to halve the picture, else 1.
      layout: what kind of branch it is.
      zero_init: starts the branch's last scale at zero, so that the block begins as its shortcut
        (Goyal et al., 2017, arXiv:1706.02677).
      drop_path: see `blocks.DropPath`.
      norm: makes a batch norm; takes `name` and `scale_init`.
      dtype: of the computation.
    """

    width: int
    stride: int
    layout: Layout
    zero_init: bool
    drop_path: float
    norm: functools.partial
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, h, w, in] to dtype[batch, h / stride, w / stride, out]."""
        plan = branch(self.layout, self.width, self.stride)
        out = plan[-1].features
        y = x
        for i, part in enumerate(plan, start=1):
            last = i == len(plan)
            y = conv(part, self.dtype, f"conv{i}")(y)
            zero = last and self.zero_init
            scale_init = nn.initializers.zeros if zero else nn.initializers.ones
            y = self.norm(name=f"bn{i}", scale_init=scale_init)(y, train)
            y = y if last else jax.nn.relu(y)
        if self.layout.squeeze_excite:
            hidden = max(out // _SQUEEZE, 8)
            y = blocks.SqueezeExcite(hidden, dtype=self.dtype, name="se")(y)
        y = blocks.DropPath(self.drop_path, name="drop_path")(y, train)
        if self.stride != 1 or x.shape[-1] != out:
            x = conv(Part(out, 1, self.stride), self.dtype, "shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x, train)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the mean over space and a dense layer.

    Attributes:
      num_classes: width of the dense layer.
      layout: how many blocks, of which kind.
      stem: 'imagenet' (7x7 stride 2, then max-pool 3x3 stride 2) or 'cifar' (3x3 stride 1), which
        keeps the resolution that a small picture cannot spare.
      zero_init_residual: see `Block`.
      drop_path: rate of the last block, see `blocks.drop_path_rates`.
      batch_norm_momentum: see `layers.BatchNorm`.
      batch_norm_epsilon: see `layers.BatchNorm`.
      batch_norm_group: see `layers.BatchNorm`.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    layout: Layout
    stem: str = "imagenet"
    zero_init_residual: bool = True
    drop_path: float = 0.0
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    batch_norm_group: int = 0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`."""
        norm = functools.partial(
            layers.BatchNorm,
            momentum=self.batch_norm_momentum,
            epsilon=self.batch_norm_epsilon,
            group=self.batch_norm_group,
            dtype=self.dtype,
        )
        small = self.stem == "cifar"
        x = conv(Part(64, 3) if small else Part(64, 7, 2), self.dtype, "conv1")(x)
        x = jax.nn.relu(norm(name="bn1")(x, train))
        stages = {"stem": x}
        if not small:
            x = layers.max_pool(x, 3, 2, padding=1)
        rates = iter(blocks.drop_path_rates(self.drop_path, sum(self.layout.depths)))
        for stage, depth in enumerate(self.layout.depths):
            for block in range(depth):
                x = Block(
                    width=64 * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    layout=self.layout,
                    zero_init=self.zero_init_residual,
                    drop_path=next(rates),
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
            stages[f"stage{stage + 1}"] = x
        pooled = layers.global_mean(x)
        head = layers.Dense(self.num_classes, kernel_init=LINEAR, dtype=self.dtype, name="head")
        features = {"stages": stages, "last_map": x, "pooled": pooled}
        return head(pooled).astype(jnp.float32), features


def build(config: ml_collections.ConfigDict, num_classes: int) -> ResNet:
    """Builds the module that a checked config.model describes."""
    return ResNet(
        num_classes=num_classes,
        layout=LAYOUTS[config.name],
        stem=config.stem,
        zero_init_residual=config.zero_init_residual,
        drop_path=config.drop_path,
        batch_norm_momentum=config.batch_norm_momentum or 0.9,
        batch_norm_epsilon=config.batch_norm_epsilon or 1e-5,
        batch_norm_group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )


def branch(layout: Layout, width: int, stride: int) -> list[Part]:
    """Returns the convolutions of a block's branch, in order.

    Args:
      layout: what kind of branch it is.
      width: channels of the plain network's inner convolutions at this stage.
      stride: of the block; the 3x3 convolution of a bottleneck takes it, else the first.
    """
    if not layout.bottleneck:
        return [Part(width, 3, stride), Part(width, 3)]
    inner = width * layout.widen
    return [Part(inner, 1), Part(inner, 3, stride, layout.groups), Part(4 * width, 1)]


def conv(part: Part, dtype: jax.typing.DTypeLike, name: str) -> layers.Conv:
    """Returns the convolution layer, padded to keep the size at stride 1, without a bias."""
    return layers.Conv(
        part.features,
        part.kernel_size,
        part.stride,
        padding=part.kernel_size // 2,
        groups=part.groups,
        use_bias=False,
        kernel_init=KAIMING,
        dtype=dtype,
        name=name,
    )


def _in_block(name: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"layer{match[1]}.{int(match[2]) - 1}.{match.expand(name)}"


_BLOCK = r"stage(\d+)_block(\d+)"
_RULES: Rules = (
    ("conv1|bn1", r"\g<0>"),
    ("head", "fc"),
    (_BLOCK + r"/(conv\d|bn\d)", _in_block(r"\3")),
    (_BLOCK + "/shortcut_conv", _in_block("downsample.0")),
    (_BLOCK + "/shortcut_bn", _in_block("downsample.1")),
    (_BLOCK + "/se/reduce", _in_block("se.fc1")),
    (_BLOCK + "/se/expand", _in_block("se.fc2")),
)
# Both libraries name the parts alike; torchvision has no squeeze-and-excitation among them.
TORCH: dict[str, Rules] = {"torchvision": _RULES, "timm": _RULES}
