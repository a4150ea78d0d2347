"""The state: what it starts as, whose buffers it holds, and what is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgclass import keys, models, state
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def model():
    config = tiny.config("unused", {"model.batch_norm": True})
    return models.create(config.model, 3, (8, 8, 3))


def create(model, seed=0, averaging=False, slow=False, tx=None):
    key = jax.random.key_data(keys.root(seed))
    variables = model.init(keys.stream(seed, "init"))
    return state.create(key, variables, tx or optax.trace(0.9), averaging, slow)


def test_the_first_state(model):
    first = create(model)
    assert (int(first.step), first.step.dtype) == (0, jnp.int32)
    assert (first.ema, first.slow) == ({}, {})
    # 3x3x3x4 without a bias, scale and bias of the norm, 3x3x4 inputs to 3 classes and 3 biases.
    assert models.count_parameters(first.params) == 108 + 8 + 36 * 3 + 3
    stats = first.batch_stats["block1_bn1"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(4))
    np.testing.assert_array_equal(stats["var"], np.ones(4))
    velocity = jax.tree.leaves(first.opt_state)
    assert [v.shape for v in velocity] == [p.shape for p in jax.tree.leaves(first.params)]
    assert not any(np.any(v) for v in velocity)


def test_it_is_a_function_of_the_seed(model):
    def bits(seed):
        return np.asarray(create(model, seed).params["head"]["kernel"]).tobytes()

    assert bits(3) == bits(3)
    assert len({bits(seed) for seed in (0, 1, 2**32)}) == 3


@pytest.mark.parametrize("jitted", [False, True])
def test_averages_start_as_copies_and_not_as_the_same_buffers(model, jitted):
    """A step consumes the weights it is given; what is averaged must outlive them."""

    def make():
        return create(model, averaging=True, slow=True)

    first = jax.jit(make)() if jitted else make()
    weights = {"params": first.params, "batch_stats": first.batch_stats}
    before = jax.tree.map(np.array, weights)
    of_weights = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(weights)}
    copies = jax.tree.leaves((first.ema, first.slow))
    of_averages = {leaf.unsafe_buffer_pointer() for leaf in copies}
    assert not of_weights & of_averages
    assert len(of_averages) == len(copies)
    for leaf in jax.tree.leaves(weights):
        leaf.delete()
    for average in (first.ema, first.slow):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, average), before)


def test_what_is_evaluated_is_the_average_if_there_is_one(model):
    plain = create(model)
    found = state.eval_variables(plain)
    assert found == {"params": plain.params, "batch_stats": plain.batch_stats}
    averaging = create(model, averaging=True)
    averaging = averaging.replace(ema=jax.tree.map(lambda a: a + 1, averaging.ema))
    found = state.eval_variables(averaging)
    assert found.keys() == {"params", "batch_stats"}
    for name, of_model in (("params", averaging.params), ("batch_stats", averaging.batch_stats)):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), found[name], of_model)
