"""Losses against numbers worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import losses


def test_cross_entropy_by_hand():
    # softmax([0, ln 3]) = [1/4, 3/4], so the rows cost ln 4/3 and ln 4 nats (log2 gives 0.415, 2).
    logits = jnp.array([[0.0, math.log(3)]] * 2, jnp.float32)
    targets = jnp.array([[0.0, 1.0], [1.0, 0.0]], jnp.float32)
    got = jax.jit(losses.cross_entropy)(logits, targets)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [0.2876821, 1.3862944], rtol=1e-6)


def test_cross_entropy_of_a_soft_target_is_the_weighted_mean():
    # 0.3 * ln 4 + 0.7 * ln 4/3 = 0.6172658
    logits = jnp.array([[0.0, math.log(3)]], jnp.float32)
    targets = jnp.array([[0.3, 0.7]], jnp.float32)
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), [0.6172658], rtol=1e-6)


def test_cross_entropy_survives_large_logits():
    # exp(1000) overflows; the loss is the gap, 1000 nats, and 0 for the sure row.
    logits = jnp.array([[1000.0, 0.0], [1000.0, 0.0]], jnp.float32)
    targets = jnp.array([[0.0, 1.0], [1.0, 0.0]], jnp.float32)
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), [1000.0, 0.0])


def test_cross_entropy_gradient_is_softmax_minus_target():
    logits = jnp.array([[0.0, math.log(3)]], jnp.float32)
    targets = jnp.array([[0.0, 1.0]], jnp.float32)
    grad = jax.grad(lambda z: losses.cross_entropy(z, targets).sum())(logits)
    np.testing.assert_allclose(grad, [[0.25, -0.25]], rtol=1e-6)


def test_a_nan_row_stays_a_nan_row():
    logits = jnp.array([[jnp.nan, 0.0], [0.0, 0.0]], jnp.float32)
    targets = jnp.array([[0.0, 1.0], [1.0, 0.0]], jnp.float32)
    got = np.asarray(losses.cross_entropy(logits, targets))
    assert math.isnan(got[0])
    np.testing.assert_allclose(got[1], math.log(2), rtol=1e-6)


def test_cross_entropy_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"logits \(4, 3\), targets \(1, 3\)"):
        losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros((1, 3)))


def test_one_hot_smooth_by_hand():
    # s = 0.1, K = 5: 0.9 + 0.02 on the label, 0.02 elsewhere.
    got = losses.one_hot_smooth(jnp.array([3, 0], jnp.int32), 5, 0.1)
    expected = np.full((2, 5), 0.02)
    expected[0, 3] = expected[1, 0] = 0.92
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == jnp.float32


def test_one_hot_without_smoothing_is_exact():
    got = losses.one_hot_smooth(jnp.array([2], jnp.int32), 3, 0.0)
    np.testing.assert_array_equal(got, [[0.0, 0.0, 1.0]])
