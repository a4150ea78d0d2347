"""Vision transformers: published sizes, attention by hand, and gradients beside float64.

Logits beside PyTorch's are in test_parity.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.errors import UsageError
from imgclass.models import vit
from imgclass.models.count import multiply_adds
from tests.models.numpy_layers import draw


def measured(config, side):
    model = models.Model(vit.build(config, 1000), (side, side, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return models.count_parameters(shapes["params"]), multiply_adds(model)


def test_torchvisions_size(model_config):
    parameters, operations = measured(model_config(name="vit_b_16"), 224)
    assert (parameters, round(operations / 1e9, 3)) == (86_567_656, 17.564)


@pytest.mark.parametrize(
    ("name", "millions", "giga"), [("vit_ti_16", 5.72, 1.26), ("vit_s_16", 22.05, 4.61)]
)
def test_timms_sizes(model_config, name, millions, giga):
    # results/benchmark-infer-amp-nhwc-pt113-cu117-rtx3090.csv, vit_tiny_ and vit_small_patch16_224.
    parameters, operations = measured(model_config(name=name), 224)
    assert round(parameters / 1e6, 2) == millions
    # timm's counter adds five operations for each value that a layer norm sees: 25 of them, each
    # of 14 * 14 patches and the class token.
    seen = 25 * 197 * vit.LAYOUTS[name].width
    assert round((operations + 5 * seen) / 1e9, 2) == giga


def test_the_small_pictures_size_by_hand(model_config):
    # 64 patches of 4*4*3 values, width 192, 12 blocks, a class token.
    embedding = 48 * 192 + 192 + 192 + 65 * 192
    block = (192 * 576 + 576) + (192 * 192 + 192) + 2 * 4 * 192 * 192 + 4 * 192 + 192 + 4 * 192
    head = 2 * 192 + 192 * 1000 + 1000
    products = 64 * 48 * 192 + 12 * (65 * 12 * 192**2 + 2 * 65**2 * 192) + 192 * 1000
    expected = (embedding + 12 * block + head, products)
    assert measured(model_config(name="vit_ti_4"), 32) == expected == (5_553_832, 365_297_664)


def test_features(model_config):
    module = vit.build(model_config(name="vit_ti_16", dtype="bfloat16"), 7)
    model = models.Model(module, (48, 80, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    # The position embedding is as long as the picture needs: 3 * 5 patches and the class token.
    assert variables["params"]["position_embedding"].shape == (1, 16, 192)
    assert variables["batch_stats"] == {}
    logits, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 48, 80, 3)))
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert features["stages"].keys() == {"patches", *(f"block{i}" for i in range(1, 13))}
    maps = [*features["stages"].values(), features["last_map"]]
    assert {(grid.shape, grid.dtype) for grid in maps} == {((2, 3, 5, 192), jnp.dtype("bfloat16"))}
    assert features["pooled"].shape == (2, 192)


@pytest.mark.parametrize(
    ("name", "sides", "nearest"),
    [("vit_s_16", (100, 224), (96, 224)), ("vit_ti_4", (33, 1), (32, 4))],
)
def test_sides_that_are_no_multiple_of_the_patch_are_refused(model_config, name, sides, nearest):
    model = models.Model(vit.build(model_config(name=name), 10), (*sides, 3))
    with pytest.raises(UsageError, match=r"^data\.image_size=") as caught:
        jax.eval_shape(model.init, jax.random.key(0))
    words = str(caught.value)
    assert str(sides) in words
    assert words.endswith(f"the nearest is {nearest}.")
    assert "\n" not in words


def test_attention_by_hand():
    # Two heads of 4 channels. Queries are zero but in the first head's first channel, which is
    # q = 2 ln 3 for every token; keys there are the tokens' first channel, 0 and 1. So the first
    # head's scores are q k / sqrt(4) = 0 and ln 3, its weights 1/4 and 3/4; the second head's are
    # equal. Values and the last layer are the identity.
    module = vit.Attention(heads=2, dtype=jnp.float32)
    x = np.zeros((1, 2, 8), np.float32)
    x[0, 1] = [1, 8, 0, 4, 8, 2, 0, 6]
    kernel, bias = np.zeros((8, 24), np.float32), np.zeros(24, np.float32)
    bias[0] = 2 * np.log(3)
    kernel[0, 8] = 1
    kernel[:, 16:] = np.eye(8)
    params = {
        "qkv": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)},
        "out": {"kernel": jnp.eye(8), "bias": jnp.zeros(8)},
    }
    mixed = module.apply({"params": params}, jnp.asarray(x))
    expected = [0.75, 6, 0, 3, 4, 1, 0, 3]
    np.testing.assert_allclose(mixed, [[expected, expected]], rtol=1e-6)


def test_dropped_paths_leave_the_shortcut_and_scale_the_rest():
    # The class token's branches alone: attention off (its values are zero), dense layers on.
    block = vit.Block(heads=2, drop_path=0.5, dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 5, 16)), jnp.float32)
    variables = draw(jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False)))
    off = jax.tree.map(jnp.zeros_like, variables["params"]["attention"])
    variables["params"]["attention"] = off

    @jax.jit
    def branches(key):
        dropped = block.apply(variables, x, train=True, rngs={"dropout": key})
        return block.apply(variables, x, train=False) - x, dropped - x

    full, dropped = (np.asarray(y) for y in branches(jax.random.key(1)))
    gone = (dropped == 0).all((1, 2))
    assert 20 <= gone.sum() <= 44  # of 64, 32 expected; standard deviation 4
    np.testing.assert_allclose(dropped[~gone], 2 * full[~gone], rtol=1e-5, atol=1e-5)


def test_the_two_branches_of_a_block_are_dropped_apart():
    block = vit.Block(heads=2, drop_path=0.5, dtype=jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 5, 16)), jnp.float32)
    variables = draw(jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False)))
    run = jax.jit(lambda key: block.apply(variables, x, train=True, rngs={"dropout": key}))
    untouched = np.asarray(run(jax.random.key(1)) == x).all((1, 2))
    # Both gone in a quarter of 64 rows: 16 expected, standard deviation 3.5. Together: half.
    assert 5 <= untouched.sum() <= 27


def test_config_reaches_the_module(model_config):
    module = vit.build(model_config(name="vit_ti_4", dropout=0.2, drop_path=0.1), 10)
    assert (module.dropout, module.drop_path) == (0.2, 0.1)


@pytest.mark.slow
def test_gradients_equal_float64():
    # In float64 XLA compiles other code.
    def gradients(dtype):
        module = vit.ViT(3, vit.Layout(width=16, heads=2, patch=4, depth=2), dtype=dtype)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), dtype)
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


def test_positions_of_another_size_are_those_of_timm():
    # timm 1.0.31, resample_abs_pos_embed of these ten, to 5x5 and to 2x2.
    table = np.array([0, 1, 0.1, 0.6, 0.3, 0.3, 0.6, 0.1, 1, 0], np.float32).reshape(1, 10, 1)
    larger = vit.resample_positions(table, (1, 26, 1))
    assert larger.dtype == np.float32
    np.testing.assert_allclose(larger.ravel(), [
        0.0, 1.125881, 0.69027, 0.084906, 0.375993, 0.638875, 0.810574, 0.522494, 0.138806,
        0.427712, 0.6637, 0.3, 0.286567, 0.3, 0.494776, 0.622642, 0.091664, 0.382652, 0.763433,
        0.432373, 0.168713, 0.011855, 0.473571, 1.05283, 0.383216, -0.128159,
    ], atol=2e-6)  # fmt: skip
    smaller = vit.resample_positions(table, (1, 5, 1))
    expected = [0.0, 0.526367, 0.430424, 0.381456, 0.42843]
    np.testing.assert_allclose(smaller.ravel(), expected, atol=2e-6)


@pytest.mark.parametrize(
    "shape", [(1, 26, 2), (1, 25, 1), (26, 1), (1, 1, 1)], ids=["width", "oblong", "flat", "empty"]
)
def test_positions_whose_grid_is_not_known_are_not_resampled(shape):
    assert vit.resample_positions(np.zeros(shape), (1, 10, 1)) is None
