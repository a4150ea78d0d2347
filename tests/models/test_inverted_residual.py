"""Inverted residual blocks: padding, sums, dropped paths, first weights, gradients.

Logits beside PyTorch's are in test_parity.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.models import blocks, inverted_residual, layers
from imgclass.models.inverted_residual import Layout, Plan
from tests.models.numpy_layers import draw

TINY = Layout(
    stem=8,
    blocks=inverted_residual.named(
        [
            [Plan(3, 1, 8, 8, "silu", fused=True), Plan(3, 1, 16, 8, "silu", fused=True)],
            [Plan(3, 2, 16, 12, "silu"), Plan(5, 1, 24, 12, "silu", squeeze=3)],
        ]
    ),
    last=("stage3", 16),
    activation="silu",
    head_init=nn.initializers.normal(0.5),
    squeeze_activation="silu",
)


def tiny(layout=TINY, **attributes):
    return models.Model(inverted_residual.InvertedResidualNet(3, layout, **attributes), (16, 16, 3))


def block(plan, drop_path=0.0, dtype=jnp.float32):
    norm, squeeze_excite = (
        functools.partial(kind, dtype=dtype) for kind in (layers.BatchNorm, blocks.SqueezeExcite)
    )
    conv_norm = functools.partial(
        inverted_residual.ConvNorm, norm=norm, tensorflow=False, dtype=dtype
    )
    return inverted_residual.InvertedResidual(plan, conv_norm, squeeze_excite, drop_path)


@pytest.mark.parametrize(
    ("width", "rounded"),
    # 44 is as near to 40: upwards. 10 to 8 would lose a fifth, 18 to 16 a ninth; 17.6 a tenth less.
    [(1, 8), (8, 8), (10, 16), (17.6, 16), (18, 24), (44, 48), (112 * 1.2, 136)],
)
def test_widths_are_multiples_of_8_and_lose_a_tenth_at_most(width, rounded):
    assert inverted_residual.round_width(width) == rounded


@pytest.mark.parametrize(("tensorflow", "first"), [(False, -1), (True, 0)])
def test_padding_at_stride_2(tensorflow, first):
    # Of 4 pixels, PyTorch's padding of 1 sets the first window at -1, TensorFlow's 'SAME' at 0: it
    # has one pixel to pad, and does so behind. The kernel picks the window's corner.
    conv_norm = inverted_residual.ConvNorm(
        1, 3, 2, "", norm=layers.BatchNorm, tensorflow=tensorflow, dtype=jnp.float32
    )
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)
    variables = conv_norm.init(jax.random.key(0), x, train=False)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 0] = 1
    variables["params"]["conv"]["kernel"] = kernel
    corner = [[0, 0], [0, 6]] if first else [[1, 3], [9, 11]]
    y = conv_norm.apply(variables, x, train=False)
    np.testing.assert_allclose(y[0, :, :, 0], np.array(corner) / np.sqrt(1 + 1e-5), rtol=1e-6)


@pytest.mark.parametrize(
    ("plan", "added"),
    [
        (Plan(3, 1, 16, 8, "relu6"), True),
        (Plan(3, 1, 16, 8, "relu6", fused=True), True),
        (Plan(3, 1, 16, 16, "relu6"), False),
        # A single pixel stays one at stride 2, and still is not added.
        (Plan(3, 2, 8, 8, "relu6"), False),
    ],
)
def test_what_comes_in_is_added_where_the_shape_may_not_change(plan, added):
    x = jnp.ones((2, 1, 1, 8), jnp.float32)
    shapes = jax.eval_shape(lambda: block(plan).init(jax.random.key(0), x, train=False))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    y = jax.jit(lambda v: block(plan).apply(v, x, train=False))(zero)
    np.testing.assert_array_equal(y, np.full(y.shape, float(added)))


def test_dropped_paths_leave_what_came_in_and_scale_the_rest():
    plan = Plan(3, 1, 16, 8, "relu6")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4, 4, 8)), jnp.float32)
    variables = draw(jax.eval_shape(lambda: block(plan).init(jax.random.key(0), x, train=False)))

    def branch(rate):
        rngs = {"dropout": jax.random.key(1)}
        y, _ = block(plan, rate).apply(variables, x, True, rngs=rngs, mutable=["batch_stats"])
        return y - x

    full, dropped = (np.asarray(y) for y in jax.jit(lambda: (branch(0.0), branch(0.5)))())
    gone = (dropped == 0).all((1, 2, 3))
    assert 20 <= gone.sum() <= 44  # of 64, 32 expected; standard deviation 4
    np.testing.assert_allclose(dropped[~gone], 2 * full[~gone], rtol=1e-4, atol=1e-4)


def modules_of(model, kind):
    """Traces a model; returns those of its modules that are of one kind, in order."""
    found = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, kind):
            found.append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0))
    return found


def test_drop_path_rises_by_the_number_of_blocks():
    # torchvision: 0.2 * i / 4, counting the blocks that have no sum; here the first of stage 2.
    rates = [module.rate for module in modules_of(tiny(drop_path=0.2), blocks.DropPath)]
    np.testing.assert_allclose(rates, [0.0, 0.05, 0.15], rtol=1e-12)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, (0.9, 1e-5, 0)),
        (
            {"batch_norm_momentum": 0.8, "batch_norm_epsilon": 0.1, "batch_norm_group": 2},
            (0.8, 0.1, 2),
        ),
    ],
)
def test_the_configs_batch_norm_goes_before_the_layouts(model_config, keys, expected):
    model = models.Model(inverted_residual.build(TINY, model_config(**keys), 3), (16, 16, 3))
    norms = modules_of(model, layers.BatchNorm)
    # Of the stem, of blocks 1 + 2 + 3 + 3, and of the last convolution.
    assert [(norm.momentum, norm.epsilon, norm.group) for norm in norms] == [expected] * 11


def test_the_head_loses_inputs_in_training_only():
    model = tiny(dropout=0.5)
    variables = draw(jax.eval_shape(model.init, jax.random.key(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)

    @jax.jit
    def run(key):
        return model.apply(variables, x), model.apply_train(variables, x, key)[:2]

    head = jax.tree.map(np.asarray, variables["params"]["head"])
    differences = [
        np.abs(logits - (np.asarray(features["pooled"]) @ head["kernel"] + head["bias"])).max()
        for logits, features in run(jax.random.key(1))
    ]
    assert differences[0] < 1e-5
    assert differences[1] > 0.1


def test_parts_of_blocks():
    params = jax.eval_shape(tiny().init, jax.random.key(0))["params"]
    assert {name: set(parts) for name, parts in params.items() if name.startswith("stage")} == {
        "stage1_block1": {"fused"},  # does not widen
        "stage1_block2": {"fused", "fused_project"},
        "stage2_block1": {"expand", "depthwise", "project"},
        "stage2_block2": {"expand", "depthwise", "se", "project"},
        "stage3": {"conv", "bn"},
    }
    assert params["stage2_block2"]["depthwise"]["conv"]["kernel"].shape == (5, 5, 1, 24)
    assert params["stage2_block2"]["se"]["reduce"]["kernel"].shape == (24, 3)


@pytest.mark.parametrize(("tensorflow", "fan_out"), [(False, 9 * 2048), (True, 9)])
def test_depthwise_kernels_start_by_their_fan_out(tensorflow, fan_out):
    # 18,432 draws: the standard deviation is known to 0.5%, and this is within six of that.
    conv_norm = inverted_residual.ConvNorm(
        2048,
        3,
        1,
        "",
        norm=layers.BatchNorm,
        tensorflow=tensorflow,
        dtype=jnp.float32,
        depthwise=True,
    )
    x = jnp.zeros((1, 1, 1, 2048), jnp.float32)
    variables = jax.jit(functools.partial(conv_norm.init, train=False))(jax.random.key(0), x)
    kernel = variables["params"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 1, 2048)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=0.03)


def test_gradients_equal_float64():
    # In float64 XLA compiles other code. SiLU has no kink, so rounding alone remains.
    plan = Plan(3, 1, 24, 8, "silu", squeeze=3)
    random = np.random.default_rng(0)
    pictures, weights = random.normal(size=(2, 4, 6, 6, 8))

    def gradients(dtype):
        module, x = block(plan, dtype=dtype), jnp.asarray(pictures, dtype)
        variables = draw(jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False)))

        def loss(params):
            state = {**variables, "params": params}
            y, _ = module.apply(state, x, train=True, mutable=["batch_stats"])
            return (y * jnp.asarray(weights, dtype)).sum()

        return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(variables["params"]))

    narrow = gradients(jnp.float32)
    with jax.enable_x64(True):
        wide = gradients(jnp.float64)
    for (path, expected), ours in zip(
        jax.tree_util.tree_leaves_with_path(wide), jax.tree.leaves(narrow), strict=True
    ):
        assert np.linalg.norm(ours - expected) <= 0.001 * np.linalg.norm(expected), path
