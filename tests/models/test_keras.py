"""Parity with Keras: the same weights give the same logits."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models

keras = pytest.importorskip("keras")


def keras_network(config, num_classes, size):
    """The network as a reader of the Keras documentation would write it."""
    net = keras.Sequential([keras.Input((size, size, 3))])
    pool = {"max": keras.layers.MaxPooling2D, "avg": keras.layers.AveragePooling2D}.get(config.pool)
    for width in config.filters:
        for layer in range(config.depth):
            net.add(
                keras.layers.Conv2D(
                    width,
                    config.kernel_size,
                    strides=config.stride if layer == 0 else 1,
                    padding=config.padding.lower(),
                    use_bias=not config.batch_norm,
                )
            )
            if config.batch_norm:
                net.add(keras.layers.BatchNormalization(epsilon=config.batch_norm_epsilon))
            net.add(keras.layers.Activation(config.activation))
        if pool:
            net.add(pool(config.pool_window, config.pool_stride))
    flatten = config.head == "flatten"
    net.add(keras.layers.Flatten() if flatten else keras.layers.GlobalAveragePooling2D())
    for width in config.hidden:
        net.add(keras.layers.Dense(width, activation=config.activation))
    net.add(keras.layers.Dense(num_classes))
    return net


def weights_in_keras_order(variables, config):
    """Keras lists a layer's weights as kernel, bias; gamma, beta, moving mean, moving variance."""
    params, stats = variables["params"], variables["batch_stats"]
    names = []
    for block in range(1, len(config.filters) + 1):
        for layer in range(1, config.depth + 1):
            names.append(f"block{block}_conv{layer}")
            names += [f"block{block}_bn{layer}"] * config.batch_norm
    names += [f"hidden{i}" for i in range(1, len(config.hidden) + 1)]
    weights = []
    for name in [*names, "head"]:
        order = ("scale", "bias") if "_bn" in name else ("kernel", "bias")
        weights += [params[name][key] for key in order if key in params[name]]
        weights += [stats[name][key] for key in ("mean", "var") if name in stats]
    return weights


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"pool": "avg"},
        {"pool": "none", "filters": (8,)},
        {"padding": "SAME"},
        {"stride": 2, "padding": "SAME"},
        {"stride": 2, "depth": 2, "filters": (8, 16)},
        {"pool_window": 3, "pool_stride": 2},
        {"batch_norm": True, "batch_norm_epsilon": 1e-3, "activation": "silu"},
        {"hidden": (20,), "activation": "gelu", "head": "average"},
    ],
    ids=str,
)
def test_logits_equal_keras(model_config, overrides):
    config = model_config(**overrides)
    model = models.create(config, 10, (64, 64, 3))
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return random.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return random.uniform(0.5, 1.5, leaf.shape)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    x = random.uniform(0, 1, size=(4, 64, 64, 3)).astype(np.float32)
    # Keras promotes dtypes and ranks as NumPy does, which the test session forbids elsewhere.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        net = keras_network(config, 10, 64)
        net.set_weights([np.asarray(w) for w in weights_in_keras_order(variables, config)])
        expected = np.asarray(net(x, training=False))
    assert net.count_params() == models.count_parameters(variables)
    ours, _ = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
