"""VGG: published sizes, the names of its layers, its pool for any size, and its dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.errors import UsageError
from imgclass.models import torch_names, vgg
from imgclass.models.count import multiply_adds
from tests.models.numpy_layers import draw

# Published by torchvision for its weights: parameters, and multiply-adds in 1e9 at 224 pixels.
SIZES = {
    "vgg11": (132_863_336, 7.609),
    "vgg13": (133_047_848, 11.308),
    "vgg16": (138_357_544, 15.470),
    "vgg19": (143_667_240, 19.632),
    "vgg11_bn": (132_868_840, 7.609),
    "vgg13_bn": (133_053_736, 11.308),
    "vgg16_bn": (138_365_992, 15.470),
    "vgg19_bn": (143_678_248, 19.632),
}


def test_every_layout_is_measured():
    assert SIZES.keys() == vgg.LAYOUTS.keys()


@pytest.mark.parametrize(
    ("name", "parameters", "giga"), [(name, *sizes) for name, sizes in SIZES.items()]
)
def test_every_model_keeps_the_contract(model_config, name, parameters, giga):
    model = models.Model(vgg.build(model_config(name=name), 1000), (224, 224, 3))

    def run(key):
        variables = model.init(key)
        x = jnp.zeros((2, 224, 224, 3))
        return variables, model.apply(variables, x), model.apply_train(variables, x, key)

    variables, (logits, features), trained = jax.eval_shape(run, jax.random.key(0))
    assert models.count_parameters(variables["params"]) == parameters
    assert round(multiply_adds(model) / 1e9, 3) == giga
    assert (logits.shape, logits.dtype) == ((2, 1000), jnp.float32)
    assert jax.tree.structure(trained[2]) == jax.tree.structure(variables["batch_stats"])
    assert features["last_map"].shape == (2, 7, 7, 512)
    assert features["pooled"].shape == (2, 4096)


@pytest.mark.parametrize(
    ("name", "convolutions"),
    # features.N of torchvision's weights.
    [
        ("vgg11", [0, 3, 6, 8, 11, 13, 16, 18]),
        ("vgg16_bn", [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]),
    ],
)
def test_layers_stand_where_torchvision_has_them(model_config, name, convolutions):
    model = models.Model(vgg.build(model_config(name=name), 1000), (64, 64, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    slots = torch_names.slots(variables, vgg.TORCH["torchvision"], vgg.FLATTENED)
    norms = [place + 1 for place in convolutions] if name.endswith("_bn") else []
    expected = {f"features.{n}.{leaf}" for n in convolutions for leaf in ("weight", "bias")}
    expected |= {f"classifier.{n}.{leaf}" for n in (0, 3, 6) for leaf in ("weight", "bias")}
    leaves = ("weight", "bias", "running_mean", "running_var")
    expected |= {f"features.{n}.{leaf}" for n in norms for leaf in leaves}
    assert slots.keys() == expected


def test_flattened_maps_are_channels_last_here(model_config, monkeypatch):
    # Theirs are channels first: (h, w, c) of 7x7x512 is number c * 49 + h * 7 + w there.
    monkeypatch.setattr(vgg, "_HIDDEN", 2)
    model = models.Model(vgg.build(model_config(name="vgg11"), 10), (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    slots = torch_names.slots(variables, vgg.TORCH["torchvision"], vgg.FLATTENED)
    theirs = np.broadcast_to(np.arange(25_088), (2, 25_088))
    ours = torch_names.to_ours(slots["classifier.0.weight"], theirs)
    assert ours.shape == (25_088, 2)
    assert ours[(2 * 7 + 3) * 512 + 5, 0] == 5 * 49 + 2 * 7 + 3


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7), (10, 14), (16, 7)])
def test_adaptive_mean_equals_loops(shape):
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    expected = np.zeros((2, 7, 7, 3))
    for i in range(7):
        for j in range(7):
            rows = [
                r
                for r in range(shape[0])
                if i * shape[0] / 7 < r + 1 and r < (i + 1) * shape[0] / 7
            ]
            columns = [
                c
                for c in range(shape[1])
                if j * shape[1] / 7 < c + 1 and c < (j + 1) * shape[1] / 7
            ]
            expected[:, i, j] = x[:, rows][:, :, columns].mean((1, 2))
    ours = vgg.adaptive_mean(jnp.asarray(x), 7)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_adaptive_mean_of_bfloat16_is_rounded_once():
    # (256 + 1 + 1 + 2) / 4 = 65. In bfloat16's 8 bits 256 + 1 is 256, and the mean 64.
    x = jnp.asarray([256, 1, 1, 2], jnp.bfloat16).reshape(1, 1, 4, 1)
    y = vgg.adaptive_mean(x, 1)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0]) == 65.0


def test_too_small_a_picture_is_refused(model_config):
    module = vgg.build(model_config(name="vgg11"), 10)
    with pytest.raises(UsageError, match=r"32x31 is too small\. Raise data\.image_size"):
        jax.eval_shape(models.Model(module, (32, 31, 3)).init, jax.random.key(0))


def test_dropout_falls_on_both_hidden_layers(model_config, monkeypatch):
    monkeypatch.setattr(vgg, "_HIDDEN", 64)
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)

    def run(rate):
        """Returns the last hidden layer, and what the head made of it less what it would have."""
        model = models.Model(vgg.build(model_config(name="vgg11", dropout=rate), 10), (32, 32, 3))
        variables = draw(jax.eval_shape(model.init, jax.random.key(0)))
        logits, features, _ = jax.jit(model.apply_train)(variables, x, jax.random.key(1))
        head = jax.tree.map(np.asarray, variables["params"]["head"])
        pooled = np.asarray(features["pooled"])
        return pooled, logits - (pooled @ head["kernel"] + head["bias"])

    plain, no_change = run(0.0)
    np.testing.assert_allclose(no_change, 0, atol=1e-5)
    half, change = run(0.5)
    assert not np.allclose(plain, half)
    assert np.abs(change).max() > 0.01
