"""RegNetX and RegNetY, as torchvision has them: ResNeXt bottlenecks whose widths grow linearly.

RegNetY puts a squeeze-and-excitation behind the grouped convolution, whose hidden layer is a
quarter of the block's input. Nothing of the bottleneck is narrower than its output. Source:
Radosavovic et al. (2020), arXiv:2003.13678, who train without dropout and stochastic depth, as
torchvision does.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.models import blocks, layers
from imgclass.models.torch_names import Rules


@dataclasses.dataclass(frozen=True)
class Layout:
    """What tells one RegNet from another.

    Attributes:
      depths: blocks in each of the four stages.
      widths: channels of each stage.
      group_width: channels of a group of the 3x3 convolution; a narrower stage is one group.
      squeeze_excite: RegNetY, else RegNetX.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int
    squeeze_excite: bool = False


# Made from the paper's parameters (tests/models/test_regnet.py has them). Widths become multiples
# of the group's, in torchvision never less than nine tenths of the original. The paper and timm
# round to the nearest, and have 384, (128, 768) and 168 where regnet_x_400mf has 400,
# regnet_y_800mf (144, 784) and regnet_y_8gf 224; in timm the names of torchvision's end in '_tv'.
LAYOUTS: dict[str, Layout] = {
    "regnet_x_400mf": Layout((1, 2, 7, 12), (32, 64, 160, 400), 16),
    "regnet_x_800mf": Layout((1, 3, 7, 5), (64, 128, 288, 672), 16),
    "regnet_x_1_6gf": Layout((2, 4, 10, 2), (72, 168, 408, 912), 24),
    "regnet_x_3_2gf": Layout((2, 6, 15, 2), (96, 192, 432, 1008), 48),
    "regnet_x_8gf": Layout((2, 5, 15, 1), (80, 240, 720, 1920), 120),
    "regnet_x_16gf": Layout((2, 6, 13, 1), (256, 512, 896, 2048), 128),
    "regnet_x_32gf": Layout((2, 7, 13, 1), (336, 672, 1344, 2520), 168),
    "regnet_y_400mf": Layout((1, 3, 6, 6), (48, 104, 208, 440), 8, True),
    "regnet_y_800mf": Layout((1, 3, 8, 2), (64, 144, 320, 784), 16, True),
    "regnet_y_1_6gf": Layout((2, 6, 17, 2), (48, 120, 336, 888), 24, True),
    "regnet_y_3_2gf": Layout((2, 5, 13, 1), (72, 216, 576, 1512), 24, True),
    "regnet_y_8gf": Layout((2, 4, 10, 1), (224, 448, 896, 2016), 56, True),
    "regnet_y_16gf": Layout((2, 4, 11, 1), (224, 448, 1232, 3024), 112, True),
    "regnet_y_32gf": Layout((2, 5, 12, 1), (232, 696, 1392, 3712), 232, True),
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}

# Channels of the stem, of every member.
_STEM_WIDTH = 32
# As torchvision: convolutions normal with variance 2 / fan_out, the head with deviation 0.01.
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_HEAD = nn.initializers.normal(0.01)


class Block(nn.Module):
    """A residual block: relu(shortcut(x) + branch(x)).

    Attributes:
      width: channels of all it computes.
      stride: 2 to halve the picture, else 1.
      groups: of the 3x3 convolution.
      squeeze_excite: see `Layout`.
      drop_path: see `blocks.DropPath`.
      norm: makes a batch norm; takes `name`.
      dtype: of the computation.
    """

    width: int
    stride: int
    groups: int
    squeeze_excite: bool
    drop_path: float
    norm: functools.partial
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, h, w, in] to dtype[batch, h / stride, w / stride, width]."""
        conv = functools.partial(_conv, self.width, dtype=self.dtype)
        y = jax.nn.relu(self.norm(name="bn1")(conv(1, name="conv1")(x), train))
        y = conv(3, stride=self.stride, groups=self.groups, name="conv2")(y)
        y = jax.nn.relu(self.norm(name="bn2")(y, train))
        if self.squeeze_excite:
            y = blocks.SqueezeExcite(x.shape[-1] // 4, dtype=self.dtype, name="se")(y)
        y = self.norm(name="bn3")(conv(1, name="conv3")(y), train)
        y = blocks.DropPath(self.drop_path, name="drop_path")(y, train)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = conv(1, stride=self.stride, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x, train)
        return jax.nn.relu(x + y)


class RegNet(nn.Module):
    """A 3x3 stem of stride 2, four stages that halve the picture, the mean and a dense layer.

    Attributes:
      num_classes: width of the dense layer.
      layout: see `Layout`.
      dropout: share of the dense layer's inputs set to zero in training.
      drop_path: rate of the last block, see `blocks.drop_path_rates`.
      batch_norm_momentum: see `layers.BatchNorm`.
      batch_norm_epsilon: see `layers.BatchNorm`.
      batch_norm_group: see `layers.BatchNorm`.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    layout: Layout
    dropout: float = 0.0
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
        x = _conv(_STEM_WIDTH, 3, stride=2, dtype=self.dtype, name="stem_conv")(x)
        stages = {"stem": (x := jax.nn.relu(norm(name="stem_bn")(x, train)))}
        rates = iter(blocks.drop_path_rates(self.drop_path, sum(self.layout.depths)))
        for stage, depth in enumerate(self.layout.depths):
            width = self.layout.widths[stage]
            for block in range(depth):
                x = Block(
                    width=width,
                    stride=2 if block == 0 else 1,
                    groups=width // min(self.layout.group_width, width),
                    squeeze_excite=self.layout.squeeze_excite,
                    drop_path=next(rates),
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
            stages[f"stage{stage + 1}"] = x
        pooled = layers.global_mean(x)
        features = {"stages": stages, "last_map": x, "pooled": pooled}
        dropped = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        head = layers.Dense(self.num_classes, kernel_init=_HEAD, dtype=self.dtype, name="head")
        return head(dropped).astype(jnp.float32), features


def build(config: ml_collections.ConfigDict, num_classes: int) -> RegNet:
    """Builds the module that a checked config.model describes."""
    return RegNet(
        num_classes=num_classes,
        layout=LAYOUTS[config.name],
        dropout=config.dropout,
        drop_path=config.drop_path,
        batch_norm_momentum=config.batch_norm_momentum or 0.9,
        batch_norm_epsilon=config.batch_norm_epsilon or 1e-5,
        batch_norm_group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )


def _conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    dtype: jax.typing.DTypeLike,
    name: str,
) -> layers.Conv:
    return layers.Conv(
        features,
        kernel,
        stride,
        padding=kernel // 2,
        groups=groups,
        use_bias=False,
        kernel_init=_KAIMING,
        dtype=dtype,
        name=name,
    )


def _torchvision(name: str) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        stage, block = int(match[1]), int(match[2]) - 1
        return f"trunk_output.block{stage}.block{stage}-{block}.{match.expand(name)}"

    return replace


_BLOCK = r"stage(\d+)_block(\d+)/"
TORCH: dict[str, Rules] = {
    "torchvision": (
        ("stem_conv", "stem.0"),
        ("stem_bn", "stem.1"),
        ("head", "fc"),
        (_BLOCK + "conv1", _torchvision("f.a.0")),
        (_BLOCK + "bn1", _torchvision("f.a.1")),
        (_BLOCK + "conv2", _torchvision("f.b.0")),
        (_BLOCK + "bn2", _torchvision("f.b.1")),
        (_BLOCK + "se/reduce", _torchvision("f.se.fc1")),
        (_BLOCK + "se/expand", _torchvision("f.se.fc2")),
        (_BLOCK + "conv3", _torchvision("f.c.0")),
        (_BLOCK + "bn3", _torchvision("f.c.1")),
        (_BLOCK + "shortcut_conv", _torchvision("proj.0")),
        (_BLOCK + "shortcut_bn", _torchvision("proj.1")),
    ),
    "timm": (
        ("stem_(conv|bn)", r"stem.\1"),
        ("head", "head.fc"),
        (_BLOCK + r"conv(\d)", r"s\1.b\2.conv\3.conv"),
        (_BLOCK + r"bn(\d)", r"s\1.b\2.conv\3.bn"),
        (_BLOCK + "se/reduce", r"s\1.b\2.se.fc1"),
        (_BLOCK + "se/expand", r"s\1.b\2.se.fc2"),
        (_BLOCK + "shortcut_(conv|bn)", r"s\1.b\2.downsample.\3"),
    ),
}
