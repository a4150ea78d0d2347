"""Models by name, and the pure functions a model is used through.

Nothing outside imgclass.models needs to know Linen. A new architecture is one file with a
`build(config_model, num_classes) -> nn.Module` and one line in `_BUILDERS`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from imgclass.errors import UsageError
from imgclass.models import cnn, layers, resnet

_BUILDERS: dict[str, Callable[[ml_collections.ConfigDict, int], nn.Module]] = {
    "cnn": cnn.build,
    **dict.fromkeys(resnet.LAYOUTS, resnet.build),
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
    """

    module: nn.Module
    input_shape: tuple[int, int, int]

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
        result: Any = self.module.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        (logits, features), updated = result
        return logits, features, updated.get("batch_stats", {})


def names() -> list[str]:
    """Returns the names that config.model.name may have, sorted."""
    return sorted(_BUILDERS)


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
    name = layers.one_of(config_model.name, _BUILDERS, "model.name")
    if len(input_shape) != 3 or min(*input_shape, num_classes) < 1:
        raise UsageError(
            f"a model needs pictures of (height, width, channels) and at least one class; "
            f"got input shape {tuple(input_shape)} and {num_classes} classes."
        )
    height, width, channels = input_shape
    model = Model(_BUILDERS[name](config_model, num_classes), (height, width, channels))
    # Shapes only: a layer that cannot be raises here, before a device is touched.
    jax.eval_shape(lambda: model.init(jax.random.key(0)))
    return model


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a tree of arrays or of shapes; batch statistics are not
    parameters, so pass variables['params']."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
