"""RegNet: published sizes, the paper's rule for widths, and gradients beside float64.

Logits beside PyTorch's are in test_parity.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.models import layers, regnet
from imgclass.models.count import multiply_adds
from tests.models.numpy_layers import draw

# Published by torchvision for its weights: parameters, and multiply-adds at 224 pixels in 1e9.
PUBLISHED = {
    "regnet_x_400mf": (5_495_976, 0.414),
    "regnet_x_800mf": (7_259_656, 0.8),
    "regnet_x_1_6gf": (9_190_136, 1.603),
    "regnet_x_3_2gf": (15_296_552, 3.177),
    "regnet_x_8gf": (39_572_648, 7.995),
    "regnet_x_16gf": (54_278_536, 15.941),
    "regnet_x_32gf": (107_811_560, 31.736),
    "regnet_y_400mf": (4_344_144, 0.402),
    "regnet_y_800mf": (6_432_512, 0.834),
    "regnet_y_1_6gf": (11_202_430, 1.612),
    "regnet_y_3_2gf": (19_436_338, 3.176),
    "regnet_y_8gf": (39_381_472, 8.473),
    "regnet_y_16gf": (83_590_140, 15.912),
    "regnet_y_32gf": (145_046_770, 32.28),
}

# The paper's parameters: blocks in all, initial width, slope, ratio of widths, group width.
PAPER = {
    "regnet_x_400mf": (22, 24, 24.48, 2.54, 16),
    "regnet_x_800mf": (16, 56, 35.73, 2.28, 16),
    "regnet_x_1_6gf": (18, 80, 34.01, 2.25, 24),
    "regnet_x_3_2gf": (25, 88, 26.31, 2.25, 48),
    "regnet_x_8gf": (23, 80, 49.56, 2.88, 120),
    "regnet_x_16gf": (22, 216, 55.59, 2.1, 128),
    "regnet_x_32gf": (23, 320, 69.86, 2.0, 168),
    "regnet_y_400mf": (16, 48, 27.89, 2.09, 8),
    "regnet_y_800mf": (14, 56, 38.84, 2.4, 16),
    "regnet_y_1_6gf": (27, 48, 20.71, 2.65, 24),
    "regnet_y_3_2gf": (21, 80, 42.63, 2.66, 24),
    "regnet_y_8gf": (17, 192, 76.82, 2.19, 56),
    "regnet_y_16gf": (18, 200, 106.23, 2.48, 112),
    "regnet_y_32gf": (20, 232, 115.89, 2.53, 232),
}


def test_every_layout_is_measured():
    assert PUBLISHED.keys() == PAPER.keys() == regnet.LAYOUTS.keys()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if "400mf" in name else pytest.mark.slow) for name in PUBLISHED],
)
def test_published_sizes(model_config, name):
    parameters, giga = PUBLISHED[name]
    model = models.Model(regnet.build(model_config(name=name), 1000), (224, 224, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert models.count_parameters(shapes["params"]) == parameters
    assert round(multiply_adds(model) / 1e9, 3) == giga


@pytest.mark.parametrize("name", PAPER)
def test_widths_follow_the_papers_rule(name):
    depth, initial, slope, ratio, group = PAPER[name]
    found: dict[int, int] = {}  # width: blocks
    for block in range(depth):
        steps = round(math.log((initial + slope * block) / initial, ratio))
        width = round(initial * ratio**steps / 8) * 8
        found[width] = found.get(width, 0) + 1
    widths = []
    for width in found:
        group_here = min(group, width)
        fitting = max(group_here, int(width + group_here / 2) // group_here * group_here)
        widths.append(fitting if fitting >= 0.9 * width else fitting + group_here)
    layout = regnet.LAYOUTS[name]
    assert (layout.depths, layout.widths) == (tuple(found.values()), tuple(widths))
    assert (layout.group_width, layout.squeeze_excite) == (group, "_y_" in name)


def shapes_of(module, side=32):
    init = functools.partial(module.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, side, side, 3)))


def test_features(model_config):
    module = regnet.build(model_config(name="regnet_y_400mf", dtype="bfloat16"), 7)
    model = models.Model(module, (224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    logits, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 224, 224, 3)))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert {name: stage.shape[1:] for name, stage in features["stages"].items()} == {
        "stem": (112, 112, 32),
        "stage1": (56, 56, 48),
        "stage2": (28, 28, 104),
        "stage3": (14, 14, 208),
        "stage4": (7, 7, 440),
    }
    assert features["last_map"].shape == (2, 7, 7, 440)
    assert (features["pooled"].shape, features["pooled"].dtype) == ((2, 440), jnp.bfloat16)


def test_the_gate_is_a_quarter_of_the_blocks_input(model_config):
    params = shapes_of(regnet.build(model_config(name="regnet_y_400mf"), 10))["params"]
    assert params["stage1_block1"]["se"]["reduce"]["kernel"].shape == (48, 32 // 4)
    assert params["stage2_block1"]["se"]["reduce"]["kernel"].shape == (104, 48 // 4)
    assert params["stage2_block2"]["se"]["reduce"]["kernel"].shape == (104, 104 // 4)


def test_a_stage_narrower_than_a_group_is_one_group(model_config):
    params = shapes_of(regnet.build(model_config(name="regnet_x_8gf"), 10))["params"]
    assert params["stage1_block1"]["conv2"]["kernel"].shape == (3, 3, 80, 80)
    assert params["stage2_block1"]["conv2"]["kernel"].shape == (3, 3, 120, 240)


def test_dropped_paths_leave_the_shortcut_and_scale_the_rest():
    block = regnet.Block(
        width=8,
        stride=1,
        groups=2,
        squeeze_excite=True,
        drop_path=0.5,
        norm=layers.BatchNorm,
        dtype=jnp.float32,
    )
    # So large that the last ReLU passes everything.
    x = jnp.asarray(np.random.default_rng(0).normal(50, 1, (64, 4, 4, 8)), jnp.float32)
    variables = draw(jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False)))

    def branch(rate):
        rngs = {"dropout": jax.random.key(1)}
        scaled = block.clone(drop_path=rate)
        y, _ = scaled.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
        return y - x

    full, dropped = (np.asarray(y) for y in jax.jit(lambda: (branch(0.0), branch(0.5)))())
    gone = (dropped == 0).all((1, 2, 3))
    assert 20 <= gone.sum() <= 44  # of 64, 32 expected; standard deviation 4
    np.testing.assert_allclose(dropped[~gone], 2 * full[~gone], rtol=1e-4, atol=1e-4)


def test_config_reaches_the_module(model_config):
    config = model_config(name="regnet_x_400mf", dropout=0.2, drop_path=0.3)
    module = regnet.build(config, 10)
    assert (module.dropout, module.drop_path) == (0.2, 0.3)
    assert (module.batch_norm_momentum, module.batch_norm_epsilon) == (0.9, 1e-5)
    config.update(batch_norm_momentum=0.8, batch_norm_epsilon=1e-3, batch_norm_group=4)
    module = regnet.build(config, 10)
    assert (module.batch_norm_momentum, module.batch_norm_epsilon) == (0.8, 1e-3)
    assert module.batch_norm_group == 4


@pytest.mark.slow
def test_gradients_equal_float64():
    # In float64 XLA compiles other code. ReLU's kink moves a tensor by up to half a percent where
    # a value falls on the other side of it; a wrong gradient is wrong by far more than 2%.
    def gradients(dtype):
        layout = regnet.Layout((1, 1), (8, 16), 8, squeeze_excite=True)
        module = regnet.RegNet(num_classes=3, layout=layout, dtype=dtype)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 16, 3)), dtype)
        variables = draw(jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False)))

        def loss(params):
            state = {**variables, "params": params}
            (logits, _), _ = module.apply(state, x, train=True, mutable=["batch_stats"])
            return (jax.nn.log_softmax(logits) * jnp.eye(8, 3, dtype=jnp.float32)).sum()

        return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(variables["params"]))

    narrow = gradients(jnp.float32)
    with jax.enable_x64(True):
        wide = gradients(jnp.float64)
    for (path, expected), ours in zip(
        jax.tree_util.tree_leaves_with_path(wide), jax.tree.leaves(narrow), strict=True
    ):
        assert np.linalg.norm(ours - expected) <= 0.02 * np.linalg.norm(expected), path
