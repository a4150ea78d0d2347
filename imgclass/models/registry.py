"""Models by name, and the pure functions a model is used through.

Nothing outside imgclass.models needs to know Linen. A new architecture is one file with a
`build(config_model, num_classes) -> nn.Module` and one line in `_FILES`. A file of a whole family
stands in `_FAMILIES` and has LAYOUTS, its models by name. A file may have more: SIZES, the input
sides that are not 224; TORCH, how PyTorch's libraries call the parts, and FLATTENED, which dense
kernels take a map that they flatten (see `torch_names.py`); RESAMPLE, how a variable is made of one
for pictures of another size, {name of the leaf: (array, wanted shape) -> array}; `fit`, what is
taken from the data before training, with SAMPLE, from how many pictures (see `Model`).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from imgclass import config
from imgclass.errors import UsageError
from imgclass.models import (
    airbench,
    cnn,
    convnext,
    densenet,
    efficientnet,
    layers,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    resnet,
    resnet_v2,
    vgg,
    vit,
    wide_resnet,
)
from imgclass.models.torch_names import Slot, slots

_FAMILIES: tuple[ModuleType, ...] = (
    airbench,
    convnext,
    densenet,
    efficientnet,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    resnet,
    resnet_v2,
    vgg,
    vit,
    wide_resnet,
)
_FILES: dict[str, ModuleType] = {
    "cnn": cnn,
    **{name: family for family in _FAMILIES for name in family.LAYOUTS},
}
# Of the names in a file with rules for a library (TORCH), those that the library does not have.
_ABSENT = {
    "torchvision": r"se.*|convnext_(atto|femto|pico|nano)|efficientnet_lite.*|vit_(ti|s)_.*",
    "timm": r"efficientnet_v2_.*|vit_ti_4",
    "efficientnet_lite_pytorch": r"(?!efficientnet_lite0$).*",
}

# Nested dicts of arrays: {'params': ..., 'batch_stats': ...}, and named intermediates.
Variables = dict[str, Any]
Features = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """A module and the pictures it takes. Every method is pure and can be jitted.

    Attributes:
      module: Linen module; `module(x, train)` returns (logits, features).
      input_shape: (height, width, channels).
      sample: training pictures that `fit` wants to see; 0 where there is nothing to fit.
      frozen: batch norms, as 'stage1_block1/bn1', that work in training as in inference.
      fit: (variables, f32[sample, height, width, channels] standardised) -> variables, for what an
        architecture takes from the data before training.
    """

    module: nn.Module
    input_shape: tuple[int, int, int]
    sample: int = 0
    frozen: frozenset[str] = frozenset()
    fit: Callable[[Variables, jax.Array], Variables] = lambda variables, images: variables

    def init(self, key: jax.Array) -> Variables:
        """Draws the variables.

        Args:
          key: scalar key.

        Returns:
          {'params': f32 leaves, 'batch_stats': f32 leaves}; 'batch_stats' is {} where the model
          has none.
        """
        # Under jit the forward pass that init traces is dead code, and costs nothing.
        init = jax.jit(functools.partial(self.module.init, train=False))
        variables = init(key, jnp.zeros((1, *self.input_shape), jnp.float32))
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def apply(self, variables: Variables, x: jax.Array) -> tuple[jax.Array, Features]:
        """Runs inference: running batch statistics, no dropout.

        Args:
          variables: as `init` returns them.
          x: float[batch, height, width, channels].

        Returns:
          logits: f32[batch, classes].
          features: 'stages', a dict of intermediate maps by name; 'last_map'
            [batch, h, w, channels], the last of them; 'pooled' [batch, width], the vector that
            the last dense layer takes (in training, before dropout).
        """
        result: Any = self.module.apply(variables, x, train=False)
        return result

    def apply_train(
        self, variables: Variables, x: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Features, Variables]:
        """Runs training: the batch's own statistics, and dropout.

        Args:
          variables: as `init` returns them.
          x: float[batch, height, width, channels].
          key: scalar key, for dropout; ignored by a model without.

        Returns:
          logits: f32[batch, classes].
          features: as in `apply`.
          batch_stats: the updated running statistics, in the structure that `init` returned.

        Raises:
          UsageError: at trace time, if model.batch_norm_group does not divide the batch.
        """
        with nn.intercept_methods(self._hold_frozen):
            result: Any = self.module.apply(
                variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
        (logits, features), updated = result
        return logits, features, updated.get("batch_stats", {})

    def _hold_frozen(self, call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        """Calls a method of a module; a frozen batch norm keeps and uses its running moments."""
        module = context.module
        if isinstance(module, layers.BatchNorm) and "/".join(module.path) in self.frozen:
            return call(args[0], train=False)
        return call(*args, **kwargs)


def names() -> list[str]:
    """Returns the names that config.model.name may have, sorted."""
    return sorted(_FILES)


def used_keys() -> dict[str, frozenset[str]]:
    """Returns the keys of config.model that each model reads, by its name.

    They are those that its `build` asks for, so no list of them can be wrong.
    """
    return {name: _asked(name) for name in names()}


def input_size(name: str) -> int:
    """Returns the side, pixels, of the pictures that a model was published for."""
    sizes: dict[str, int] = getattr(_FILES.get(name), "SIZES", {})
    return sizes.get(name, 224)


def sources(name: str) -> tuple[str, ...]:
    """Returns the libraries whose weights a model can take, such as 'torchvision' and 'timm'."""
    known: Iterable[str] = getattr(_FILES.get(name), "TORCH", {})
    return tuple(library for library in known if not re.fullmatch(_ABSENT[library], name))


def torch_slots(name: str, library: str, variables: Variables) -> dict[str, Slot]:
    """Returns where each tensor of a library's `state_dict` belongs in a model's variables.

    Args:
      name: one of `names()`.
      library: one of `sources(name)`.
      variables: the model's, or their shapes (`jax.eval_shape` of `Model.init`).
    """
    file = _FILES[name]
    return slots(variables, file.TORCH[library], getattr(file, "FLATTENED", {}))


def resample(name: str, slot: Slot, array: np.ndarray) -> np.ndarray | None:
    """Returns an array of weights made to fit another size of picture; None where none can be.

    Args:
      name: one of `names()`.
      slot: where it belongs.
      array: of another shape than the slot's.
    """
    known: dict[str, Callable] = getattr(_FILES[name], "RESAMPLE", {})
    make = known.get(slot.path[-1])
    return make(array, slot.shape) if make else None


def create(
    config_model: ml_collections.ConfigDict, num_classes: int, input_shape: tuple[int, int, int]
) -> Model:
    """Builds the model that the config describes. Draws no weights and touches no device.

    Args:
      config_model: config.model, every key present and checked.
      num_classes: at least 1.
      input_shape: (height, width, channels), each at least 1.

    Raises:
      UsageError: an unknown name, or a geometry that cannot be, with the key to change.
    """
    name = layers.one_of(config_model.name, _FILES, "model.name")
    if len(input_shape) != 3 or min(*input_shape, num_classes) < 1:
        raise UsageError(
            f"a model needs pictures of (height, width, channels) and at least one class; "
            f"got input shape {tuple(input_shape)} and {num_classes} classes."
        )
    height, width, channels = input_shape
    file = _FILES[name]
    model = Model(file.build(config_model, num_classes), (height, width, channels))
    if hasattr(file, "fit"):
        model = dataclasses.replace(model, sample=file.SAMPLE, fit=file.fit)
    # Shapes only: a layer that cannot be raises here, before a device is touched.
    jax.eval_shape(lambda: model.init(jax.random.key(0)))
    return model


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a tree of arrays or of shapes; batch statistics are not
    parameters, so pass variables['params']."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class _Watched:
    """A config.model that remembers which keys it was asked for."""

    def __init__(self, section: ml_collections.ConfigDict) -> None:
        self.section = section
        self.asked: set[str] = set()

    def __getattr__(self, key: str) -> Any:
        self.asked.add(key)
        return self.section[key]


def _asked(name: str) -> frozenset[str]:
    section = config.defaults().model
    section.name = name
    watched: Any = _Watched(section)
    _FILES[name].build(watched, 2)
    return frozenset(watched.asked | {"pretrained"})  # which every model can begin with
