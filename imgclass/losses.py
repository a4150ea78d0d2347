"""Losses, one number a row.

Pure functions of arrays: no config, no keys, no masks. The step masks rows, means what it
differentiates and sums what it reports. Logits arrive as float32 whatever the model computes in.
Natural logarithms throughout, so every loss is in nats.
"""

import jax
import jax.numpy as jnp


def one_hot_smooth(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Turns class numbers into target distributions.

    Args:
      labels: i32[batch], each in [0, num_classes). A label outside is given no class of its own.
      num_classes: K.
      smoothing: s in [0, 1), the share spread evenly over all K classes, the true one included.

    Returns:
      f32[batch, K]: (1 - s) * onehot + s / K.

    Source: Szegedy et al. (2016), Rethinking the Inception Architecture, section 7.

    >>> one_hot_smooth(jnp.array([1]), 4, 0.2).round(3).tolist()
    [[0.05000000074505806, 0.8500000238418579, 0.05000000074505806, 0.05000000074505806]]
    """
    onehot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    if smoothing == 0.0:
        return onehot
    return onehot * (1.0 - smoothing) + smoothing / num_classes


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy of each row: -sum_k targets_k * log softmax(logits)_k.

    Args:
      logits: f32[batch, K], unnormalised.
      targets: f32[batch, K], distributions over the classes: one-hot, smoothed or mixed.

    Returns:
      f32[batch], nats. A row of NaN logits gives NaN, and leaves the other rows alone.

    Raises:
      ValueError: at trace time, if the shapes differ.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, eq. 4.108.

    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f'{cross_entropy(logits, jnp.array([[0.0, 1.0]]))[0]:.4f}')  # ln 4/3
    0.2877
    """
    if logits.shape != targets.shape:
        # Equal ranks of unequal length could broadcast to a wrong loss of the right shape.
        raise ValueError(f"shapes differ: logits {logits.shape}, targets {targets.shape}")
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)
