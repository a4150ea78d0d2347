"""The depth of layers, read from names and checked against the order in which models run."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import config, models, optim
from imgclass.models import registry
from imgclass.optim import depth
from tests.optim.sections import section


def test_layers_in_the_order_of_their_numbers():
    names = [
        ["whiten", "stem_conv", "stem_bn", "class_token"],
        ["conv1", "bn1"],
        ["stage1_block1"],
        ["stage1_block2"],
        ["transition1_conv", "transition1_bn"],
        ["stage2_down_conv", "stage2_down_norm"],
        ["stage2_block1"],
        ["stage10_block1"],
        ["head", "norm", "bn", "hidden1", "classifier2"],
    ]
    params = {name: {"kernel": 0.0} for layer in names for name in layer}
    factors = depth.layer_factors(params, 0.5)
    for below, layer in enumerate(reversed(names)):
        assert {factors[name]["kernel"] for name in layer} == {0.5**below}


def test_the_whole_update_is_scaled_also_of_sgd_and_also_past_frozen_layers():
    """Layers: stem, block1 (frozen), head. Decay 0.2 * 3 is added to the gradient of 1: 1.6."""
    params = {name: {"kernel": jnp.full(2, 3.0)} for name in ("stem", "block1", "head")}
    grads = jax.tree.map(jnp.ones_like, params)
    cfg = section(name="sgd", momentum=0.0, weight_decay=0.2, layer_decay=0.5, freeze="^block1")
    tx = optim.create(cfg)
    updates, _ = tx.update(grads, tx.init(params), params)
    for name, expected in (("head", 1.6), ("block1", 0.0), ("stem", 0.4)):
        np.testing.assert_allclose(updates[name]["kernel"], [expected] * 2, rtol=1e-6)


FAMILIES = {file: name for name, file in reversed(registry._FILES.items())}  # one model of each


@pytest.mark.parametrize("name", sorted(FAMILIES.values()))
def test_no_layer_runs_after_one_above_it(name):
    cfg = config.defaults().model
    cfg.update({"name": name, "filters": (8, 8), "hidden": (4,), "batch_norm": True})
    model = models.create(cfg, 3, (224, 224, 3))
    order: list[str] = []

    def note(call, args, kwargs, context):
        if len(context.module.path) == 1 and context.method_name == "__call__":
            order.append(context.module.path[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    ran = [module for module in order if module in shapes["params"]]
    assert ran[-1] == "head"
    places = [depth._place(module) for module in ran]
    assert places == sorted(places)
    assert len(set(places)) > 2
