"""Layer-wise learning-rate decay: the nearer to the input, the smaller the step.

For fine-tuning a pretrained network (Bao et al. 2022, arXiv:2106.08254). Every block is a layer
here; ConvNeXt's own recipe (Liu et al. 2022, arXiv:2201.03545) makes one layer of three consecutive
blocks, so that the same factor is milder there. The depth of a parameter is read from the name of
its module at the top of the model:

- names without a number, and numbers that stand alone, come first: 'stem_conv', 'patches',
  'whiten', ResNet's 'conv1' and 'bn1';
- numbered names follow in the order of all their numbers: 'stage1_block2' before 'stage2_block1',
  'block9' before 'block10'. Modules with equal numbers are one layer, and one that belongs to a
  stage and to no block ('stage2_down_conv') is a layer before the stage's first block;
- 'transition1' ends stage 1 (DenseNet);
- 'head', dense layers before it and norms after the last block are the last layer.

A convolution and its norm with numbers of their own (VGG's 'conv4' and 'bn5') are two layers.
"""

import re
from typing import Any

import jax
import optax

from imgclass.optim import masks

_LAST = re.compile(r"^(head|hidden\d*|classifier\d+|norm|bn)$")


def _place(name: str) -> tuple[float, ...]:
    """Returns what a parameter's layer is sorted by."""
    module = name.split("/")[0]
    if _LAST.match(module):
        return (float("inf"),)
    numbers = tuple(float(number) for number in re.findall(r"\d+", module))
    return (*numbers, float("inf")) if module.startswith("transition") else numbers


def layer_factors(params: Any, decay: float) -> Any:
    """Returns the factor on each parameter's update: decay^k, k layers below the last.

    Args:
      params: tree of arrays.
      decay: in (0, 1].

    Returns:
      A tree like `params` of float.

    >>> layer_factors({'stem': 0, 'block1': 0, 'block2': 0, 'head': 0}, 0.5)
    {'block1': 0.25, 'block2': 0.5, 'head': 1.0, 'stem': 0.125}
    """
    places: set[tuple[float, ...]] = set()
    masks.map_named(lambda name, _: places.add(_place(name)), params)
    order = {place: n for n, place in enumerate(sorted(places, reverse=True))}
    return masks.map_named(lambda name, _: decay ** order[_place(name)], params)


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiplies each parameter's whole update by its layer's factor; see `layer_factors`."""

    def scaled(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda u, f: u * f, updates, layer_factors(updates, decay))

    return optax.stateless(scaled)
