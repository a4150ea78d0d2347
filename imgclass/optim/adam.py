"""Adam's direction, in the two places where its epsilon is put."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def scale_by_adam(
    b1: float, b2: float, eps: float, eps_hat: bool = False
) -> optax.GradientTransformation:
    """Adam's direction, with epsilon after the bias correction or before it.

    optax.scale_by_adam has only the first form (its eps would have to be eps/sqrt(1 - b2^t), 32
    times larger at the first step, for the second), and raises a float to an int32 power, which
    strict dtype promotion refuses. The state is optax's own.

    Args:
      b1: decay of the first moment m.
      b2: decay of the second moment v.
      eps: added to the root of the second moment.
      eps_hat: which form.

    Returns:
      A transformation to direction(t), t = 1 at the first update:
      m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps), or with `eps_hat`
      sqrt(1-b2^t)/(1-b1^t) * m / (sqrt(v) + eps).

    Source: Kingma & Ba (2015), algorithm 1, and the note at the end of its section 2.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: (1.0 - b1) * g + b1 * m, state.mu, grads)
        nu = jax.tree.map(lambda v, g: (1.0 - b2) * g * g + b2 * v, state.nu, grads)
        t = count.astype(jnp.float32)
        first, second = 1.0 - b1**t, 1.0 - b2**t

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            if eps_hat:
                return jnp.sqrt(second) / first * m / (jnp.sqrt(v) + eps)
            return m / first / (jnp.sqrt(v / second) + eps)

        return jax.tree.map(direction, mu, nu), optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)
