"""LARS: each array's step in proportion to its own norm."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def scale_by_lars(
    coefficient: float, weight_decay: float, mask: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Decays weights and scales each array, ahead of momentum.

    With gradient g, array w, decay d: g <- c * ||w|| / (||g|| + d * ||w||) * (g + d * w), the
    factor being 1 where a norm is 0. Arrays that are not decayed (biases, scales) pass as they are,
    as in MLPerf's and timm's. optax.lars has ||g + d * w|| below instead.

    Args:
      coefficient: c, the share of its norm that an array may move at a rate of 1.
      weight_decay: d.
      mask: from parameters to a tree of bool, true where an array is decayed and scaled.

    Returns:
      A transformation whose `update` needs `params`.

    Source: You, Gitman & Ginsburg (2017), arXiv:1708.03888, equation 6 and algorithm 1.
    """

    def scaled(updates: Any, params: Any) -> Any:
        def one(g: jax.Array, w: jax.Array, chosen: bool) -> jax.Array:
            if not chosen:
                return g
            size, slope = jnp.linalg.norm(w.ravel()), jnp.linalg.norm(g.ravel())
            moves = (size > 0) & (slope > 0)
            below = jnp.where(moves, slope + weight_decay * size, 1.0)
            return jnp.where(moves, coefficient * size / below, 1.0) * (g + weight_decay * w)

        return jax.tree.map(one, updates, params, mask(params))

    return optax.stateless(scaled)
