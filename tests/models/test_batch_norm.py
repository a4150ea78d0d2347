import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.models import batch_norm

EPSILON = 1e-3


def plain(x, scale, bias, group):
    """Batch norm as its definition has it, differentiated automatically."""
    shape = (x.shape[0] // (group or x.shape[0]), -1, *x.shape[1:])
    groups = x.reshape(shape)
    axes = tuple(range(1, groups.ndim - 1))
    centre = groups.mean(axes, keepdims=True)
    spread = jnp.square(groups - centre).mean(axes, keepdims=True)
    y = (groups - centre) / jnp.sqrt(spread + EPSILON)
    return (y * scale + bias).reshape(x.shape)


@pytest.mark.parametrize("group", [0, 2])
@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (6, 3)])
def test_values_and_gradients_equal_the_definition(shape, group):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        random = np.random.default_rng(0)
        x, weight = random.normal(2.0, 3.0, shape), random.normal(size=shape)
        scale, bias = random.normal(size=(2, 3))

        def ours(x, scale, bias):
            return jnp.sum(batch_norm.normalize(x, scale, bias, EPSILON, group)[0] * weight)

        def theirs(x, scale, bias):
            return jnp.sum(plain(x, scale, bias, group) * weight)

        for mine, other in zip(
            jax.grad(ours, (0, 1, 2))(x, scale, bias),
            jax.grad(theirs, (0, 1, 2))(x, scale, bias),
            strict=True,
        ):
            np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-12)
        y, mean, variance = batch_norm.normalize(x, scale, bias, EPSILON, group)
        np.testing.assert_allclose(y, plain(x, scale, bias, group), rtol=1e-12)
        rows = x[: group or len(x)].reshape(-1, 3)
        np.testing.assert_allclose(mean[0], rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(variance[0], rows.var(0), rtol=1e-12)


def test_variance_survives_a_large_mean():
    # Values 4096 and 4097: variance 1/4 exactly. E[x^2] - E[x]^2 in float32 gives 0 or 2.
    x = jnp.tile(jnp.array([4096.0, 4097.0]), 32).reshape(8, 2, 4, 1)
    mean, variance = jax.jit(batch_norm.moments)(x)
    np.testing.assert_array_equal(mean, [[4096.5]])
    np.testing.assert_array_equal(variance, [[0.25]])


def test_bfloat16_moments_are_those_of_its_values():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(30.0, 1.0, (64, 8, 8, 4)), jnp.bfloat16)
    mean, variance = jax.jit(batch_norm.moments)(x)
    exact = np.asarray(x, np.float64).reshape(-1, 4)
    assert mean.dtype == variance.dtype == jnp.float32
    np.testing.assert_allclose(mean[0], exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance[0], exact.var(0), rtol=1e-3)


def test_a_constant_bfloat16_map_has_variance_zero_not_less():
    x = jnp.full((512, 4, 4, 1), 0.1, jnp.bfloat16)
    _, variance = jax.jit(batch_norm.moments)(x)
    assert 0.0 <= float(variance[0, 0]) < 1e-8
