"""Nets of inverted residual blocks: what MobileNet V2 and V3 and every EfficientNet share.

Each is a stem, stages of blocks, a 1x1 convolution, the mean over space and a dense layer; what
differs is in a `Layout`, a table that the family's own file holds. No model has its name here.
Source: Sandler et al. (2018), arXiv:1801.04381; fused blocks: Tan and Le (2021), arXiv:2104.00298.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.models import blocks, layers
from imgclass.models.torch_names import Rules


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one block does.

    Attributes:
      kernel: side of the depthwise, or fused, convolution, pixels.
      stride: its step, pixels.
      expanded: channels that it works on.
      out: channels that the block returns.
      activation: a name in `layers.ACTIVATIONS`.
      squeeze: hidden width of squeeze-and-excitation; 0 for none.
      fused: one full convolution in place of a 1x1 and a depthwise one.
    """

    kernel: int
    stride: int
    expanded: int
    out: int
    activation: str
    squeeze: int = 0
    fused: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """A whole net, but for its number of classes.

    Attributes:
      stem: channels of the first convolution, 3x3 of stride 2.
      blocks: name and plan of each block, in order; a name is 'stageS_blockB'.
      last: name and channels of the 1x1 convolution after them, a stage of its own.
      activation: of the stem, the last convolution and the hidden dense layer.
      head_init: of the dense layers.
      hidden: width of a dense layer between the mean over space and the last; 0 for none.
      squeeze_activation: of the hidden layer of squeeze-and-excitation.
      gate: of its scale.
      momentum: of batch norm, where the config has none; see `layers.BatchNorm`.
      epsilon: of batch norm, where the config has none.
      tensorflow: pads as TensorFlow does, and draws depthwise kernels by the fan-out of one
        channel; else as PyTorch, the same on both sides and by the fan-out of them all.
    """

    stem: int
    blocks: tuple[tuple[str, Plan], ...]
    last: tuple[str, int]
    activation: str
    head_init: nn.initializers.Initializer
    hidden: int = 0
    squeeze_activation: str = "relu"
    gate: str = "sigmoid"
    momentum: float = 0.9
    epsilon: float = 1e-5
    tensorflow: bool = False


def named(stages: Iterable[Iterable[Plan]]) -> tuple[tuple[str, Plan], ...]:
    """Names blocks by their stage and their place in it, both from 1."""
    return tuple(
        (f"stage{stage}_block{block}", plan)
        for stage, plans in enumerate(stages, start=1)
        for block, plan in enumerate(plans, start=1)
    )


def round_width(width: float) -> int:
    """Returns the multiple of 8 nearest to a number of channels, and never under 90% of it.

    Source: `_make_divisible` of the authors' MobileNet, and of torchvision.

    >>> [round_width(width) for width in (3, 35.2, 18, 20)]
    [8, 32, 24, 24]
    """
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm and, if named, an activation.

    Attributes:
      features: channels it returns.
      kernel_size: side, pixels.
      stride: step, pixels.
      activation: a name in `layers.ACTIVATIONS`, or '' for a linear layer.
      norm: makes a batch norm; takes `name`.
      tensorflow: see `Layout`.
      dtype: of the computation.
      depthwise: one kernel a channel; `features` must then be the channels that come in.
    """

    features: int
    kernel_size: int
    stride: int
    activation: str
    norm: functools.partial
    tensorflow: bool
    dtype: jax.typing.DTypeLike
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps float[batch, h, w, in] to dtype[batch, h / stride, w / stride, features]."""
        groups = self.features if self.depthwise else 1
        fan_outs = groups if self.tensorflow else 1
        x = layers.Conv(
            self.features,
            self.kernel_size,
            self.stride,
            padding="SAME" if self.tensorflow else self.kernel_size // 2,
            groups=groups,
            use_bias=False,
            # Normal with variance 2 / fan_out (He et al., 2015, arXiv:1502.01852).
            kernel_init=nn.initializers.variance_scaling(2.0 * fan_outs, "fan_out", "normal"),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = self.norm(name="bn")(x, train)
        return layers.activation(self.activation)(x) if self.activation else x


class InvertedResidual(nn.Module):
    """Expands by a 1x1 convolution, convolves each channel, gates, projects; adds what came in.

    The expansion is left out where it would not widen, the gate where the plan has none, and the
    sum where the shape changes. A fused block is one full convolution and a projection, or, where
    it does not widen, the convolution alone.

    Attributes:
      plan: the block's geometry.
      conv_norm: makes a `ConvNorm` of what the whole net has in common.
      squeeze_excite: makes a `blocks.SqueezeExcite`; takes its width and `name`.
      drop_path: rate at which the branch is dropped; see `blocks.DropPath`.
    """

    plan: Plan
    conv_norm: functools.partial
    squeeze_excite: functools.partial
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps dtype[batch, h, w, in] to dtype[batch, h / stride, w / stride, out]."""
        plan, widens = self.plan, self.plan.expanded != x.shape[-1]
        y, act = x, plan.activation
        if plan.fused:
            first = self.conv_norm(plan.expanded, plan.kernel, plan.stride, act, name="fused")
            y = first(y, train)
            if widens:
                y = self.conv_norm(plan.out, 1, 1, "", name="fused_project")(y, train)
        else:
            if widens:
                y = self.conv_norm(plan.expanded, 1, 1, act, name="expand")(y, train)
            y = self.conv_norm(
                plan.expanded, plan.kernel, plan.stride, act, depthwise=True, name="depthwise"
            )(y, train)
            if plan.squeeze:
                y = self.squeeze_excite(plan.squeeze, name="se")(y)
            y = self.conv_norm(plan.out, 1, 1, "", name="project")(y, train)
        if plan.stride != 1 or plan.out != x.shape[-1]:
            return y
        return x + blocks.DropPath(self.drop_path)(y, train)


class InvertedResidualNet(nn.Module):
    """The net of a layout.

    Attributes:
      num_classes: width of the last dense layer.
      layout: everything the published net fixes.
      dropout: share of the inputs of the last dense layer set to zero in training.
      drop_path: stochastic depth; block i of n, from 0, drops its branch at drop_path * i / n, as
        in the authors' EfficientNet and torchvision's, so no block quite reaches the rate.
      batch_norm_momentum: see `layers.BatchNorm`; 0 is the layout's own.
      batch_norm_epsilon: the same.
      batch_norm_group: see `layers.BatchNorm`.
      dtype: of the computation; parameters, batch moments and logits are float32.
    """

    num_classes: int
    layout: Layout
    dropout: float = 0.0
    drop_path: float = 0.0
    batch_norm_momentum: float = 0.0
    batch_norm_epsilon: float = 0.0
    batch_norm_group: int = 0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """Maps float[batch, h, w, c] to (f32[batch, classes], features); see `Model.apply`."""
        layout = self.layout
        norm = functools.partial(
            layers.BatchNorm,
            momentum=self.batch_norm_momentum or layout.momentum,
            epsilon=self.batch_norm_epsilon or layout.epsilon,
            group=self.batch_norm_group,
            dtype=self.dtype,
        )
        conv_norm = functools.partial(
            ConvNorm, norm=norm, tensorflow=layout.tensorflow, dtype=self.dtype
        )
        squeeze_excite = functools.partial(
            blocks.SqueezeExcite,
            activation=layout.squeeze_activation,
            gate=layout.gate,
            dtype=self.dtype,
        )
        dense = functools.partial(layers.Dense, kernel_init=layout.head_init, dtype=self.dtype)
        x = conv_norm(layout.stem, 3, 2, layout.activation, name="stem")(x, train)
        stages = {"stem": x}
        for i, (name, plan) in enumerate(layout.blocks):
            rate = self.drop_path * i / len(layout.blocks)
            x = InvertedResidual(plan, conv_norm, squeeze_excite, rate, name=name)(x, train)
            stages[name.partition("_")[0]] = x  # the last of a stage stays
        name, width = layout.last
        x = conv_norm(width, 1, 1, layout.activation, name=name)(x, train)
        stages[name.partition("_")[0]] = x
        pooled = layers.global_mean(x)
        if layout.hidden:
            pooled = dense(layout.hidden, name="hidden")(pooled)
            pooled = layers.activation(layout.activation)(pooled)
        kept = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        logits = dense(self.num_classes, name="head")(kept)
        return logits.astype(jnp.float32), {"stages": stages, "last_map": x, "pooled": pooled}


def build(
    layout: Layout, config: ml_collections.ConfigDict, num_classes: int
) -> InvertedResidualNet:
    """Builds the module of a layout with what a checked config.model sets."""
    return InvertedResidualNet(
        num_classes=num_classes,
        layout=layout,
        dropout=config.dropout,
        drop_path=config.drop_path,
        batch_norm_momentum=config.batch_norm_momentum,
        batch_norm_epsilon=config.batch_norm_epsilon,
        batch_norm_group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )


def timm_block(pattern: str, place: str | Callable[[re.Match[str]], str], widens: bool) -> Rules:
    """Returns timm's names for the parts of the blocks whose name matches.

    Args:
      pattern: of the block's name, without the parts.
      place: the block's name in timm, 'blocks.1.0', or a function of the match.
      widens: whether it has a first 1x1 convolution; timm calls the others differently then.
    """
    if widens:
        convolutions = [("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl")]
    else:
        convolutions = [("depthwise", "conv_dw"), ("project", "conv_pw")]
    parts = {"se/reduce": "se.conv_reduce", "se/expand": "se.conv_expand"}
    for i, (ours, theirs) in enumerate(convolutions, start=1):
        parts |= {f"{ours}/conv": theirs, f"{ours}/bn": f"bn{i}"}

    def named(theirs: str) -> Callable[[re.Match[str]], str]:
        return lambda match: f"{place(match) if callable(place) else place}.{theirs}"

    return tuple((f"{pattern}/{ours}", named(theirs)) for ours, theirs in parts.items())


def _timm_place(match: re.Match[str]) -> str:
    return f"blocks.{int(match[1]) - 1}.{int(match[2]) - 1}"


# Of a net whose blocks `named` has named, and whose first stage alone does not widen.
TIMM: Rules = (
    ("stem/conv", "conv_stem"),
    ("stem/bn", "bn1"),
    *timm_block(r"stage(1)_block(\d+)", _timm_place, widens=False),
    *timm_block(r"stage(\d+)_block(\d+)", _timm_place, widens=True),
    (r"stage\d+/conv", "conv_head"),
    (r"stage\d+/bn", "bn2"),
    ("head", "classifier"),
)
