"""How a logit changes with a feature map that the model names, whatever the model is made of.

A model returns its maps beside its logits, so JAX's program of it says which value each map is. The
program is run equation by equation with a zero added to that value, and differentiated by the zero:
no architecture has to be built for it. Nothing here chooses a map or draws one.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from imgclass.models import Model

# What only arranges values. A map that is such a view of what the logits are computed from, as a
# grid of tokens is of the sequence, has the same view of the gradient.
_VIEWS = {"reshape", "slice", "squeeze", "transpose", "convert_element_type"}


@functools.partial(jax.jit, static_argnames=("model", "name"))
def feature_gradient(
    model: Model, variables: Mapping[str, Any], images: jax.Array, labels: jax.Array, name: str
) -> tuple[jax.Array, jax.Array]:
    """Returns a map and the gradient of each picture's logit with respect to it.

    Args:
      model: in inference: batch norm uses its running moments.
      variables: {'params', 'batch_stats'}.
      images: f32[n, height, width, channels], standardised.
      labels: int32[n], whose logits.
      name: 'last_map', or a key of the features' 'stages'.

    Returns:
      float[n, h, w, width] and the same of the gradient: zeros where the logits do not depend on
      the map.
    """

    def both(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, features = model.apply(dict(variables), images)
        return logits, features["last_map"] if name == "last_map" else features["stages"][name]

    closed = jax.make_jaxpr(both)(variables, images)
    program, values = closed.jaxpr, jax.tree.leaves((variables, images))
    logits_at, map_at = program.outvars
    needed = _ancestors(program, logits_at)
    maker = {var: equation for equation in program.eqns for var in equation.outvars}
    root = map_at
    views: list[jex.JaxprEqn] = []
    while root not in needed and root in maker and maker[root].primitive.name in _VIEWS:
        views.insert(0, maker[root])
        root = maker[root].invars[0]

    def logit(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = dict(zip(program.constvars, closed.consts, strict=True))
        found |= dict(zip(program.invars, values, strict=True))
        if root in found:  # the picture itself
            found[root] += shift
        for equation in program.eqns:
            _run(equation, found)
            if root in equation.outvars:
                found[root] += shift
        chosen = jnp.take_along_axis(found[logits_at], labels[:, None], axis=1)
        return chosen.sum(), found[map_at]  # rows do not touch each other in inference

    gradient, activation = jax.grad(logit, has_aux=True)(
        jnp.zeros(root.aval.shape, root.aval.dtype)
    )
    found = {root: gradient}
    for equation in views:
        _run(equation, found)
    return activation, found[map_at]


def _run(equation: jex.JaxprEqn, found: dict[Any, Any]) -> None:
    """Computes an equation's results from the values found so far, and adds them."""
    primitive = equation.primitive
    inputs = [v.val if isinstance(v, jex.Literal) else found[v] for v in equation.invars]
    results = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
    results = results if primitive.multiple_results else [results]
    found.update(zip(equation.outvars, results, strict=True))


def _ancestors(program: jex.Jaxpr, of: Any) -> set[Any]:
    """Returns the variables that `of` is computed from, itself among them."""
    needed = {of}
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(v for v in equation.invars if not isinstance(v, jex.Literal))
    return needed
