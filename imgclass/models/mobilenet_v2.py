"""MobileNet V2, width 1, as torchvision has it.

Padding is explicit and the same on both sides. The authors drop 0.2 of the head's inputs
(`model.dropout`) and train batch norm with momentum 0.9; there is no stochastic depth.
Source: Sandler et al. (2018), arXiv:1801.04381; `torchvision.models.mobilenet_v2`.
"""

import re

import flax.linen as nn
import ml_collections

from imgclass.models import inverted_residual
from imgclass.models.inverted_residual import Layout, Plan
from imgclass.models.torch_names import Rules

# Sandler et al. (2018), table 2: expansion t, channels c, blocks n, stride s of the first.
_TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM = 32


def _stages() -> list[list[Plan]]:
    stages, width = [], _STEM
    for expansion, out, count, stride in _TABLE:
        first = Plan(3, stride, expansion * width, out, "relu6")
        rest = Plan(3, 1, expansion * out, out, "relu6")
        stages.append([first] + [rest] * (count - 1))
        width = out
    return stages


LAYOUTS: dict[str, Layout] = {
    "mobilenet_v2": Layout(
        stem=_STEM,
        blocks=inverted_residual.named(_stages()),
        last=("stage8", 1280),
        activation="relu6",
        head_init=nn.initializers.normal(0.01),
    )
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}


def build(
    config: ml_collections.ConfigDict, num_classes: int
) -> inverted_residual.InvertedResidualNet:
    """Builds the module that a checked config.model describes."""
    return inverted_residual.build(LAYOUTS[config.name], config, num_classes)


def _torchvision(match: re.Match[str]) -> str:
    """torchvision numbers blocks through the net, and the layers in one by what it holds."""
    stage, block, layer, kind = int(match[1]), int(match[2]), match[3], match[4]
    index = sum(count for _, _, count, _ in _TABLE[: stage - 1]) + block
    place = ("expand", "depthwise", "project").index(layer) - (stage == 1)
    if layer == "project":
        return f"features.{index}.conv.{place + (kind == 'bn')}"
    return f"features.{index}.conv.{place}.{int(kind == 'bn')}"


_BLOCK = r"stage(\d+)_block(\d+)/(\w+)/(conv|bn)"
TORCH: dict[str, Rules] = {
    "torchvision": (
        ("stem/conv", "features.0.0"),
        ("stem/bn", "features.0.1"),
        (_BLOCK, _torchvision),
        ("stage8/conv", "features.18.0"),
        ("stage8/bn", "features.18.1"),
        ("head", "classifier.1"),
    ),
    "timm": inverted_residual.TIMM,
}
