"""Optimizers against NumPy loops, optax and Keras."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgclass import optim
from imgclass.errors import UsageError
from tests.optim.sections import section


def at_rate(cfg, rate):
    """The optimizer with its learning rate, which the train step multiplies by."""
    return optax.chain(optim.create(cfg), optax.scale_by_learning_rate(rate))


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UsageError, match=r"optim\.name='prodigy' is not one of"):
        optim.create(section(name="prodigy"))


# `layer/bias` must never be decayed by the default pattern.
STEPS = 6


def rate(step):
    # It changes from step to step, so that its place in the velocity shows.
    return 0.1 / (1.0 + step)


def traced_rate(step):
    return rate(step.astype(jnp.float32))


def start():
    rng = np.random.default_rng(0)
    return {"layer": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}}


def gradients():
    rng = np.random.default_rng(1)
    return [
        {"layer": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}}
        for _ in range(STEPS)
    ]


def to_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def run(cfg, rates=traced_rate):
    params = to_float32(start())
    tx = at_rate(cfg, rates)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for grads in gradients():
        updates, state = update(to_float32(grads), state, params)
        params = optax.apply_updates(params, updates)
    return params["layer"]


def loop(one_step):
    """Runs `one_step(w, g, memory, t, decays)` in float64, leaf by leaf, t from 0."""
    params, found = start()["layer"], {}
    for name, w in params.items():
        memory = {}
        for t, grads in enumerate(gradients()):
            w = one_step(w, grads["layer"][name], memory, t, name == "kernel")
        found[name] = w
    return found


def assert_same(got, expected, rtol=5e-6):
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(got[name], expected[name], rtol=rtol, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_the_torch_form(momentum, nesterov):
    def step(w, g, memory, t, decays):
        g = g + (0.3 * w if decays else 0.0)
        memory["v"] = momentum * memory.get("v", 0.0) + g
        return w - rate(t) * (g + momentum * memory["v"] if nesterov else memory["v"])

    cfg = section(name="sgd", momentum=momentum, nesterov=nesterov, weight_decay=0.3)
    assert_same(run(cfg), loop(step))


def adam_direction(g, memory, t, eps, hat):
    memory["m"] = 0.8 * memory.get("m", 0.0) + 0.2 * g
    memory["v"] = 0.95 * memory.get("v", 0.0) + 0.05 * g * g
    first, second = 1 - 0.8 ** (t + 1), 1 - 0.95 ** (t + 1)
    if hat:
        return math.sqrt(second) / first * memory["m"] / (np.sqrt(memory["v"]) + eps)
    return memory["m"] / first / (np.sqrt(memory["v"] / second) + eps)


BETAS = {"beta1": 0.8, "beta2": 0.95}


# eps = 0.5 is of the size of the gradients, so that its place shows.
@pytest.mark.parametrize("hat", [False, True])
def test_adam_adds_decay_to_the_gradient(hat):
    def step(w, g, memory, t, decays):
        g = g + (0.3 * w if decays else 0.0)
        return w - rate(t) * adam_direction(g, memory, t, 0.5, hat)

    cfg = section(name="adam", eps=0.5, eps_hat=hat, weight_decay=0.3, **BETAS)
    assert_same(run(cfg), loop(step))


@pytest.mark.parametrize("hat", [False, True])
def test_adamw_decays_apart_from_the_gradient(hat):
    def step(w, g, memory, t, decays):
        decay = 0.3 * w if decays else 0.0
        return w - rate(t) * (adam_direction(g, memory, t, 0.5, hat) + decay)

    cfg = section(name="adamw", eps=0.5, eps_hat=hat, weight_decay=0.3, **BETAS)
    assert_same(run(cfg), loop(step))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lamb_scales_each_decayed_array_to_its_norm(decay):
    def step(w, g, memory, t, decays):
        direction = adam_direction(g, memory, t, 0.5, False)
        if decays:
            direction = direction + decay * w
            direction = np.linalg.norm(w) / np.linalg.norm(direction) * direction
        return w - rate(t) * direction

    cfg = section(name="lamb", eps=0.5, weight_decay=decay, **BETAS)
    assert_same(run(cfg), loop(step))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_the_torch_form(momentum):
    def step(w, g, memory, t, decays):
        g = g + (0.3 * w if decays else 0.0)
        memory["s"] = 0.7 * memory.get("s", 0.0) + 0.3 * g * g
        scaled = g / (np.sqrt(memory["s"]) + 0.5)
        memory["v"] = momentum * memory.get("v", 0.0) + scaled
        return w - rate(t) * memory["v"]

    cfg = section(name="rmsprop", rmsprop_decay=0.7, eps=0.5, momentum=momentum, weight_decay=0.3)
    assert_same(run(cfg), loop(step))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_in_tensorflows_form_starts_at_one_and_has_eps_inside_the_root(momentum):
    def step(w, g, memory, t, decays):
        g = g + (0.3 * w if decays else 0.0)
        memory["s"] = 0.7 * memory.get("s", 1.0) + 0.3 * g * g
        memory["v"] = momentum * memory.get("v", 0.0) + g / np.sqrt(memory["s"] + 0.5)
        return w - rate(t) * memory["v"]

    changes = {"rmsprop_decay": 0.7, "eps": 0.5, "momentum": momentum, "weight_decay": 0.3}
    assert_same(run(section(name="rmsprop", rmsprop_tf=True, **changes)), loop(step))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lars_moves_each_decayed_array_by_its_norm(decay):
    def step(w, g, memory, t, decays):
        if decays:
            size = np.linalg.norm(w)
            trust = 0.02 * size / (np.linalg.norm(g) + decay * size)
            g = trust * (g + decay * w)
        memory["v"] = 0.9 * memory.get("v", 0.0) + g
        return w - rate(t) * memory["v"]

    assert_same(run(section(name="lars", lars_coefficient=0.02, weight_decay=decay)), loop(step))


def test_lars_takes_the_plain_step_where_a_norm_is_zero():
    cfg = section(name="lars", momentum=0.0)
    tx = optim.create(cfg)
    params = {"new": jnp.zeros(2), "still": jnp.ones(2)}
    grads = {"new": jnp.array([1.0, -2.0]), "still": jnp.zeros(2)}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["new"], [1.0, -2.0])
    np.testing.assert_array_equal(updates["still"], [0.0, 0.0])


def test_lion_moves_by_signs():
    def step(w, g, memory, t, decays):
        m = memory.get("m", 0.0)
        memory["m"] = 0.95 * m + 0.05 * g
        return w - rate(t) * (np.sign(0.8 * m + 0.2 * g) + (0.3 * w if decays else 0.0))

    assert_same(run(section(name="lion", weight_decay=0.3, **BETAS)), loop(step))


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb"])
def test_without_eps_hat_it_is_optax(name):
    # Rates within an ulp of 0.01 move weights of size 1, so 5e-7 is a few ulps.
    theirs = {
        "adam": lambda: optax.adam(0.01, eps=1e-7),
        "adamw": lambda: optax.adamw(0.01, eps=1e-7, weight_decay=0.3),
        "lamb": lambda: optax.lamb(0.01, eps=1e-7, weight_decay=0.3),
    }[name]()
    params = to_float32(start())
    # optax raises a float to an int32 power, which the strict session refuses.
    with jax.numpy_dtype_promotion("standard"):
        state, update = theirs.init(params), jax.jit(theirs.update)
        for grads in gradients():
            updates, state = update(to_float32(grads), state, params)
            params = optax.apply_updates(params, updates)
    decay = 0.0 if name == "adam" else 0.3
    cfg = section(name=name, eps=1e-7, weight_decay=decay, no_decay="")
    assert_same(run(cfg, optax.constant_schedule(0.01)), params["layer"], rtol=5e-7)


def test_eps_hat_is_keras_adam(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("keras was already imported with another backend")
    # Gradients of 1e-6 and less, where the two epsilons part: by a third at the first step.
    sizes = np.array([1.0, 1e-3, 1e-5, 1e-6, 1e-7, 0.0])
    grads = [(sizes * (1 + 0.5 * k) * (-1) ** (k == 2)).astype(np.float32) for k in range(5)]
    first = np.linspace(-1, 1, 6).astype(np.float32)
    # The strict session is for this project; Keras mixes dtypes.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        variable = keras.Variable(first)
        theirs = keras.optimizers.Adam(1e-3)  # eps 1e-7
        theirs.build([variable])
        for grad in grads:
            theirs.apply([jnp.asarray(grad)], [variable])
        expected = np.asarray(variable.value)

    def ours(hat):
        params = jnp.asarray(first)
        tx = at_rate(section(eps=1e-7, eps_hat=hat), optax.constant_schedule(1e-3))
        state = tx.init(params)
        for grad in grads:
            updates, state = tx.update(jnp.asarray(grad), state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params)

    # Moves are up to 5e-3 a weight; 2.4e-7 is two ulps of a weight near 1.
    np.testing.assert_allclose(ours(True), expected, rtol=0, atol=2.4e-7)
    assert np.abs(ours(False) - expected).max() > 1e-4


def test_clipping_is_over_all_parameters_together():
    # Norm of (3, 4) is 5: clipped to 1 the step is (0.6, 0.8). At norm 10 nothing happens.
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    for limit, expected in ((1.0, (-0.6, -0.8)), (10.0, (-3.0, -4.0))):
        cfg = section(name="sgd", momentum=0.0, clip_norm=limit)
        tx = at_rate(cfg, optax.constant_schedule(1.0))
        updates, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose([updates["a"][0], updates["b"][0]], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "lars", "lion", "rmsprop"])
def test_the_state_alone_carries_the_schedule(name):
    # A state flattened to arrays and rebuilt with a new transformation goes on at the same rate.
    cfg = section(name=name, schedule="cosine", weight_decay=0.1, eps_hat=name == "adam")
    params = {"kernel": jnp.array([1.0, 2.0])}
    grads = {"kernel": jnp.array([0.5, -0.5])}
    tx = at_rate(cfg, optim.schedule(cfg, 10, 2))
    state = tx.init(params)
    for _ in range(5):
        _, state = tx.update(grads, state, params)
    expected, _ = tx.update(grads, state, params)

    again = at_rate(cfg, optim.schedule(cfg, 10, 2))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    rebuilt = jax.tree.unflatten(jax.tree.structure(again.init(params)), leaves)
    got, _ = again.update(grads, jax.tree.map(jnp.asarray, rebuilt), params)
    np.testing.assert_array_equal(got["kernel"], expected["kernel"])
