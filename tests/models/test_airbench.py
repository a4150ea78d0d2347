import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import config as config_lib
from imgclass import models
from imgclass.errors import UsageError
from imgclass.models import airbench


def create(name, size=32):
    config = config_lib.defaults()
    config.model.name = name
    return models.create(config.model, 10, (size, size, 3))


def parameters(name):
    """By hand from the published layout: 3x3 kernels, one bias a batch norm, no other."""
    widths, deep = {
        "airbench94": ((64, 256, 256), False),
        "airbench95": ((128, 384, 384), False),
        "airbench96": ((128, 384, 512), True),
    }[name]
    count, channels = 24, 24  # the whitening layer's bias
    for width in widths:
        convolutions = 3 if deep else 2
        count += 9 * channels * width + (convolutions - 1) * 9 * width**2 + convolutions * width
        channels = width
    return count + 10 * channels


@pytest.mark.parametrize("name", airbench.LAYOUTS)
def test_parameters(name):
    shapes = jax.eval_shape(lambda: create(name).init(jax.random.key(0)))
    assert models.count_parameters(shapes["params"]) == parameters(name)


def test_published_size():  # "1.97M params" of the 94% net, whose whitening kernel counts there
    assert parameters("airbench94") + 2 * 2 * 3 * 24 == 1_971_640


def test_whitening_leaves_no_correlation():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(3, 3))
    images = (random.normal(size=(200, 8, 8, 3)) @ mixing + 0.3).astype(np.float32)
    kernel = np.asarray(airbench.whitening(jnp.asarray(images)), np.float64)
    patches = np.array(
        [
            image[i : i + 2, j : j + 2].ravel()
            for image in images.astype(np.float64)
            for i in range(7)
            for j in range(7)
        ]
    )
    assert kernel.shape == (2, 2, 3, 24)
    out = patches @ kernel.reshape(12, 24)
    np.testing.assert_array_equal(out[:, :12], -out[:, 12:])
    moments = out[:, :12].T @ out[:, :12] / len(out)
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    np.testing.assert_allclose(moments, np.diag(values / (values + 5e-4)), atol=2e-3)


def test_fitting_sets_the_kernel_and_nothing_else():
    model = create("airbench94")
    variables = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (50, 32, 32, 3), jnp.float32)
    fitted = model.fit(variables, images)
    kernel = fitted["batch_stats"]["whiten"].pop("kernel")
    np.testing.assert_array_equal(kernel, airbench.whitening(images))
    variables["batch_stats"]["whiten"].pop("kernel")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), fitted, variables))
    assert model.sample == 5000


@pytest.mark.slow
def test_training_leaves_the_whitening_kernel_alone():
    model = create("airbench96")
    variables = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3), jnp.float32)
    _, _, stats = model.apply_train(variables, images, jax.random.key(2))
    before = variables["batch_stats"]["whiten"]["kernel"]
    np.testing.assert_array_equal(stats["whiten"]["kernel"], before)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])


def test_a_group_starts_as_the_identity():
    params = create("airbench94").init(jax.random.key(0))["params"]
    kernel = np.asarray(params["group2"]["conv1"]["kernel"])
    expected = np.zeros((3, 3, 64, 64))
    expected[1, 1] = np.eye(64)
    np.testing.assert_array_equal(kernel[..., :64], expected)
    assert np.abs(kernel[..., 64:]).max() <= 1 / np.sqrt(9 * 64)


def test_small_pictures_are_refused_in_one_line():
    with pytest.raises(UsageError, match=r"raise data\.image_size"):
        create("airbench94", 8)
