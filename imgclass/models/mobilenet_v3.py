"""MobileNet V3, large and small, width 1, as torchvision has them.

Blocks are numbered through the net, as the rows of the paper's tables; a stage is what has one
size and width, and in the small net starts at 2, whose first block halves the picture. So no block
of one net has the name of one of the other, and one set of rules names the tensors of both.

Padding is explicit and the same on both sides. torchvision drops 0.2 of the head's inputs
(`model.dropout`) and has no stochastic depth; its batch norm has epsilon 0.001 and momentum 0.99
by our convention. timm's weights need `model.batch_norm_epsilon=1e-5`.
Source: Howard et al. (2019), arXiv:1905.02244; `torchvision.models.mobilenet_v3_large`.
"""

import flax.linen as nn
import ml_collections

from imgclass.models import inverted_residual
from imgclass.models.inverted_residual import Layout, Plan, round_width
from imgclass.models.torch_names import Rules

# Stage, kernel, expanded, out, squeeze-and-excitation, non-linearity, stride.
Row = tuple[int, int, int, int, bool, str, int]

# Howard et al. (2019), table 1.
_LARGE: tuple[Row, ...] = (
    (1, 3, 16, 16, False, "RE", 1),
    (2, 3, 64, 24, False, "RE", 2),
    (2, 3, 72, 24, False, "RE", 1),
    (3, 5, 72, 40, True, "RE", 2),
    (3, 5, 120, 40, True, "RE", 1),
    (3, 5, 120, 40, True, "RE", 1),
    (4, 3, 240, 80, False, "HS", 2),
    (4, 3, 200, 80, False, "HS", 1),
    (4, 3, 184, 80, False, "HS", 1),
    (4, 3, 184, 80, False, "HS", 1),
    (5, 3, 480, 112, True, "HS", 1),
    (5, 3, 672, 112, True, "HS", 1),
    (6, 5, 672, 160, True, "HS", 2),
    (6, 5, 960, 160, True, "HS", 1),
    (6, 5, 960, 160, True, "HS", 1),
)
# Table 2.
_SMALL: tuple[Row, ...] = (
    (2, 3, 16, 16, True, "RE", 2),
    (3, 3, 72, 24, False, "RE", 2),
    (3, 3, 88, 24, False, "RE", 1),
    (4, 5, 96, 40, True, "HS", 2),
    (4, 5, 240, 40, True, "HS", 1),
    (4, 5, 240, 40, True, "HS", 1),
    (5, 5, 120, 48, True, "HS", 1),
    (5, 5, 144, 48, True, "HS", 1),
    (6, 5, 288, 96, True, "HS", 2),
    (6, 5, 576, 96, True, "HS", 1),
    (6, 5, 576, 96, True, "HS", 1),
)
_STEM = 16


def _layout(rows: tuple[Row, ...], hidden: int) -> Layout:
    blocks = []
    for i, (stage, kernel, expanded, out, gated, nonlinearity, stride) in enumerate(rows, start=1):
        activation = {"RE": "relu", "HS": "hard_swish"}[nonlinearity]
        squeeze = round_width(expanded // 4) if gated else 0
        plan = Plan(kernel, stride, expanded, out, activation, squeeze)
        blocks.append((f"stage{stage}_block{i}", plan))
    return Layout(
        stem=_STEM,
        blocks=tuple(blocks),
        last=(f"stage7_block{len(rows) + 1}", 6 * blocks[-1][1].out),
        activation="hard_swish",
        head_init=nn.initializers.normal(0.01),
        hidden=hidden,
        gate="hard_sigmoid",
        momentum=0.99,
        epsilon=1e-3,
    )


LAYOUTS: dict[str, Layout] = {
    "mobilenet_v3_large": _layout(_LARGE, hidden=1280),
    "mobilenet_v3_small": _layout(_SMALL, hidden=1024),
}
# Input side, pixels, where it is not 224.
SIZES: dict[str, int] = {}


def build(
    config: ml_collections.ConfigDict, num_classes: int
) -> inverted_residual.InvertedResidualNet:
    """Builds the module that a checked config.model describes."""
    return inverted_residual.build(LAYOUTS[config.name], config, num_classes)


def _torchvision(layout: Layout) -> Rules:
    """torchvision numbers blocks through the net, and what there is in a block from 0."""
    rules, width = [], layout.stem
    for i, (block, plan) in enumerate(layout.blocks, start=1):
        place = 0
        for part in ("expand", "depthwise", "se", "project"):
            if (part == "expand" and plan.expanded == width) or (part == "se" and not plan.squeeze):
                continue
            ours, theirs = f"{block}/{part}", f"features.{i}.block.{place}"
            rules += [(f"{ours}/conv", f"{theirs}.0"), (f"{ours}/bn", f"{theirs}.1")]
            rules += [(f"{ours}/reduce", f"{theirs}.fc1"), (f"{ours}/expand", f"{theirs}.fc2")]
            place += 1
        width = plan.out
    last = f"features.{len(layout.blocks) + 1}"
    rules += [(f"{layout.last[0]}/conv", f"{last}.0"), (f"{layout.last[0]}/bn", f"{last}.1")]
    return tuple(rules)


def _timm(layout: Layout) -> Rules:
    """timm numbers stages, and the blocks in each, from 0; the last convolution is one of them."""
    rules: Rules = ()
    stages, width, place = [""], layout.stem, 0
    for block, plan in layout.blocks:
        stage = block.partition("_")[0]
        place = place + 1 if stage == stages[-1] else 0
        if not place:
            stages.append(stage)
        name = f"blocks.{len(stages) - 2}.{place}"
        rules += inverted_residual.timm_block(block, name, widens=plan.expanded != width)
        width = plan.out
    name = f"blocks.{len(stages) - 1}.0"
    return (
        *rules,
        (f"{layout.last[0]}/conv", f"{name}.conv"),
        (f"{layout.last[0]}/bn", f"{name}.bn1"),
    )


TORCH: dict[str, Rules] = {
    "torchvision": (
        ("stem/conv", "features.0.0"),
        ("stem/bn", "features.0.1"),
        *(rule for layout in LAYOUTS.values() for rule in _torchvision(layout)),
        ("hidden", "classifier.0"),
        ("head", "classifier.3"),
    ),
    "timm": (
        ("stem/conv", "conv_stem"),
        ("stem/bn", "bn1"),
        *(rule for layout in LAYOUTS.values() for rule in _timm(layout)),
        ("hidden", "conv_head"),
        ("head", "classifier"),
    ),
}
