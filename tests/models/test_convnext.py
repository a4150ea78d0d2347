"""ConvNeXt: published sizes, the identity it starts from, and gradients beside float64.

Logits beside PyTorch's are in test_parity.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.errors import UsageError
from imgclass.models import convnext, layers
from imgclass.models.count import multiply_adds
from tests.models.numpy_layers import draw

# Published by torchvision for its weights: parameters, and multiply-adds at 224 pixels in 1e9.
TORCHVISION = {
    "convnext_tiny": (28_589_128, 4.456),
    "convnext_small": (50_223_688, 8.684),
    "convnext_base": (88_591_464, 15.355),
    "convnext_large": (197_767_336, 34.361),
}
# By timm (results/benchmark-infer-amp-nhwc-pt113-cu117-rtx3090.csv), in 1e6 and at 288 pixels.
TIMM = {
    "convnext_atto": (3.7, 0.91),
    "convnext_femto": (5.22, 1.3),
    "convnext_pico": (9.05, 2.27),
    "convnext_nano": (15.59, 4.06),
}


def test_every_layout_is_measured():
    assert {**TORCHVISION, **TIMM}.keys() == convnext.LAYOUTS.keys()


def measured(config, side):
    model = models.Model(convnext.build(config, 1000), (side, side, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return models.count_parameters(shapes["params"]), multiply_adds(model)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if "tiny" in name else pytest.mark.slow) for name in TORCHVISION],
)
def test_torchvisions_sizes(model_config, name):
    parameters, operations = measured(model_config(name=name), 224)
    assert (parameters, round(operations / 1e9, 3)) == TORCHVISION[name]


@pytest.mark.parametrize("name", TIMM)
def test_timms_sizes(model_config, name):
    parameters, operations = measured(model_config(name=name), 288)
    # timm's counter adds five operations for each value that a layer norm sees: once in a block,
    # once after the stem, once before each downsampling; the last one sees a vector.
    depths, widths = convnext.LAYOUTS[name]
    norms = (depths[0] + 2, depths[1] + 1, depths[2] + 1, depths[3])
    sides = (72, 36, 18, 9)
    seen = sum(n * w * s**2 for n, w, s in zip(norms, widths, sides, strict=True)) + widths[-1]
    counted = (round(parameters / 1e6, 2), round((operations + 5 * seen) / 1e9, 2))
    assert counted == TIMM[name]


def test_features(model_config):
    # 100 is no multiple of 32: what does not fill a window is dropped, as in PyTorch.
    module = convnext.build(model_config(name="convnext_atto", dtype="bfloat16"), 7)
    model = models.Model(module, (100, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert variables["batch_stats"] == {}
    logits, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 100, 224, 3)))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert {name: stage.shape[1:] for name, stage in features["stages"].items()} == {
        "stem": (25, 56, 40),
        "stage1": (25, 56, 40),
        "stage2": (12, 28, 80),
        "stage3": (6, 14, 160),
        "stage4": (3, 7, 320),
    }
    assert features["last_map"].shape == (2, 3, 7, 320)
    assert (features["pooled"].shape, features["pooled"].dtype) == ((2, 320), jnp.bfloat16)


def test_a_picture_too_small_is_refused(model_config):
    model = models.Model(convnext.build(model_config(name="convnext_atto"), 10), (64, 28, 3))
    words = r"data\.image_size=\(64, 28\): .* at least 32 pixels\."
    with pytest.raises(UsageError, match=words) as caught:
        jax.eval_shape(model.init, jax.random.key(0))
    assert "\n" not in str(caught.value)


@pytest.fixture
def block():
    """A block, its input, and variables with a layer scale that matters."""
    module = convnext.Block(drop_path=0.5, dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4, 4, 4)), jnp.float32)
    variables = draw(jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False)))
    return module, variables, x


def test_a_block_starts_as_the_identity(block):
    module, _, x = block
    y, variables = jax.jit(module.init_with_output, static_argnames="train")(
        jax.random.key(1), x, train=False
    )
    np.testing.assert_array_equal(variables["params"]["layer_scale"], np.float32(1e-6))
    # The branch is of size 1e-2 at most, so times 1e-6 it is lost in x's own rounding.
    np.testing.assert_allclose(y, x, rtol=0, atol=1e-6)


def test_dropped_paths_leave_the_shortcut_and_scale_the_rest(block):
    module, variables, x = block

    @jax.jit
    def branches(key):
        dropped = module.apply(variables, x, train=True, rngs={"dropout": key})
        return module.apply(variables, x, train=False) - x, dropped - x

    full, dropped = (np.asarray(y) for y in branches(jax.random.key(1)))
    gone = (dropped == 0).all((1, 2, 3))
    assert 20 <= gone.sum() <= 44  # of 64, 32 expected; standard deviation 4
    np.testing.assert_allclose(dropped[~gone], 2 * full[~gone], rtol=1e-5, atol=1e-5)


def test_the_norm_keeps_its_digits_beside_a_large_mean():
    # 10000 + [-1, 1] normalises to [-1, 1]. E[x^2] - E[x]^2 in float32 would be off by up to 8.
    x = jnp.array([[9999.0, 10001.0]], jnp.float32)
    y, _ = layers.LayerNorm().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, [[-1.0, 1.0]], rtol=1e-5)


def test_config_reaches_the_module(model_config):
    module = convnext.build(model_config(name="convnext_tiny", dropout=0.2, drop_path=0.1), 10)
    assert (module.dropout, module.drop_path) == (0.2, 0.1)


@pytest.mark.slow
def test_gradients_equal_float64():
    # In float64 XLA compiles other code.
    def gradients(dtype):
        module = convnext.ConvNeXt(3, convnext.Layout((1, 1), (8, 16)), dtype=dtype)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), dtype)
        params = draw(jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False)))

        def loss(params):
            logits, _ = module.apply(params, x, train=True)
            return (jax.nn.log_softmax(logits) * jnp.eye(4, 3, dtype=jnp.float32)).sum()

        return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(params))

    narrow = gradients(jnp.float32)
    with jax.enable_x64(True):
        wide = gradients(jnp.float64)
    for (path, expected), ours in zip(
        jax.tree_util.tree_leaves_with_path(wide), jax.tree.leaves(narrow), strict=True
    ):
        assert np.linalg.norm(ours - expected) <= 1e-4 * np.linalg.norm(expected), path
