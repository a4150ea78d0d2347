"""SAM: the gradient is taken where the loss is highest nearby."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# (params, batch_stats, examples, key) -> (gradient, outcome); see `objective.Gradient`.
Gradient = Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]]


def sharpness_aware(gradient: Gradient, cfg: Any) -> Gradient:
    """Returns a gradient at w + rho * g / ||g||, g being the gradient at w.

    The norm is over all parameters together and g is of the whole batch (not of each device's
    share, whose smaller batches would climb elsewhere). Both gradients see the same augmented
    pictures and the same dropout; logits, losses and batch statistics are those at w.

    Args:
      gradient: as above.
      cfg: the config's `optim` section; with sam_rho = 0 `gradient` itself is returned.

    Returns:
      A function of the same arguments and results, which costs twice as much.

    Source: Foret et al. (2021), arXiv:2010.01412, algorithm 1 with p = 2.
    """
    if not cfg.sam_rho:
        return gradient

    def twice(params: Any, batch_stats: Any, examples: Any, key: jax.Array) -> tuple[Any, Any]:
        grads, outcome = gradient(params, batch_stats, examples, key)
        scale = cfg.sam_rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
        above = jax.tree.map(lambda p, g: p + scale * g, params, grads)
        grads, _ = gradient(above, batch_stats, examples, key)
        return grads, outcome

    return twice
