"""Wide residual networks for small pictures: WRN-depth-width of Zagoruyko and Komodakis.

Three stages of pre-activated basic blocks (`resnet_v2.py`) behind a 3x3 convolution of 16
channels, each stage `width` times as wide as that of the thin network: 16, 32 and 64. Not the wide
bottlenecks of torchvision, which are in `resnet.py`.

Here `model.dropout` is between a block's two convolutions, as in the paper, whose rate on CIFAR is
0.3 or none. Source: Zagoruyko and Komodakis (2016), arXiv:1605.07146.
"""

import dataclasses

import jax.numpy as jnp
import ml_collections

from imgclass.models.resnet import Layout
from imgclass.models.resnet_v2 import ResNetV2
from imgclass.models.torch_names import Rules


@dataclasses.dataclass(frozen=True)
class WideLayout:
    """The two numbers in a network's name.

    Attributes:
      depth: 6n + 4: two convolutions in each of n blocks a stage, and four beside them, of which
        three are shortcuts.
      width: multiple of the thin network's channels.
    """

    depth: int
    width: int


LAYOUTS: dict[str, WideLayout] = {
    "wrn16_4": WideLayout(16, 4),
    "wrn16_8": WideLayout(16, 8),
    "wrn28_2": WideLayout(28, 2),
    "wrn28_10": WideLayout(28, 10),
    "wrn40_2": WideLayout(40, 2),
    "wrn40_4": WideLayout(40, 4),
}
# Input side, pixels.
SIZES: dict[str, int] = dict.fromkeys(LAYOUTS, 32)
# Neither torchvision nor timm has them.
TORCH: dict[str, Rules] = {}


def build(config: ml_collections.ConfigDict, num_classes: int) -> ResNetV2:
    """Builds the module that a checked config.model describes."""
    layout = LAYOUTS[config.name]
    return ResNetV2(
        num_classes=num_classes,
        layout=Layout(((layout.depth - 4) // 6,) * 3, bottleneck=False),
        width=16 * layout.width,
        stem_width=16,
        stem="cifar",
        dropout=config.dropout,
        drop_path=config.drop_path,
        batch_norm_momentum=config.batch_norm_momentum or 0.9,
        batch_norm_epsilon=config.batch_norm_epsilon or 1e-5,
        batch_norm_group=config.batch_norm_group,
        dtype=jnp.dtype(config.dtype),
    )
