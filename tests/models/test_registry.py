"""What can be asked of the models by name."""

import re

import jax
import jax.numpy as jnp
import pytest

from imgclass import models
from imgclass.errors import UsageError
from imgclass.models import registry
from imgclass.schema import SCHEMA

EVERY = {"name", "pretrained", "dtype"}
NORM = {"batch_norm_momentum", "batch_norm_epsilon", "batch_norm_group"}
# What one model of each file reads of config.model besides.
READ = {
    "airbench94": NORM,  # its recipe regularises by augmentation alone
    "convnext_tiny": {"dropout", "drop_path"},  # layer norm in place of batch norm
    "densenet121": {"stem", *NORM},
    "efficientnet_b0": {"dropout", "drop_path", *NORM},
    "mobilenet_v2": {"dropout", "drop_path", *NORM},
    "mobilenet_v3_large": {"dropout", "drop_path", *NORM},
    "regnet_y_400mf": {"dropout", "drop_path", *NORM},
    "resnet50": {"stem", "zero_init_residual", "drop_path", *NORM},
    "resnetv2_50": {"stem", "drop_path", *NORM},
    "vgg16": {"dropout", *NORM},  # no residual branch to drop
    "vit_b_16": {"dropout", "drop_path"},
    "wrn28_10": {"dropout", "drop_path", *NORM},
}


def test_names_are_sorted_and_one_family_each():
    assert models.names() == sorted(models.names())
    assert {"airbench94", "cnn", "efficientnet_v2_s", "resnet50", "vit_b_16"} < {*models.names()}
    layouts = [name for family in registry._FAMILIES for name in family.LAYOUTS]
    assert sorted([*layouts, "cnn"]) == models.names()
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in models.names())


def test_used_keys_are_those_of_the_architecture():
    used = models.used_keys()
    assert used.keys() == {*models.names()}
    for name, keys in READ.items():
        assert used[name] - EVERY == keys, name
    for family in registry._FAMILIES:  # all of a file are as one of it
        assert len({used[name] for name in family.LAYOUTS}) == 1, family
        assert READ.keys() & family.LAYOUTS.keys(), family
    # Every model computes in its dtype; each key is some model's.
    assert all("dtype" in keys for keys in used.values())
    assert frozenset().union(*used.values()) == {*SCHEMA["model"]}


def test_input_sizes():
    assert models.input_size("cnn") == 64
    assert models.input_size("resnet50") == 224
    assert models.input_size("airbench94") == 32
    assert models.input_size("efficientnet_v2_s") == 384


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("cnn", ()),
        ("airbench96", ()),
        ("resnet50", ("torchvision", "timm")),
        ("seresnet50", ("timm",)),
        ("convnext_atto", ("timm",)),
        ("regnet_y_400mf", ("torchvision", "timm")),
        ("vgg16", ("torchvision",)),
        ("vit_ti_4", ()),
    ],
)
def test_sources(name, libraries):
    assert models.sources(name) == libraries


def test_every_source_names_every_variable(model_config):
    """All tensors of all models have a name, in each library; the parity tests check the names."""
    for name in ("densenet121", "regnet_x_400mf", "resnet50", "vgg11", "vit_b_16"):
        model = models.create(model_config(name=name), 10, (64, 64, 3))
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        for library in models.sources(name):
            slots = registry.torch_slots(name, library, shapes)
            assert len(slots) == len(jax.tree.leaves(shapes)), (name, library)


def test_vgg_takes_its_map_flattened(model_config):
    model = models.create(model_config(name="vgg11"), 10, (32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    slots = registry.torch_slots("vgg11", "torchvision", shapes)
    assert slots["classifier.0.weight"].flattened == (7, 7, 512)
    assert slots["classifier.3.weight"].flattened is None


def test_a_name_that_is_not_there(model_config):
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        models.create(model_config(name="resnet5O"), 10, (32, 32, 3))


def test_a_geometry_that_cannot_be(model_config):
    with pytest.raises(UsageError, match="at least one class"):
        models.create(model_config(), 0, (32, 32, 3))


def test_a_model_without_batch_statistics(model_config):
    model = models.create(model_config(filters=(2,)), 3, (8, 8, 1))
    variables = model.init(jax.random.key(0))
    x = jnp.zeros((2, 8, 8, 1), jnp.float32)
    logits, _, batch_stats = model.apply_train(variables, x, jax.random.key(1))
    assert (logits.shape, batch_stats) == ((2, 3), {})
