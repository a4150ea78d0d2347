"""One update of the whole state, against its parts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from imgclass import optim
from imgclass.optim import update as update_lib
from imgclass.state import TrainState
from tests.optim.sections import section

KEY = jnp.zeros(2, jnp.uint32)


def updated(cfg, steps, total, slow=None, ema=None):
    """A weight that starts at 1 with gradient 1 and a statistic that grows by 1 a step."""
    params, stats = {"w": jnp.array([1.0])}, {"m": jnp.array([0.0])}
    tx = optim.create(cfg)
    state = TrainState(jnp.int32(0), KEY, params, stats, tx.init(params), ema or {}, slow or {})
    update = jax.jit(optim.make_update(cfg, tx, optim.schedule(cfg, total, 0), total))
    rates = []
    for _ in range(steps):
        stats = {"m": state.batch_stats["m"] + 1.0}
        state, rate = update(state, {"w": jnp.array([1.0])}, stats)
        rates.append(float(rate))
    return state, rates


def test_an_update_is_minus_the_rate_of_its_step():
    # Linear from 1 to 0 over 4: rates 1, 3/4, 1/2. From 1: 0, -3/4, -5/4.
    cfg = section(name="sgd", momentum=0.0, lr=1.0, schedule="linear")
    state, rates = updated(cfg, 3, 4)
    np.testing.assert_allclose(rates, [1.0, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(state.params["w"], [-1.25], rtol=1e-6)
    np.testing.assert_allclose(state.batch_stats["m"], [3.0])
    assert (int(state.step), state.ema, state.slow) == (3, {}, {})


def test_the_average_takes_in_what_lookahead_leaves():
    """Rate 1, k = 1, T = 2, decay 0.5, power 0: the weights 0.5 and 0, the statistics 0.5 and 1."""
    cfg = section(
        name="sgd", momentum=0.0, lr=1.0, lookahead_steps=1, lookahead_decay=0.5,
        lookahead_power=0.0, ema_decay=0.75,
    )  # fmt: skip
    start = {"params": {"w": jnp.array([1.0])}, "batch_stats": {"m": jnp.array([0.0])}}
    state, _ = updated(cfg, 2, 2, start, start)
    np.testing.assert_allclose(state.params["w"], [0.0], atol=1e-7)
    np.testing.assert_allclose(state.slow["params"]["w"], [0.0], atol=1e-7)
    np.testing.assert_allclose(state.batch_stats["m"], [1.0])
    # 0.75 * 1 + 0.25 * 0.5 = 0.875, then 0.75 * 0.875; statistics 0.125, then 0.34375.
    np.testing.assert_allclose(state.ema["params"]["w"], [0.65625], rtol=1e-6)
    np.testing.assert_allclose(state.ema["batch_stats"]["m"], [0.34375], rtol=1e-6)


def test_matrices_are_normalised_before_their_update():
    """A 1x1 kernel of 2 becomes 1, and its orthogonalised gradient is the quintic of 1."""
    cfg = section(name="muon", momentum=0.0, lr=0.5, muon_steps=1, muon_normalize=True)
    params = {"conv": {"kernel": jnp.full((1, 1), 2.0)}}
    tx = optim.create(cfg)
    state = TrainState(jnp.int32(0), KEY, params, {}, tx.init(params), {}, {})
    update = optim.make_update(cfg, tx, optim.schedule(cfg, 10, 0), 10)
    state, _ = update(state, {"conv": {"kernel": jnp.full((1, 1), 7.0)}}, {})
    quintic = 3.4445 - 4.7750 + 2.0315
    np.testing.assert_allclose(state.params["conv"]["kernel"], [[1 - 0.5 * quintic]], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_schedule_free_is_that_of_optax(name):
    """Eight updates, three of them warming up from 1/3 to 1 of 0.1; decay 0.2."""
    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=5), jnp.float32)
    grads = [jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(8)]
    cfg = section(
        name=name, lr=0.1, schedule_free=True, momentum=0.8, beta1=0.8, beta2=0.95, eps=1e-3,
        weight_decay=0.2, no_decay="",
    )  # fmt: skip
    schedule = optim.schedule(cfg, 8, 3)

    with jax.numpy_dtype_promotion("standard"):
        base = {
            "sgd": optax.chain(optax.add_decayed_weights(0.2), optax.sgd(schedule)),
            "adamw": optax.adamw(schedule, b1=0.0, b2=0.95, eps=1e-3, weight_decay=0.2),
        }[name]
        # It counts from 0 for the base and from 1 for its weights, which are thus a step ahead.
        theirs = contrib.schedule_free(base, lambda count: schedule(count - 1), b1=0.8)
        y, state = first, theirs.init(first)
        for grad in grads:
            change, state = theirs.update(grad, state, y)
            y = y + change
        x = contrib.schedule_free_eval_params(state, y)

    tx = optim.create(cfg)
    weights = {"params": {"w": first}, "batch_stats": {"m": jnp.zeros(1)}}
    opt_state = tx.init(weights["params"])
    ours = TrainState(jnp.int32(0), KEY, **weights, opt_state=opt_state, ema=weights, slow=weights)
    update = jax.jit(optim.make_update(cfg, tx, schedule, 8))
    for t, grad in enumerate(grads):
        ours, _ = update(ours, {"w": grad}, {"m": jnp.full(1, float(t))})
    np.testing.assert_allclose(ours.params["w"], y, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours.ema["params"]["w"], x, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours.slow["params"]["w"], state.z, rtol=2e-5, atol=1e-6)
    # What is evaluated has the statistics of the weights that train.
    np.testing.assert_array_equal(ours.ema["batch_stats"]["m"], [7.0])
    np.testing.assert_array_equal(ours.batch_stats["m"], [7.0])


def test_schedule_free_weighs_by_the_square_of_the_rate_also_where_a_program_makes_the_step():
    """Rates 1/2, 1, 1: c = 1, 4/5, 4/9. From 1: z = 1/2, -1/2, -3/2, x = 1/2, -0.3, -5/6.

    A step that learns from a teacher is made while its program is traced.
    """
    cfg = section(name="sgd", lr=1.0, warmup_factor=0.5, schedule_free=True, momentum=0.5)
    schedule, tx = optim.schedule(cfg, 3, 1), optim.create(cfg)
    weights = {"params": {"w": jnp.array([1.0])}, "batch_stats": {}}
    opt_state = tx.init(weights["params"])
    state = TrainState(jnp.int32(0), KEY, **weights, opt_state=opt_state, ema=weights, slow=weights)
    update = jax.jit(lambda *arguments: optim.make_update(cfg, tx, schedule, 3)(*arguments))
    for z, x in ((0.5, 0.5), (-0.5, -0.3), (-1.5, -5 / 6)):
        state, _ = update(state, {"w": jnp.array([1.0])}, {})
        np.testing.assert_allclose(state.slow["params"]["w"], [z], rtol=1e-5)
        np.testing.assert_allclose(state.ema["params"]["w"], [x], rtol=1e-5)


def test_a_long_schedule_free_run_sums_its_rates_in_more_digits_than_it_keeps():
    """Of equal rates the t-th weight is 1 / t; summed one by one in float32 it is off by 9e-4."""
    total = 300_000
    weights = update_lib._weights(lambda steps: jnp.full(steps.shape, 0.1, jnp.float32), total)
    assert (weights.dtype, weights.shape) == (np.float32, (total,))
    np.testing.assert_allclose(weights, 1 / np.arange(1, total + 1), rtol=1e-7)
