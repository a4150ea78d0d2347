"""DenseNet: published sizes, and which maps a layer sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.errors import UsageError
from imgclass.models import densenet, torch_names
from imgclass.models.count import multiply_adds
from imgclass.models.densenet import Layout
from tests.models.numpy_layers import draw

# Published by torchvision for its weights: parameters, and multiply-adds in 1e9 at 224 pixels.
SIZES = {
    "densenet121": (7_978_856, 2.834),
    "densenet161": (28_681_000, 7.728),
    "densenet169": (14_149_480, 3.360),
    "densenet201": (20_013_928, 4.291),
}


def test_every_layout_is_measured():
    assert SIZES.keys() == densenet.LAYOUTS.keys()


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [
        # Each takes seconds to trace.
        pytest.param(name, *sizes, marks=[pytest.mark.slow] if name != "densenet121" else [])
        for name, sizes in SIZES.items()
    ],
)
def test_every_model_keeps_the_contract(model_config, name, parameters, giga):
    model = models.Model(densenet.build(model_config(name=name), 1000), (224, 224, 3))

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
    # The paper's table 1.
    assert {k: v.shape[1] for k, v in features["stages"].items()} == {
        "stem": 112,
        "stage1": 56,
        "stage2": 28,
        "stage3": 14,
        "stage4": 7,
    }


def test_small_picture_stem():
    module = densenet.DenseNet(3, Layout((1, 1, 1, 1), growth=4, stem_width=8), stem="cifar")
    model = models.Model(module, (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    _, features = jax.eval_shape(model.apply, variables, jnp.zeros((1, 32, 32, 3)))
    # 8 + 4 = 12, halved and 4 more = 10, 5 + 4 = 9, 4 + 4 = 8.
    assert {k: v.shape[1:] for k, v in features["stages"].items()} == {
        "stem": (32, 32, 8),
        "stage1": (32, 32, 12),
        "stage2": (16, 16, 10),
        "stage3": (8, 8, 9),
        "stage4": (4, 4, 8),
    }


def test_a_layer_adds_its_maps_after_those_it_saw():
    module = densenet.DenseNet(3, Layout((2,), growth=4, stem_width=6), stem="cifar")
    model = models.Model(module, (8, 8, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    layer = shapes["params"]["stage1_layer2"]
    assert layer["conv1"]["kernel"].shape == (1, 1, 6 + 4, 4 * 4)
    assert layer["conv2"]["kernel"].shape == (3, 3, 4 * 4, 4)
    variables = draw(shapes)
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    apply = jax.jit(model.apply)
    _, features = apply(variables, x)
    stages = features["stages"]
    assert stages["stage1"].shape == (2, 8, 8, 6 + 4 + 4)
    np.testing.assert_array_equal(stages["stage1"][..., :6], stages["stem"])
    # The second layer's kernel at zero leaves the rest as it was.
    variables["params"]["stage1_layer2"]["conv2"]["kernel"] = jnp.zeros((3, 3, 16, 4))
    _, silent = apply(variables, x)
    np.testing.assert_array_equal(silent["stages"]["stage1"][..., 10:], 0.0)
    np.testing.assert_array_equal(silent["stages"]["stage1"][..., :10], stages["stage1"][..., :10])


def test_too_small_a_picture_is_refused(model_config):
    # 28 -> 14 -> 7, then 3, then 1, which cannot be halved.
    module = densenet.build(model_config(name="densenet121"), 10)
    with pytest.raises(UsageError, match=r"transition3: nothing is left.*model\.stem=cifar"):
        jax.eval_shape(models.Model(module, (28, 28, 3)).init, jax.random.key(0))


def test_names_in_torchvision():
    def name(**variables):
        (found,) = torch_names.slots({"params": variables}, densenet.TORCH["torchvision"])
        return found

    one = jnp.zeros(1)
    assert name(bn1={"bias": one}) == "features.norm0.bias"
    assert name(transition2_conv={"kernel": one}) == "features.transition2.conv.weight"
    layer = {"conv2": {"kernel": one}}
    assert name(stage3_layer24=layer) == "features.denseblock3.denselayer24.conv2.weight"
    assert name(bn={"scale": one}) == "features.norm5.weight"
