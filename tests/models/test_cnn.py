"""The textbook network: its size, its gradients in float64, its options and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.errors import UsageError


def softmax_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -chosen.mean()


def test_default_network_is_the_textbook_one(model_config):
    # Conv 3*3*3*32 + 32 = 896; 64 -> 62 -> 31, and 31*31*32 = 30,752 inputs of the dense layer,
    # which has 30,752*10 + 10 = 307,530. Together 308,426.
    model = models.create(model_config(), 10, (64, 64, 3))
    variables = model.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == {
        "params": {
            "block1_conv1": {"kernel": (3, 3, 3, 32), "bias": (32,)},
            "head": {"kernel": (30752, 10), "bias": (10,)},
        },
        "batch_stats": {},
    }
    assert models.count_parameters(variables["params"]) == 308_426


def test_kernels_start_glorot_uniform_and_biases_at_zero(model_config):
    # Limit sqrt(6 / (fan_in + fan_out)): conv sqrt(6 / (27 + 288)) = 0.138013,
    # dense sqrt(6 / (30752 + 10)) = 0.0139659; a uniform's standard deviation is limit / sqrt(3).
    init = jax.jit(models.create(model_config(), 10, (64, 64, 3)).init)
    params, again, other = (init(jax.random.key(seed))["params"] for seed in (0, 0, 1))
    for layer, limit in (("block1_conv1", 0.138013), ("head", 0.0139659)):
        kernel = np.asarray(params[layer]["kernel"])
        assert 0.97 * limit < np.abs(kernel).max() < 1.0001 * limit
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.05)
        np.testing.assert_array_equal(params[layer]["bias"], 0)
        np.testing.assert_array_equal(kernel, again[layer]["kernel"])
        assert (kernel != np.asarray(other[layer]["kernel"])).mean() > 0.99


def numpy_loss_and_gradients(params, x, labels):
    """The default network, forward and backward, in float64 and without JAX."""
    kernel, bias = (np.asarray(params["block1_conv1"][k], np.float64) for k in ("kernel", "bias"))
    dense, offset = (np.asarray(params["head"][k], np.float64) for k in ("kernel", "bias"))
    x = x.astype(np.float64)
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))  # b i j c m n
    z = np.einsum("bijcmn,mnco->bijo", patches, kernel, optimize=True) + bias
    batch, height, width, channels = z.shape
    relu = np.maximum(z, 0)
    tiles = relu.reshape(batch, height // 2, 2, width // 2, 2, channels)
    tiles = tiles.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, channels, 4)
    first = tiles.argmax(-1)[..., None]
    flat = np.take_along_axis(tiles, first, -1).reshape(batch, -1)
    logits = flat @ dense + offset
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -log_p[np.arange(batch), labels].mean()

    dlogits = (np.exp(log_p) - np.eye(logits.shape[1])[labels]) / batch
    dpool = (dlogits @ dense.T).reshape(first.shape)
    dtiles = np.zeros_like(tiles)
    np.put_along_axis(dtiles, first, dpool, -1)
    drelu = dtiles.reshape(*tiles.shape[:4], 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(z.shape)
    dz = drelu * (z > 0)
    return loss, {
        "block1_conv1": {
            "kernel": np.einsum("bijcmn,bijo->mnco", patches, dz, optimize=True),
            "bias": dz.sum((0, 1, 2)),
        },
        "head": {"kernel": flat.T @ dlogits, "bias": dlogits.sum(0)},
    }


@pytest.mark.parametrize("batch", [8, 32])
def test_gradients_equal_float64(model_config, batch):
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, size=(batch, 64, 64, 3)).astype(np.float32)
    x[:, 16:48, 8:40] = 0.5  # flat patches: ties, where a wrong pool counts gradients twice
    labels = random.integers(0, 10, size=batch)
    model = models.create(model_config(), 10, (64, 64, 3))
    params = model.init(jax.random.key(1))["params"]

    @jax.jit
    def run(params, x, labels):
        def loss(params):
            return softmax_loss(model.apply({"params": params}, x)[0], labels)

        return jax.value_and_grad(loss)(params)

    ours, gradients = run(params, x, jnp.asarray(labels, jnp.int32))
    expected, expected_gradients = numpy_loss_and_gradients(params, x, labels)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)

    def compare(ours, expected):
        # Relative to the largest entry: float32 sums over some 1e5 pixels.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * np.abs(expected).max())

    jax.tree.map(compare, gradients, expected_gradients)


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        # Same padding: 32*32*32*10 + 10 + 896.
        ({"padding": "SAME"}, 328_586),
        ({"pool": "avg"}, 308_426),
        # 62*62*32*10 + 10 + 896.
        ({"pool": "none"}, 1_230_986),
        # 896 + 32*10 + 10.
        ({"head": "average"}, 1_226),
        # No bias, scale and bias of batch norm: 864 + 64 + 307,530.
        ({"batch_norm": True}, 308_458),
        # 64 -> 31 -> 15: 896 + 15*15*32*10 + 10.
        ({"stride": 2}, 72_906),
        # Blocks of two: 896 + 9,248; 64 -> 62 -> 60 -> 30; 18,496 + 36,928; 28 -> 26 -> 13;
        # 13*13*64 = 10,816; hidden 10,816*100 + 100; head 1,010.
        ({"filters": (32, 64), "depth": 2, "hidden": (100,)}, 1_148_278),
        # Pool 3 by 2: (62 - 3) // 2 + 1 = 30; kernel 5: 5*5*3*32 + 32, (60 - 3) // 2 + 1 = 29.
        ({"kernel_size": 5, "pool_window": 3}, 2_432 + 29 * 29 * 32 * 10 + 10),
    ],
)
def test_options_by_their_parameter_count(model_config, overrides, parameters):
    model = models.create(model_config(**overrides), 10, (64, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert models.count_parameters(shapes["params"]) == parameters


def test_only_the_first_convolution_of_a_block_strides(model_config):
    # 17 -> (17 - 3) // 2 + 1 = 8 -> 6 -> 4, pooled to 2.
    model = models.create(model_config(stride=2, depth=3, filters=(4,)), 5, (17, 17, 3))
    _, features = jax.eval_shape(
        lambda key: model.apply(model.init(key), jnp.zeros((1, 17, 17, 3))), jax.random.key(0)
    )
    assert features["last_map"].shape == (1, 2, 2, 4)


def test_batch_norm_comes_before_the_activation(model_config):
    # With a bias of -1 and scale 0 the norm gives -1, which ReLU makes 0; the other order gives -1.
    model = models.create(model_config(batch_norm=True, pool="none", filters=(2,)), 3, (5, 5, 1))
    variables = model.init(jax.random.key(0))
    assert set(variables["batch_stats"]["block1_bn1"]) == {"mean", "var"}
    variables["params"]["block1_bn1"] = {"scale": jnp.zeros(2), "bias": -jnp.ones(2)}
    _, features = jax.jit(model.apply)(variables, jnp.ones((2, 5, 5, 1)))
    np.testing.assert_array_equal(features["last_map"], 0)


def test_features(model_config):
    model = models.create(model_config(filters=(4, 8), hidden=(6,)), 3, (16, 16, 1))
    variables = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    logits, features = jax.jit(model.apply)(variables, x)
    # 16 -> 14 -> 7 -> 5 -> 2.
    assert jax.tree.map(jnp.shape, features) == {
        "stages": {"block1": (2, 7, 7, 4), "block2": (2, 2, 2, 8)},
        "last_map": (2, 2, 2, 8),
        "pooled": (2, 6),
    }
    np.testing.assert_array_equal(features["last_map"], features["stages"]["block2"])
    head = variables["params"]["head"]
    expected = np.asarray(features["pooled"]) @ np.asarray(head["kernel"])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_in_training_only_and_depends_on_the_key_only(model_config):
    model = models.create(model_config(dropout=0.5, filters=(4,)), 3, (8, 8, 1))
    variables = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    train = jax.jit(model.apply_train)
    first, features, stats = train(variables, x, jax.random.key(2))
    again = train(variables, x, jax.random.key(2))[0]
    other = train(variables, x, jax.random.key(3))[0]
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert stats == {}
    inference, inference_features = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(features["pooled"], inference_features["pooled"], rtol=1e-6)
    assert not np.allclose(first, inference)


def test_dropout_keeps_the_expected_logits(model_config):
    # Kept inputs are scaled by 1 / (1 - 0.25), so the mean over keys is the inference value. The
    # mean of 2,000 draws has a standard error of 1/45 of a draw's deviation; five are allowed.
    model = models.create(model_config(dropout=0.25, filters=(4,)), 3, (8, 8, 1))
    variables = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
    train = jax.jit(jax.vmap(lambda key: model.apply_train(variables, x, key)[0]))
    draws = np.asarray(train(jax.random.split(jax.random.key(2), 2000)))
    error = np.abs(draws.mean(0) - jax.jit(model.apply)(variables, x)[0])
    assert (error < 5 * draws.std(0) / np.sqrt(2000)).all()


def test_without_dropout_the_key_changes_nothing(model_config):
    model = models.create(model_config(filters=(4,)), 3, (8, 8, 1))
    variables = model.init(jax.random.key(0))
    x = jnp.ones((2, 8, 8, 1))
    train = jax.jit(model.apply_train)
    one, two = (train(variables, x, jax.random.key(seed))[0] for seed in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, jax.jit(model.apply)(variables, x)[0], rtol=1e-6)


def test_bfloat16_computes_in_bfloat16_between_float32_ends(model_config):
    model = models.create(model_config(dtype="bfloat16", batch_norm=True), 10, (16, 16, 3))
    variables = model.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))
    logits, features, stats = jax.jit(model.apply_train)(variables, x, jax.random.key(2))
    assert logits.dtype == jnp.float32
    assert features["last_map"].dtype == features["pooled"].dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((variables, stats))} == {jnp.dtype(jnp.float32)}
    wide = models.create(model_config(batch_norm=True), 10, (16, 16, 3))
    expected = jax.jit(wide.apply_train)(variables, x, jax.random.key(2))[0]
    # bfloat16 has 8 bits: 2^-8 of the largest logit, some roundings deep.
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("overrides", "size", "message"),
    [
        (
            {"kernel_size": 9},
            8,
            r"layer block1_conv1: a 9x9 window does not fit the 8x8 picture.*"
            r"Lower model.kernel_size to at most 8.*data.image_size",
        ),
        # 12 -> 10 -> 5 -> 3 -> 1, where a third block's 3x3 kernel no longer fits.
        ({"filters": (4, 4, 4)}, 12, r"layer block3_conv1: .* the 1x1 picture.*model.filters"),
        (
            {"pool_window": 7},
            8,
            r"layer block1_pool: a 7x7 .* the 6x6 .*Lower model.pool_window to at most 6",
        ),
        ({"name": "cn"}, 8, r"model.name='cn': must be one of .*; did you mean 'cnn'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(model_config, overrides, size, message):
    with pytest.raises(UsageError, match=message):
        models.create(model_config(**overrides), 10, (size, size, 3))


def test_a_model_needs_a_class_and_a_picture(model_config):
    with pytest.raises(UsageError, match="at least one class"):
        models.create(model_config(), 0, (8, 8, 3))
    with pytest.raises(UsageError, match=r"input shape \(8, 8\)"):
        models.create(model_config(), 2, (8, 8))
