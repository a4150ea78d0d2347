"""Losses, one number a row, and what the counts of the classes make of them.

Pure functions of arrays: no config, no keys, no masks. The objective means what is differentiated,
the metrics sum what is reported. Logits arrive as float32 whatever the model computes in.
Natural logarithms throughout, so every loss is in nats.
"""

import jax
import jax.numpy as jnp
import numpy as np


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns f32[batch, K] of i32[batch] in [0, K); a label outside is given no class."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def smooth(targets: jax.Array, smoothing: float) -> jax.Array:
    """Spreads a share of each target evenly over all K classes, those it has included.

    Args:
      targets: f32[batch, K], distributions over the classes.
      smoothing: s in [0, 1).

    Returns:
      f32[batch, K]: (1 - s) * targets + s / K. Mixing rows before or after gives the same.

    Source: Szegedy et al. (2016), Rethinking the Inception Architecture, section 7.

    >>> smooth(jnp.array([[0.0, 1.0, 0.0, 0.0]]), 0.2).round(3).tolist()
    [[0.05000000074505806, 0.8500000238418579, 0.05000000074505806, 0.05000000074505806]]
    """
    if smoothing == 0.0:
        return targets
    return targets * (1.0 - smoothing) + smoothing / targets.shape[-1]


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
    _check_shapes(logits, targets)
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, threshold: float = 0.0, total: bool = False
) -> jax.Array:
    """Each class as a yes-or-no question of its own, for one label as for several.

    Per row the mean over k of -t_k * log sigmoid(z_k) - (1 - t_k) * log sigmoid(-z_k), or the sum.

    Args:
      logits: f32[batch, K], unnormalised.
      targets: f32[batch, K] in [0, 1]: one-hot, smoothed or mixed.
      threshold: if above 0, a target above it counts as 1 and every other as 0, so that both
        classes of a mixed picture are wholly there.
      total: sum over the classes instead of their mean. The mean makes a rate K times too small.

    Returns:
      f32[batch], nats.

    Raises:
      ValueError: at trace time, if the shapes differ.

    Source: Wightman et al. (2021), ResNet strikes back, section 3.1; `BinaryCrossEntropy` of timm,
    whose mean, `target_threshold` and `sum_classes` these are.

    >>> logits = jnp.log(jnp.array([[3.0, 1.0]]))  # sigmoids 3/4 and 1/2
    >>> print(f'{binary_cross_entropy(logits, jnp.array([[1.0, 0.0]]))[0]:.4f}')  # ln(8/3) / 2
    0.4904
    """
    _check_shapes(logits, targets)
    if threshold:
        targets = (targets > threshold).astype(jnp.float32)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    each = -targets * yes - (1.0 - targets) * no
    return jnp.sum(each, axis=-1) if total else jnp.mean(each, axis=-1)


def focal(logits: jax.Array, targets: jax.Array, gamma: float) -> jax.Array:
    """Cross-entropy that counts what is already right for less.

    With p = softmax(logits): -sum_k targets_k * (1 - p_k)^gamma * log p_k; gamma 0 is
    `cross_entropy`. There is no alpha: class weights are that.

    Args:
      logits: f32[batch, K], unnormalised.
      targets: f32[batch, K], distributions over the classes.
      gamma: 0 or more; 2 in the paper.

    Returns:
      f32[batch], nats.

    Raises:
      ValueError: at trace time, if the shapes differ.

    Source: Lin et al. (2017), arXiv:1708.02002, eq. 4, its p_t taken from a softmax over the
    classes instead of a sigmoid.

    >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> print(f'{focal(logits, jnp.array([[0.0, 1.0]]), 2.0)[0]:.4f}')  # ln(4/3) / 16
    0.0180
    """
    _check_shapes(logits, targets)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    # Above 0, for at 0 a power below 1 has no gradient, and 0 times that would be NaN.
    missing = jnp.maximum(-jnp.expm1(log_p), 1e-30)
    return -jnp.sum(targets * missing**gamma * log_p, axis=-1)


def jensen_shannon(logits: jax.Array) -> jax.Array:
    """How much the predictions of several views of one picture differ.

    With p_v the softmax of view v and M their mean: the mean over v of KL(p_v || M). AugMix's
    code clips M at 1e-7; here it is a sum of exponentials and needs no clip.

    Args:
      logits: f32[batch, V, K].

    Returns:
      f32[batch], nats, from 0 to ln V.

    Source: Hendrycks et al. (2020), AugMix, arXiv:1912.02781, section 3.

    >>> certain = jnp.array([[[30.0, 0.0], [0.0, 30.0]]])  # two views that contradict each other
    >>> print(f'{jensen_shannon(certain)[0]:.4f}')  # ln 2
    0.6931
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    log_mean = jax.nn.logsumexp(log_p, axis=1, keepdims=True) - np.float32(np.log(logits.shape[1]))
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_mean), axis=-1), axis=1)


def distillation(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """How far a student's softened predictions are from its teacher's.

    T^2 * KL(softmax(teacher / T) || softmax(student / T)). It has the gradient of the paper's
    cross-entropy with soft targets, and is 0 where both agree. T^2 keeps the gradient's size from
    depending on T.

    Args:
      student: f32[batch, K], logits.
      teacher: f32[batch, K], logits.
      temperature: T, above 0.

    Returns:
      f32[batch], nats times T^2.

    Raises:
      ValueError: at trace time, if the shapes differ.

    Source: Hinton et al. (2015), arXiv:1503.02531, section 2.
    """
    _check_shapes(student, teacher)
    ours = jax.nn.log_softmax(student / temperature, axis=-1)
    theirs = jax.nn.log_softmax(teacher / temperature, axis=-1)
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def squared_error(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns f32[batch]: the mean of (a - b)^2 over all but the rows of two float[batch, ...]."""
    _check_shapes(a, b)
    difference = a.astype(jnp.float32) - b.astype(jnp.float32)
    return jnp.mean(difference**2, axis=tuple(range(1, a.ndim)))


def class_weights(counts: np.ndarray, how: str, beta: float = 0.0) -> np.ndarray:
    """Weighs each class by how rare it is, so that the mean weight of the examples is 1.

    With n_c examples of class c, before that scaling: 'inverse' is 1 / n_c; 'effective' is
    (1 - beta) / (1 - beta^n_c), which goes from 1 at beta = 0 to 1 / n_c as beta nears 1. A class
    without examples has weight 0; nothing is ever weighed with it.

    Args:
      counts: int[K], examples of each class, at least one in all.
      how: 'inverse' or 'effective'.
      beta: of 'effective', in [0, 1).

    Returns:
      f32[K] with sum_c n_c * w_c = sum_c n_c.

    Source: 'effective' is Cui et al. (2019), arXiv:1901.05555, eq. 2; they scale the weights to
    mean 1 over the classes.

    >>> class_weights(np.array([1, 3]), 'inverse').round(4).tolist()
    [2.0, 0.666700005531311]
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    spread = counts if how == "inverse" else (1.0 - beta**counts) / (1.0 - beta)
    weights = np.where(present, 1.0 / np.where(present, spread, 1.0), 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def log_priors(counts: np.ndarray) -> np.ndarray:
    """Returns f32[K], ln(n_c / n): what logit adjustment adds to the logits, times tau.

    Trained on adjusted logits, the plain ones are best for balanced error instead of error. Source:
    Menon et al. (2021), arXiv:2007.07314, eq. 10.

    Args:
      counts: int[K], examples of each class, at least one each.
    """
    counts = np.asarray(counts, np.float64)
    return np.log(counts / counts.sum()).astype(np.float32)


def _check_shapes(a: jax.Array, b: jax.Array) -> None:
    if a.shape != b.shape:
        # Equal ranks of unequal length could broadcast to a wrong loss of the right shape.
        raise ValueError(f"shapes differ: logits {a.shape}, targets {b.shape}")
