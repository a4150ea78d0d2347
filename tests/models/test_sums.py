"""Sums over pixels, and the bias whose gradient is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.models import sums


@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (3, 7, 2), (2, 1, 1, 3)])
def test_sums_equal_float64(shape):
    x = np.random.default_rng(0).normal(size=shape)
    wanted = x.reshape(shape[0], -1, shape[-1]).sum(axis=1)
    got = jax.jit(sums.by_picture)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_long_sum_keeps_its_digits():
    # 0.1 as float32 is 0.100000001490116; added up one by one, a million of them would give 100958.
    x = jnp.full((1, 1000, 1000, 1), 0.1, jnp.float32)
    np.testing.assert_allclose(jax.jit(sums.by_picture)(x), [[100000.00149]], rtol=2e-5)


@pytest.mark.parametrize(("platform", "products"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_a_product_on_cpu_only(platform, products):
    lowered = jax.jit(sums.by_picture).trace(jnp.ones((2, 4, 4, 3)))
    text = lowered.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.dot_general") == products


def test_gradients_of_a_bias():
    y, bias = jnp.arange(24.0).reshape(2, 2, 2, 3), jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(sums.add_bias(y, bias)[1, 1, 1], [22.0, 24.0, 26.0])
    weights = jnp.arange(24.0).reshape(2, 2, 2, 3)
    dy, dbias = jax.grad(lambda y, b: (sums.add_bias(y, b) * weights).sum(), (0, 1))(y, bias)
    np.testing.assert_array_equal(dy, weights)
    np.testing.assert_array_equal(dbias, [84.0, 92.0, 100.0])  # 0 + 3 + ... + 21, and so on


def test_a_bias_of_16_bits_is_summed_in_float32():
    # 512 ones: added up in bfloat16, whose whole numbers end at 256, they would be fewer.
    y = jnp.ones((2, 16, 16, 1), jnp.bfloat16)
    slope = jax.grad(lambda b: sums.add_bias(y, b).sum().astype(jnp.float32))
    assert float(slope(jnp.zeros((1,), jnp.bfloat16))[0]) == 512
