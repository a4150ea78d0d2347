"""Residual networks, version 2: norm and ReLU before each convolution, nothing after the sum.

As timm has them with batch norm. A strided bottleneck strides on its 3x3 convolution, where the
paper's does on its first; the shortcut is convolved, from the normalised map, only where the shape
changes. With stem='cifar' they are the paper's nets for small pictures in the widths of
kuangliu/pytorch-cifar, but with the paper's norm before the last mean, which that one leaves out.

Source: He et al. (2016), arXiv:1603.05027. Dropout between the convolutions of a block is for
`wide_resnet.py`, which builds its nets from these parts.
"""

import functools
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.models import blocks, layers
from imgclass.models.resnet import DEPTHS, LINEAR, Layout, Part, branch, conv
from imgclass.models.torch_names import Rules

LAYOUTS: dict[str, Layout] = {
    "resnetv2_18": Layout(DEPTHS[18], bottleneck=False),
    "resnetv2_34": Layout(DEPTHS[34], bottleneck=False),
    "resnetv2_50": Layout(DEPTHS[50]),
    "resnetv2_101": Layout(DEPTHS[101]),
    "resnetv2_152": Layout(DEPTHS[152]),
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}


class Block(nn.Module):
    """A residual block: shortcut + branch(relu(norm(x))).

    Attributes:
      width: see `resnet.branch`.
      stride: 2 to halve the picture, else 1.
      layout: what kind of branch it is.
      dropout: rate before the last convolution of the branch.
      drop_path: see `blocks.DropPath`.
      norm: makes a batch norm; takes `name`.
      dtype: of the computation.
    """

    width: int
    stride: int
    layout: Layout
    dropout: float
    drop_path: float
    norm: functools.partial
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, h, w, in] to dtype[batch, h / stride, w / stride, out]."""
        plan = branch(self.layout, self.width, self.stride)
        out = plan[-1].features
        y = jax.nn.relu(self.norm(name="bn1")(x, train))
        if self.stride != 1 or x.shape[-1] != out:
            x = conv(Part(out, 1, self.stride), self.dtype, "shortcut_conv")(y)
        for i, part in enumerate(plan, start=1):
            if i > 1:
                y = jax.nn.relu(self.norm(name=f"bn{i}")(y, train))
            if i == len(plan):
                y = nn.Dropout(self.dropout, deterministic=not train)(y)
            y = conv(part, self.dtype, f"conv{i}")(y)
        return x + blocks.DropPath(self.drop_path, name="drop_path")(y, train)


class ResNetV2(nn.Module):
    """A convolution, stages of residual blocks, a norm, the mean over space and a dense layer.

    Attributes:
      num_classes: width of the dense layer.
      layout: how many blocks, of which kind.
      width: see `resnet.branch`, in the first stage; doubled from stage to stage.
      stem_width: channels of the first convolution.
      stem: 'imagenet' (7x7 stride 2, then max-pool 3x3 stride 2) or 'cifar' (3x3 stride 1).
      dropout: see `Block`.
      drop_path: rate of the last block, see `blocks.drop_path_rates`.
      batch_norm_momentum: see `layers.BatchNorm`.
      batch_norm_epsilon: see `layers.BatchNorm`.
      batch_norm_group: see `layers.BatchNorm`.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    layout: Layout
    width: int = 64
    stem_width: int = 64
    stem: str = "imagenet"
    dropout: float = 0.0
    drop_path: float = 0.0
    batch_norm_momentum: float = 0.9
    batch_norm_epsilon: float = 1e-5
    batch_norm_group: int = 0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`.

        The maps of the stages are sums, not yet normalised; the last map is.
        """
        norm = functools.partial(
            layers.BatchNorm,
            momentum=self.batch_norm_momentum,
            epsilon=self.batch_norm_epsilon,
            group=self.batch_norm_group,
            dtype=self.dtype,
        )
        small = self.stem == "cifar"
        stem = Part(self.stem_width, 3) if small else Part(self.stem_width, 7, 2)
        x = conv(stem, self.dtype, "conv1")(x)
        stages = {"stem": x}
        if not small:
            x = layers.max_pool(x, 3, 2, padding=1)
        rates = iter(blocks.drop_path_rates(self.drop_path, sum(self.layout.depths)))
        for stage, depth in enumerate(self.layout.depths):
            for block in range(depth):
                x = Block(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    layout=self.layout,
                    dropout=self.dropout,
                    drop_path=next(rates),
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
            stages[f"stage{stage + 1}"] = x
        last_map = jax.nn.relu(norm(name="bn")(x, train))
        pooled = layers.global_mean(last_map)
        head = layers.Dense(self.num_classes, kernel_init=LINEAR, dtype=self.dtype, name="head")
        features = {"stages": stages, "last_map": last_map, "pooled": pooled}
        return head(pooled).astype(jnp.float32), features


def build(config: ml_collections.ConfigDict, num_classes: int) -> ResNetV2:
    """Builds the module that a checked config.model describes."""
    return ResNetV2(
        num_classes=num_classes,
        layout=LAYOUTS[config.name],
        stem=config.stem,
        drop_path=config.drop_path,
        batch_norm_momentum=config.batch_norm_momentum or 0.9,
        batch_norm_epsilon=config.batch_norm_epsilon or 1e-5,
        batch_norm_group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )


def _in_block(name: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}.{name}{match[3]}"


_BLOCK = r"stage(\d+)_block(\d+)"
TORCH: dict[str, Rules] = {
    "timm": (
        ("conv1", "stem.conv"),
        ("bn", "norm"),
        ("head", "head.fc"),
        (_BLOCK + r"/conv(\d)", _in_block("conv")),
        (_BLOCK + r"/bn(\d)", _in_block("norm")),
        (_BLOCK + "/shortcut_conv()", _in_block("downsample.conv")),
    )
}
