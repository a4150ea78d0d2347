"""How much arithmetic a model does on one picture, counted from its program; nothing is run."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from imgclass.models.registry import Model


def multiply_adds(model: Model) -> int:
    """Returns the multiply-adds of inference on one picture, in convolutions and matrix products.

    What papers and torchvision's tables call GMACs (or, of the same number, GFLOPs), with all
    products of an attention counted. Biases, norms, activations and pools are left out, as there.
    """
    variables = jax.eval_shape(model.init, jax.random.key(0))
    picture = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    return _count(jax.make_jaxpr(model.apply)(variables, picture).jaxpr)


def _count(jaxpr: jax.extend.core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        times = 1
        if equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
        elif equation.primitive.name == "dot_general":
            total += _product(equation)
        elif equation.primitive.name == "scan":
            times = equation.params["length"]
        total += times * sum(_count(inner) for inner in _programs(equation.params))
    return total


def _convolution(equation: Any) -> int:
    """An output value takes a product for each value of one filter, which sees its group only."""
    kernel, layout = equation.invars[1].aval, equation.params["dimension_numbers"]
    filters = kernel.shape[layout.rhs_spec[0]]
    return equation.outvars[0].aval.size * kernel.size // filters


def _product(equation: Any) -> int:
    """An output value takes a product for each value along the axes that are summed."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _programs(params: Mapping[str, Any]) -> Iterator[jax.extend.core.Jaxpr]:
    """Yields the programs among an operation's parameters: a jitted function's, a scan's.

    Of a choice by platform only the default counts: fast forms for one platform do the same work.
    """
    if params.get("branches_platforms"):
        yield params["branches"][-1].jaxpr
    else:
        yield from _inner(params.values())


def _inner(values: Iterable[Any]) -> Iterator[jax.extend.core.Jaxpr]:
    for value in values:
        if isinstance(value, jax.extend.core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jax.extend.core.Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)
