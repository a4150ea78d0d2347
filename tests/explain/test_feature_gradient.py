"""Gradients by a map against closed forms: linear heads, a chain rule by hand, a view of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import config, models
from imgclass.explain.feature_gradient import feature_gradient
from imgclass.models import vit
from tests import tiny

LABELS = jnp.array([1, 3], jnp.int32)


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


def made(name, side, **keys):
    """Returns a model of 5 classes, its variables, and two pictures of noise."""
    section = config.defaults().model
    section.update(name=name, **keys)
    model = models.create(section, 5, (side, side, 3))
    images = np.random.default_rng(0).normal(size=(2, side, side, 3))
    return model, model.init(jax.random.key(0)), jnp.asarray(images, jnp.float32)


def transformer():
    """As `made`, of a vision transformer of two blocks."""
    layout = vit.Layout(width=8, heads=2, patch=4, depth=2)
    model = models.Model(vit.ViT(5, layout), (16, 16, 3))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    return model, model.init(jax.random.key(0)), jnp.asarray(images, jnp.float32)


def head_rows(variables):
    """Returns f32[2, width]: what of the head's kernel makes the two labels' logits."""
    return np.asarray(variables["params"]["head"]["kernel"])[:, np.asarray(LABELS)].T


@pytest.mark.parametrize(
    ("name", "side", "keys"),
    [
        ("cnn", 8, {"filters": (4,), "head": "average"}),
        pytest.param("resnet18", 8, {"stem": "cifar"}, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 32, {}, marks=pytest.mark.slow),
        pytest.param("densenet121", 32, {"stem": "cifar"}, marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", 64, {}, marks=pytest.mark.slow),
        pytest.param("resnetv2_50", 32, {"stem": "cifar"}, marks=pytest.mark.slow),
        pytest.param("wrn28_10", 8, {}, marks=pytest.mark.slow),
    ],
)
def test_behind_a_mean_and_a_dense_layer_it_is_the_kernel_over_the_area(name, side, keys):
    model, variables, images = made(name, side, **keys)
    found, gradient = feature_gradient(model, variables, images, LABELS, "last_map")
    _, features = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(found, features["last_map"], rtol=1e-3, atol=1e-5)
    _, height, width, _ = found.shape
    expected = np.broadcast_to(
        head_rows(variables)[:, None, None, :] / (height * width), found.shape
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_behind_a_flattened_map_it_is_the_kernel():
    model, variables, images = made("cnn", 8, filters=(4,))
    _, gradient = feature_gradient(model, variables, images, LABELS, "last_map")
    np.testing.assert_allclose(
        gradient, head_rows(variables).reshape(gradient.shape), rtol=1e-5, atol=1e-7
    )


def test_behind_a_maximum_it_goes_to_where_the_maximum_is():
    model, variables, images = made("airbench94", 32)
    found, gradient = feature_gradient(model, variables, images, LABELS, "last_map")
    found = np.asarray(found)
    is_top = found == found.max(axis=(1, 2), keepdims=True)
    assert (is_top.sum(axis=(1, 2)) == 1).all()
    expected = is_top * head_rows(variables)[:, None, None, :] / 256  # the layout's scale
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_behind_layer_norm_and_a_hidden_layer_it_is_the_chain_rule():
    model, variables, images = made("mobilenet_v3_small", 64)
    found, gradient = feature_gradient(model, variables, images, LABELS, "last_map")
    hidden = {k: np.asarray(v, np.float64) for k, v in variables["params"]["hidden"].items()}
    z = np.asarray(found, np.float64).mean(axis=(1, 2)) @ hidden["kernel"] + hidden["bias"]
    slope = np.where(z < -3, 0, np.where(z > 3, 1, (2 * z + 3) / 6))  # of z * relu6(z + 3) / 6
    expected = (head_rows(variables) * slope) @ hidden["kernel"].T / (found.shape[1] ** 2)
    expected = np.broadcast_to(expected[:, None, None, :], found.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-8)

    model, variables, images = made("convnext_atto", 64)
    found, gradient = feature_gradient(model, variables, images, LABELS, "last_map")
    pooled = np.asarray(found, np.float64).mean(axis=(1, 2))
    centred = pooled - pooled.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-6)
    unit, row = centred / deviation, head_rows(variables)
    back = row - row.mean(1, keepdims=True) - unit * (row * unit).mean(1, keepdims=True)
    expected = (back / deviation / found.shape[1] ** 2)[:, None, None, :]
    np.testing.assert_allclose(
        gradient, np.broadcast_to(expected, found.shape), rtol=1e-2, atol=1e-6
    )


class Tokens:
    """Two tokens a picture; the logits see the first directly and the second through its square.

    'stages' holds a map that the logits are not computed from, but a view of what they are.
    """

    def apply(self, variables, x):
        tokens = x.reshape(x.shape[0], 4, 3) * variables["scale"]
        grid = tokens[:, 1:].reshape(x.shape[0], 3, 1, 3)
        logits = jnp.stack([tokens[:, 0].sum(1), jnp.square(tokens).sum((1, 2))], axis=1)
        return logits, {"stages": {"grid": grid}, "last_map": x * x, "pooled": tokens[:, 0]}


def test_a_view_of_tokens_has_that_view_of_the_gradient():
    x = jnp.arange(12, dtype=jnp.float32).reshape(1, 2, 2, 3)
    variables, square = {"scale": jnp.float32(2)}, jnp.array([1], jnp.int32)
    found, gradient = feature_gradient(Tokens(), variables, x, square, "grid")
    tokens = 2 * np.arange(3, 12).reshape(1, 3, 1, 3)
    np.testing.assert_array_equal(found, tokens)
    np.testing.assert_array_equal(gradient, 2 * tokens)


def test_a_map_that_the_logits_do_not_see_has_no_gradient():
    x = jnp.ones((1, 2, 2, 3), jnp.float32)
    label = jnp.array([0], jnp.int32)
    found, gradient = feature_gradient(Tokens(), {"scale": jnp.float32(2)}, x, label, "last_map")
    np.testing.assert_array_equal(found, np.ones((1, 2, 2, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((1, 2, 2, 3)))


def test_the_last_tokens_of_a_vision_transformer_have_none_and_those_before_have():
    model, variables, images = transformer()
    for name, has in (("last_map", False), ("block2", False), ("block1", True)):
        found, gradient = feature_gradient(model, variables, images, LABELS, name)
        assert found.shape == gradient.shape == (2, 4, 4, 8)
        assert np.any(gradient) == has, name
