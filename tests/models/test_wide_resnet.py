"""CIFAR's wide residual networks: published sizes, and a forward pass of our own in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.models import wide_resnet
from imgclass.models.count import multiply_adds
from imgclass.models.wide_resnet import WideLayout
from tests.models.numpy_layers import convolve, draw

# Worked out beside the paper's table 4: 16-8 has 11.0M, 28-10 36.5M, 40-2 2.2M, 40-4 8.9M.
# With n blocks a stage, k times as wide, at 10 classes: stem 432; stage i has 2n convolutions,
# 9 * a * b each, one shortcut, and norms of a and b channels before them; last norm and dense.
PARAMETERS = {
    "wrn16_4": 2_748_890,
    "wrn16_8": 10_961_370,
    "wrn28_2": 1_467_610,
    "wrn28_10": 36_479_194,
    "wrn40_2": 2_243_546,
    "wrn40_4": 8_949_210,
}


def test_every_layout_is_measured():
    assert PARAMETERS.keys() == wide_resnet.LAYOUTS.keys()


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters(model_config, name, parameters):
    depth, k = (int(number) for number in name.removeprefix("wrn").split("_"))
    n = (depth - 4) // 6
    by_hand = 9 * 3 * 16 + 2 * 64 * k + 64 * k * 10 + 10
    before = 16
    for width in (16 * k, 32 * k, 64 * k):
        first = 9 * before * width + 9 * width * width + before * width + 2 * before + 2 * width
        by_hand += first + (n - 1) * (2 * 9 * width * width + 4 * width)
        before = width
    assert by_hand == parameters
    model = models.Model(wide_resnet.build(model_config(name=name), 10), (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert models.count_parameters(variables["params"]) == parameters


def test_multiply_adds_of_wrn40_4(model_config):
    # Positions times kernels. Stages of n = 6 blocks have 12 convolutions, the first from another
    # width, and a shortcut: 64, 128 and 256 channels at 32, 16 and 8 pixels.
    by_hand = 32**2 * 9 * 3 * 16 + 256 * 10
    for side, before, width in ((32, 16, 64), (16, 64, 128), (8, 128, 256)):
        by_hand += side**2 * (9 * before * width + 11 * 9 * width**2 + before * width)
    assert by_hand == 1_298_582_016
    model = models.Model(wide_resnet.build(model_config(name="wrn40_4"), 10), (32, 32, 3))
    assert multiply_adds(model) == by_hand


def test_stages_of_wrn16_8(model_config):
    # The paper's table 1: 32x32, 16x16 and 8x8, of 16k, 32k and 64k channels.
    model = models.Model(wide_resnet.build(model_config(name="wrn16_8"), 10), (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    _, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 32, 32, 3)))
    assert {k: v.shape[1:] for k, v in features["stages"].items()} == {
        "stem": (32, 32, 16),
        "stage1": (32, 32, 128),
        "stage2": (16, 16, 256),
        "stage3": (8, 8, 512),
    }


def numpy_wide_resnet(variables, x):
    """Inference in float64, written from the paper: basic blocks, norm and ReLU first."""
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
    params, stats = wide["params"], wide["batch_stats"]

    def normalised(x, p, s):
        return np.maximum((x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"], 0)

    x = convolve(x.astype(np.float64), params["conv1"]["kernel"], 1)
    for scope in sorted(name for name in params if "block" in name):
        p, s = params[scope], stats[scope]
        stride = 2 if scope in ("stage2_block1", "stage3_block1") else 1
        first = normalised(x, p["bn1"], s["bn1"])
        y = convolve(first, p["conv1"]["kernel"], stride)
        y = convolve(normalised(y, p["bn2"], s["bn2"]), p["conv2"]["kernel"], 1)
        if x.shape[-1] != y.shape[-1]:
            x = convolve(first, p["shortcut_conv"]["kernel"], stride)
        x = x + y
    x = normalised(x, params["bn"], stats["bn"]).mean((1, 2))
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def test_logits_equal_numpy_float64(model_config, monkeypatch):
    monkeypatch.setitem(wide_resnet.LAYOUTS, "wrn16_2", WideLayout(16, 2))
    module = wide_resnet.build(model_config(name="wrn16_2", dropout=0.3, drop_path=0.1), 10)
    model = models.Model(module, (12, 12, 3))
    variables = draw(jax.eval_shape(model.init, jax.random.key(0)))
    x = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)
    expected = numpy_wide_resnet(variables, x)
    ours, _ = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
