"""Residual networks of 18 to 152 layers, version 1.5, as torchvision has them.

Version 1.5 puts the stride of a bottleneck on its 3x3 convolution. Padding is explicit and the same
on both sides: 'SAME' at stride 2 pads one side more, and torchvision's weights would then give
other logits. Source: He et al. (2015), arXiv:1512.03385; for small pictures section 4.2, with
the first stage's width of 64 kept.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.models import layers

# He et al. (2015), table 1: blocks in each of the four stages, and whether they are bottlenecks.
LAYOUTS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}

# Normal with variance 2 / fan_out (He et al., 2015, arXiv:1502.01852), as torchvision.
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform within 1 / sqrt(fan_in), as PyTorch's Linear. Its bias starts so too; ours at zero.
_LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Block(nn.Module):
    """A residual block: relu(shortcut(x) + branch(x)).

    Attributes:
      width: channels of the branch; a bottleneck returns four times as many.
      stride: 2 to halve the picture, else 1.
      bottleneck: 1x1, 3x3, 1x1 convolutions; else two of 3x3.
      zero_init: starts the branch's last scale at zero, so that the block begins as its shortcut
        (Goyal et al., 2017, arXiv:1706.02677).
      norm: makes a batch norm; takes `name` and `scale_init`.
      dtype: of the computation.
    """

    width: int
    stride: int
    bottleneck: bool
    zero_init: bool
    norm: functools.partial
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, h, w, in] to dtype[batch, h / stride, w / stride, out]."""
        out = 4 * self.width if self.bottleneck else self.width
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1)]
        else:
            plan = [(self.width, 3, self.stride), (out, 3, 1)]
        y = x
        for i, (features, kernel, stride) in enumerate(plan, start=1):
            last = i == len(plan)
            y = _conv(features, kernel, stride, self.dtype, f"conv{i}")(y)
            zero = last and self.zero_init
            scale_init = nn.initializers.zeros if zero else nn.initializers.ones
            y = self.norm(name=f"bn{i}", scale_init=scale_init)(y, train)
            y = y if last else jax.nn.relu(y)
        if self.stride != 1 or x.shape[-1] != out:
            x = _conv(out, 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x, train)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the mean over space and a dense layer.

    Attributes:
      num_classes: width of the dense layer.
      layout: blocks in each stage.
      bottleneck: see `Block`.
      stem: 'imagenet' (7x7 stride 2, then max-pool 3x3 stride 2) or 'cifar' (3x3 stride 1), which
        keeps the resolution that a small picture cannot spare.
      zero_init_residual: see `Block`.
      batch_norm_momentum: see `layers.BatchNorm`.
      batch_norm_epsilon: see `layers.BatchNorm`.
      batch_norm_group: see `layers.BatchNorm`.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    layout: tuple[int, ...]
    bottleneck: bool
    stem: str = "imagenet"
    zero_init_residual: bool = True
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
        kernel, stride = (3, 1) if small else (7, 2)
        x = _conv(64, kernel, stride, self.dtype, "conv1")(x.astype(self.dtype))
        x = jax.nn.relu(norm(name="bn1")(x, train))
        stages = {"stem": x}
        if not small:
            x = layers.max_pool(x, 3, 2, padding=1)
        for stage, blocks in enumerate(self.layout):
            for block in range(blocks):
                x = Block(
                    width=64 * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    bottleneck=self.bottleneck,
                    zero_init=self.zero_init_residual,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
            stages[f"stage{stage + 1}"] = x
        pooled = layers.global_mean(x)
        head = layers.Dense(self.num_classes, kernel_init=_LINEAR, dtype=self.dtype, name="head")
        features = {"stages": stages, "last_map": x, "pooled": pooled}
        return head(pooled).astype(jnp.float32), features


def build(config: ml_collections.ConfigDict, num_classes: int) -> ResNet:
    """Builds the module that a checked config.model describes."""
    layout, bottleneck = LAYOUTS[config.name]
    return ResNet(
        num_classes=num_classes,
        layout=layout,
        bottleneck=bottleneck,
        stem=config.stem,
        zero_init_residual=config.zero_init_residual,
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
