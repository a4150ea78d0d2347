"""A fence for XLA's fusion on CPU. Nothing else belongs here, and only `models` uses it.

XLA:CPU merges elementwise work into every consumer, however often it is then done again, and drops
`lax.optimization_barrier` before it does. What it cannot merge is a call that is not inlined.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental import xla_metadata


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the same function of arrays; on CPU it is a unit, whose results are computed once.

    For elementwise work whose results have several readers. A convolution does not belong in it: in
    a call XLA:CPU gives it a slow form (that of the default CNN's backward pass took ten times as
    long). Elsewhere than on CPU nothing changes.
    """

    def body(*args: Any) -> Any:
        # Else the mark would be on every operation inside as well, and nothing would be merged.
        with xla_metadata.set_xla_metadata(inlineable=None):
            return function(*args)

    unit = jax.jit(body)

    @functools.wraps(function)
    def fenced(*args: Any) -> Any:
        with xla_metadata.set_xla_metadata(inlineable="false"):
            return unit(*args)

    return lambda *args: lax.platform_dependent(*args, cpu=fenced, default=function)
