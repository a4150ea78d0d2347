"""Pre-activated residual networks: published sizes, and what comes before and after the sum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.models import layers, resnet_v2, torch_names
from imgclass.models.count import multiply_adds
from imgclass.models.resnet import Layout
from tests.models.numpy_layers import draw

# Of timm's models, at 1000 classes and 224 pixels: parameters, and multiply-adds in 1e9 as
# PyTorch's flop counter has them.
SIZES = {
    "resnetv2_18": (11_687_720, 1.814),
    "resnetv2_34": (21_795_880, 3.664),
    "resnetv2_50": (25_549_352, 4.089),
    "resnetv2_101": (44_541_480, 7.801),
    "resnetv2_152": (60_185_128, 11.514),
}


def test_every_layout_is_measured():
    assert SIZES.keys() == resnet_v2.LAYOUTS.keys()


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [
        # The deep ones take seconds to trace, and differ from resnetv2_50 in their depths alone.
        pytest.param(name, *sizes, marks=[pytest.mark.slow] if sizes[0] > 30_000_000 else [])
        for name, sizes in SIZES.items()
    ],
)
def test_every_model_keeps_the_contract(model_config, name, parameters, giga):
    model = models.Model(resnet_v2.build(model_config(name=name), 1000), (224, 224, 3))

    def run(key):
        variables = model.init(key)
        x = jnp.zeros((2, 224, 224, 3))
        return variables, model.apply(variables, x), model.apply_train(variables, x, key)

    variables, (logits, features), trained = jax.eval_shape(run, jax.random.key(0))
    assert models.count_parameters(variables["params"]) == parameters
    assert round(multiply_adds(model) / 1e9, 3) == giga
    assert (logits.shape, logits.dtype) == ((2, 1000), jnp.float32)
    assert jax.tree.structure(trained[2]) == jax.tree.structure(variables["batch_stats"])
    assert variables["params"]["head"]["kernel"].shape == (features["pooled"].shape[1], 1000)


def test_small_picture_stem(model_config):
    # kuangliu's PreActResNet18 has 11,171,146; the norm before the mean adds 2 * 512.
    module = resnet_v2.build(model_config(name="resnetv2_18", stem="cifar"), 10)
    model = models.Model(module, (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert models.count_parameters(variables["params"]) == 11_172_170
    _, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 32, 32, 3)))
    assert {k: v.shape[1:] for k, v in features["stages"].items()} == {
        "stem": (32, 32, 64),
        "stage1": (32, 32, 64),
        "stage2": (16, 16, 128),
        "stage3": (8, 8, 256),
        "stage4": (4, 4, 512),
    }


def pictures(rows):
    return np.random.default_rng(0).normal(size=(rows, 4, 4, 4)).astype(np.float32)


def block(drop_path=0.0, dropout=0.0):
    return resnet_v2.Block(
        width=4,
        stride=1,
        layout=Layout((1,), bottleneck=False),
        dropout=dropout,
        drop_path=drop_path,
        norm=functools.partial(layers.BatchNorm, momentum=0.9),
        dtype=jnp.float32,
    )


def run_block(x, edit=lambda params: params, **rates):
    """Training of one block whose variables are drawn, and then edited."""
    made = block(**rates)
    variables = draw(jax.eval_shape(lambda: made.init(jax.random.key(0), x, train=False)))
    variables = {**variables, "params": edit(variables["params"])}
    rngs = {"dropout": jax.random.key(2)}
    apply = functools.partial(made.apply, train=True, rngs=rngs, mutable=["batch_stats"])
    return np.asarray(jax.jit(apply)(variables, x)[0])


def test_a_block_without_branch_is_the_identity_for_negative_values_too():
    x = pictures(2)

    def silent(params):
        return {**params, "conv2": {"kernel": jnp.zeros((3, 3, 4, 4))}}

    np.testing.assert_array_equal(run_block(x, silent), x)


def test_a_dropped_path_leaves_the_row_as_it_was():
    x = pictures(64)
    full, dropped = run_block(x), run_block(x, drop_path=0.75)
    gone = (dropped == x).all((1, 2, 3))
    assert 36 <= gone.sum() <= 58  # of 64, 48 expected; standard deviation 3.5
    np.testing.assert_allclose((dropped - x)[~gone], 4 * (full - x)[~gone], rtol=1e-4, atol=1e-4)


def test_dropout_is_between_the_convolutions():
    # A last convolution that passes its input on shows what reaches it: nothing, or twice as much.
    x = pictures(16)

    def passing(params):
        return {**params, "conv2": {"kernel": jnp.zeros((3, 3, 4, 4)).at[1, 1].set(jnp.eye(4))}}

    plain, half = (np.asarray(run_block(x, passing, dropout=rate) - x) for rate in (0.0, 0.5))
    on = plain > 1e-3
    kept = half > 1e-3
    assert not kept[plain < 1e-6].any()
    assert abs(kept[on].mean() - 0.5) < 0.06  # of some 500: 2.7 deviations
    np.testing.assert_allclose(half[kept], 2 * plain[kept], rtol=0, atol=1e-5)


def test_names_in_timm():
    def name(**variables):
        (found,) = torch_names.slots({"params": variables}, resnet_v2.TORCH["timm"])
        return found

    one = jnp.zeros(1)
    assert name(conv1={"kernel": one}) == "stem.conv.weight"
    assert name(bn={"scale": one}) == "norm.weight"
    shortcut = {"shortcut_conv": {"kernel": one}}
    assert name(stage2_block1=shortcut) == "stages.1.blocks.0.downsample.conv.weight"
    assert name(stage1_block3={"bn3": {"bias": one}}) == "stages.0.blocks.2.norm3.bias"
