"""FGSM and PGD: pictures moved, within a bound, to where a model errs.

Pixels are in [0, 1], before standardisation, the bound is on the largest change of any sample
(L-infinity), and the model works as in evaluation. The attacker knows the weights and the label.
What is left after an attack is an upper bound on a model's accuracy under the best attack there is;
no attack proves robustness. Results are not rounded to the 256 levels of a file.

Both climb the log-odds against the label, log(sum of exp z_j, j not y) - z_y. Cross-entropy is a
growing function of it, so that the gradient's signs are those of cross-entropy; but where a model
is sure, cross-entropy rounds to 0 in float32, and its gradient with it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# f32[n, h, w, c] in [0, 1] -> f32[n, classes].
LogitsOf = Callable[[jax.Array], jax.Array]
# (f32[n, h, w, c], i32[n]) -> f32[n, h, w, c], the gradient of the sum of `log_odds_against`.
Gradient = Callable[[jax.Array, jax.Array], jax.Array]


def log_odds_against(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns f32[n], log of (1 - p) / p, p being the label's probability.

    Args:
      logits: f32[n, classes].
      labels: i32[n].

    >>> log_odds_against(jnp.log(jnp.array([[0.2, 0.8]])), jnp.array([1]))  # log of 0.2 / 0.8
    Array([-1.3862944], dtype=float32)
    """
    own = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=1)
    return others - jnp.sum(jnp.where(own, logits, 0.0), axis=1)


def gradient_of(logits_of: LogitsOf) -> Gradient:
    """Returns the gradient by the pictures of the log-odds against their labels."""

    def total(x: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.sum(log_odds_against(logits_of(x).astype(jnp.float32), labels))

    return jax.grad(total)


def fgsm(gradient: Gradient, x: jax.Array, labels: jax.Array, epsilon: float) -> jax.Array:
    """The fast gradient sign method: one step of `epsilon` along the gradient's signs.

    Args:
      gradient: from `gradient_of`.
      x: f32[n, h, w, c] in [0, 1].
      labels: i32[n], the true ones.
      epsilon: the bound, in units of [0, 1]; not negative.

    Returns:
      f32[n, h, w, c] in [0, 1], at most `epsilon` from `x`.

    Source: Goodfellow, Shlens and Szegedy (2015), arXiv:1412.6572.
    """
    return _step(x, x, gradient(x, labels), epsilon, epsilon)


def pgd(
    gradient: Gradient,
    x: jax.Array,
    labels: jax.Array,
    epsilon: float,
    steps: int,
    step_size: float,
    start: jax.Array,
) -> jax.Array:
    """Projected gradient descent: FGSM in small steps, each put back within the bound.

    Args:
      gradient: as for `fgsm`. It is called from a Python loop, which costs less on a CPU than a
        compiled loop over convolutions.
      x: as for `fgsm`.
      labels: as for `fgsm`.
      epsilon: as for `fgsm`.
      steps: 1 or more.
      step_size: in units of [0, 1].
      start: f32[n, h, w, c] in [-1, 1], in units of epsilon: where in the bound each sample begins.

    Returns:
      f32[n, h, w, c] in [0, 1], at most `epsilon` from `x`: the last step's.

    Source: Madry et al. (2018), arXiv:1706.06083.
    """
    at = jnp.clip(x + epsilon * start, 0.0, 1.0)
    for _ in range(steps):
        at = _step(at, x, gradient(at, labels), step_size, epsilon)
    return at


def random_start(key: jax.Array, examples: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws f32[n, *shape], uniform in [-1, 1]; each row by its example's number i32[n]."""
    keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)
    return jax.vmap(lambda k: jax.random.uniform(k, shape, jnp.float32, -1.0, 1.0))(keys)


@jax.jit
def _step(
    at: jax.Array, x: jax.Array, slope: jax.Array, size: jax.Array | float, epsilon: float
) -> jax.Array:
    moved = at + size * jnp.sign(slope)
    return jnp.clip(jnp.clip(moved, x - epsilon, x + epsilon), 0.0, 1.0)
