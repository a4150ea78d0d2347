"""Muon against the singular value decomposition, NumPy loops and optax's iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import contrib

from imgclass import optim
from imgclass.optim import muon
from tests.optim.sections import section

A, B, C = 3.4445, -4.7750, 2.0315


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def quintic(s, steps):
    for _ in range(steps):
        s = A * s + B * s**3 + C * s**5
    return s


def newton_schulz(matrix, steps):
    """One matrix in float64, as published: always over the shorter side."""
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(steps):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 4), (1, 7)])
@pytest.mark.parametrize("steps", [3, 5])
def test_each_step_is_a_polynomial_of_the_singular_values(shape, steps):
    """The singular vectors stay, and the values of x / ||x|| go through the quintic."""
    x = normal(*shape)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    expected = u * quintic(s / np.linalg.norm(x), steps) @ vt
    got = muon.orthogonalize(jnp.asarray(x[None], jnp.float32), steps)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[0], expected, rtol=0, atol=5e-6)


def test_five_steps_bring_what_is_above_a_hundredth_of_the_norm_near_one():
    values = np.array([1.0, 0.5, 0.3, 0.1, 0.05, 0.02])
    u, _ = np.linalg.qr(normal(6, 6))
    v, _ = np.linalg.qr(normal(20, 6, seed=1))
    got = muon.orthogonalize(jnp.asarray((u * values @ v.T)[None], jnp.float32), 5)
    after = np.linalg.svd(np.asarray(got[0]), compute_uv=False)
    assert 0.65 < after.min() < after.max() < 1.25


def test_it_is_the_iteration_of_optax():
    x = jnp.asarray(normal(12, 7), jnp.float32)
    theirs = contrib._muon.orthogonalize_via_newton_schulz(x, jnp.asarray((A, B, C)), 5)
    np.testing.assert_allclose(muon.orthogonalize(x[None], 5)[0], theirs, rtol=0, atol=2e-6)


def test_bfloat16_is_the_same_to_its_two_digits():
    x = jnp.asarray(normal(3, 8, 30), jnp.float32)
    exact, short = muon.orthogonalize(x, 3), muon.orthogonalize(x, 3, jnp.bfloat16)
    assert short.dtype == jnp.float32
    difference = np.abs(np.asarray(exact - short)).max()
    # Entries are up to 0.6; three iterations multiply a rounding of 2^-9 by up to 3.4 each.
    assert 1e-4 < difference < 0.03


def test_nothing_is_done_to_a_gradient_of_zero():
    assert not np.any(np.asarray(muon.orthogonalize(jnp.zeros((1, 3, 4)), 5)))


PARAMS = {
    "conv1": {"kernel": normal(3, 3, 2, 4)},  # 18 x 4
    "conv2": {"kernel": normal(3, 3, 2, 4, seed=1)},  # the same shape, a stack of two
    "point": {"kernel": normal(1, 1, 4, 9, seed=2)},  # more outputs than inputs
    "dense": {"kernel": normal(4, 3, seed=3), "bias": normal(3, seed=4)},
    "bn": {"scale": normal(4, seed=5)},
    "head": {"kernel": normal(3, 2, seed=6)},
}
MATRICES = {("conv1", "kernel"), ("conv2", "kernel"), ("point", "kernel"), ("dense", "kernel")}


def float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def gradient(t):
    return {
        module: {name: normal(*p.shape, seed=100 + 10 * t + i) for name, p in leaves.items()}
        for i, (module, leaves) in enumerate(PARAMS.items())
    }


def trained(cfg, steps=3):
    params = float32(PARAMS)
    tx = optim.create(cfg)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(steps):
        params = muon.project(cfg, params)
        updates, state = update(float32(gradient(t)), state, params)
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
    return params


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_matrices_by_muon_and_the_rest_by_sgd(nesterov, normalize):
    """Three updates at rate 0.1 in float64, leaf by leaf, with decay 0.3 but of bias and scale."""
    cfg = section(
        name="muon", momentum=0.6, sgd_momentum=0.8, nesterov=nesterov, weight_decay=0.3,
        muon_steps=3, muon_normalize=normalize,
    )  # fmt: skip
    got = trained(cfg)
    for module, leaves in PARAMS.items():
        for name, w in leaves.items():
            matrix = (module, name) in MATRICES
            decay = 0.3 if name == "kernel" else 0.0
            momentum, v = 0.6 if matrix else 0.8, 0.0
            for t in range(3):
                g = gradient(t)[module][name]
                if matrix and normalize:
                    w = w * np.sqrt(w.shape[-1]) / np.linalg.norm(w)
                g = g if matrix else g + decay * w
                v = momentum * v + g
                u = g + momentum * v if nesterov else v
                if matrix:
                    flat = u.reshape(-1, u.shape[-1])
                    scale = np.sqrt(max(1.0, flat.shape[1] / flat.shape[0]))
                    u = scale * newton_schulz(flat, 3).reshape(w.shape) + decay * w
                w = w - 0.1 * u
            np.testing.assert_allclose(
                got[module][name], w, rtol=0, atol=5e-6, err_msg=f"{module}/{name}"
            )


def test_the_kernel_of_torch_gives_the_same_update():
    """PyTorch's [out, in, h, w] is reshaped to [out, in * h * w]: another order, and transposed."""
    kernel = normal(3, 3, 2, 4)
    torch = np.transpose(kernel, (3, 2, 0, 1)).reshape(4, 18)
    expected = newton_schulz(torch, 5).reshape(4, 2, 3, 3).transpose(2, 3, 1, 0)
    tx = muon.scale_by_orthogonalizing(5, jnp.float32)
    got, _ = tx.update({"a": jnp.asarray(kernel, jnp.float32)}, tx.init({}))
    np.testing.assert_allclose(got["a"], expected, rtol=0, atol=5e-6)


def test_the_head_is_no_matrix_of_muon_and_patterns_choose():
    def chosen(**changes):
        found = muon.matrices(section(name="muon", **changes), float32(PARAMS))
        return {m for m, leaves in found.items() if any(leaves.values())}

    assert chosen() == {"conv1", "conv2", "point", "dense"}
    assert chosen(muon_params="^conv") == {"conv1", "conv2"}
    assert chosen(muon_params="bn|bias") == set()  # vectors are no matrices
    assert chosen(freeze="^conv1") == {"conv2", "point", "dense"}
    assert chosen(lr_factors=("point=0", "conv=2")) == {"conv1", "conv2", "dense"}


def test_normalizing_leaves_everything_else_as_it_is():
    params = float32(PARAMS)
    assert muon.project(section(name="muon"), params) is params
    assert muon.project(section(name="sgd", muon_normalize=True), params) is params
    got = muon.project(section(name="muon", muon_normalize=True), params)
    np.testing.assert_allclose(np.linalg.norm(got["conv1"]["kernel"]), 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got["point"]["kernel"]), 3.0, rtol=1e-6)
    np.testing.assert_array_equal(got["head"]["kernel"], params["head"]["kernel"])
    np.testing.assert_array_equal(got["bn"]["scale"], params["bn"]["scale"])


def test_the_learning_rate_factor_of_a_matrix_multiplies_its_update():
    """On its gradient it would do nothing: orthogonalising forgets the size."""
    plain = section(name="muon", momentum=0.0, sgd_momentum=0.0, muon_steps=3)
    halved = section(
        name="muon", momentum=0.0, sgd_momentum=0.0, muon_steps=3, lr_factors=("conv1|bn=0.5",)
    )
    params, grads = float32(PARAMS), float32(gradient(0))
    (one, _), (half, _) = (
        jax.jit(tx.update)(grads, tx.init(params), params)
        for tx in map(optim.create, (plain, halved))
    )
    for module, factor in (("conv1", 0.5), ("bn", 0.5), ("conv2", 1.0), ("head", 1.0)):
        for name, u in one[module].items():
            np.testing.assert_allclose(half[module][name], factor * u, rtol=1e-6)


def test_state_is_one_velocity_a_parameter():
    state = optim.create(section(name="muon", momentum=0.6)).init(float32(PARAMS))
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes == sorted(p.size for leaves in PARAMS.values() for p in leaves.values())
