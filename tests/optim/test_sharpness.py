"""SAM by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from imgclass import optim
from tests.optim.sections import section


def cube(params, batch_stats, examples, key):
    """Gradient of sum(w^3) / 3, and an outcome that tells where and with what it was taken."""
    grads = jax.tree.map(lambda w: w * w, params)
    return grads, (params, batch_stats + examples, key)


def test_the_gradient_is_taken_up_the_slope():
    # At (2, 1) it is (4, 1), of norm sqrt(17). A step of rho = sqrt(17) / 2 leads to (4, 1.5).
    params = {"a": jnp.array(2.0), "b": jnp.array(1.0)}
    gradient = optim.sharpness_aware(cube, section(sam_rho=17**0.5 / 2))
    grads, (at, stats, key) = jax.jit(gradient)(params, 10.0, 1.0, 5)
    np.testing.assert_allclose([grads["a"], grads["b"]], [16.0, 2.25], rtol=1e-6)
    # Statistics, losses and logits are those at the weights themselves.
    np.testing.assert_array_equal([at["a"], at["b"], stats, key], [2.0, 1.0, 11.0, 5])


def test_at_a_flat_place_it_stays():
    params = {"a": jnp.array(0.0)}
    grads, _ = optim.sharpness_aware(cube, section(sam_rho=0.5))(params, 0.0, 0.0, 0)
    assert float(grads["a"]) == 0.0


def test_without_rho_it_is_the_gradient_itself():
    assert optim.sharpness_aware(cube, section()) is cube
