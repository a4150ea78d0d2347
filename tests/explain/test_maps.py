"""Maps worked out by hand, and the axioms of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import config, models
from imgclass.data.preprocess import Preprocess
from imgclass.explain import maps
from tests import tiny
from tests.explain.test_feature_gradient import transformer


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


class Sums:
    """Two classes and a map of half the side: means of 2x2 pixels, a channel each."""

    def apply(self, variables, x):
        n, height, width, channels = x.shape
        last = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        logits = last.sum(axis=(1, 2)) @ variables["kernel"]
        return logits, {"stages": {"only": last}, "last_map": last, "pooled": last}


def test_gradcam_by_hand():
    # Weights of the two channels are 1 and -2, so the 2x2 map is relu(A_0 - 2 A_1).
    first, second = np.array([[4.0, 2], [1, 0]]), np.array([[0.0, 0.5], [1, 0]])
    coarse = np.stack([first, second], axis=-1)
    x = jnp.asarray(np.kron(coarse, np.ones((2, 2, 1)))[None], jnp.float32)
    kernel = jnp.array([[7, 1], [7, -2]], jnp.float32)
    found = maps.gradcam(Sums(), {"kernel": kernel}, x, jnp.array([1], jnp.int32))
    # [[4, 1], [0, 0]] / 4, enlarged twice with half-pixel centres: weights 1, 3/4, 1/4, 0 a side.
    side = np.array([1, 0.75, 0.25, 0])
    top = 1 * side + 0.25 * side[::-1]
    np.testing.assert_allclose(found, [np.outer(side, top)], rtol=1e-6, atol=1e-7)


class Flat(Sums):
    """As Sums, but a flattened map has a kernel for each place."""

    def apply(self, variables, x):
        last = x
        logits = last.reshape(x.shape[0], -1) @ variables["kernel"]
        return logits, {"stages": {"only": last}, "last_map": last, "pooled": last}


def test_gradcam_of_a_flattened_map_is_each_places_share_of_the_logit():
    # 2x2 places of one channel; averaged over places the gradient would be 0, and so the map.
    kernel = jnp.array([[4, 0], [-2, 0], [1, 0], [-3, 0]], jnp.float32)
    x = jnp.array([1, 1, 2, 0.5], jnp.float32).reshape(1, 2, 2, 1)
    found = maps.gradcam(Flat(), {"kernel": kernel}, x, jnp.array([0], jnp.int32))
    np.testing.assert_allclose(found, [[[1, 0], [0.5, 0]]], rtol=1e-6)


def test_gradcam_of_a_class_that_nothing_speaks_for_is_zero():
    kernel = jnp.array([[-1, 0], [-1, 0]], jnp.float32)
    x = jnp.ones((2, 4, 4, 2), jnp.float32)
    found = maps.gradcam(Sums(), {"kernel": kernel}, x, jnp.array([0, 1], jnp.int32))
    np.testing.assert_array_equal(found, np.zeros((2, 4, 4)))


def test_gradcam_of_a_vision_transformer_takes_the_block_before_the_last():
    model, variables, images = transformer()
    found = maps.gradcam(model, variables, images, jnp.array([1, 3], jnp.int32))
    assert found.shape == (2, 16, 16)
    np.testing.assert_allclose(found.max(axis=(1, 2)), 1, atol=0.3)  # smoothed by enlarging
    assert found.min() >= 0


def test_integrated_gradients_of_a_linear_model_are_kernel_times_difference():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 2)), jnp.float32)
    kernel, baseline = jnp.array([[1, 0], [-2, 0]], jnp.float32), jnp.array([0.5, -1], jnp.float32)
    label = jnp.array([0], jnp.int32)
    found = maps.integrated_gradients(Sums(), {"kernel": kernel}, x, label, baseline, steps=3)
    expected = (np.asarray(x) - [0.5, -1]) * [0.25, -0.5]  # a pixel is a quarter of a mean
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_integrated_gradients_add_up_to_the_logits_difference_better_with_more_steps():
    section = config.defaults().model
    section.update(filters=(8, 8), activation="gelu")
    model = models.create(section, 3, (16, 16, 3))
    variables = model.init(jax.random.key(1))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 16, 3)), jnp.float32)
    labels, baseline = jnp.array([0, 2], jnp.int32), jnp.full(3, 0.3, jnp.float32)

    def logits(images):
        return np.asarray(model.apply(variables, images)[0])[[0, 1], labels]

    difference = logits(x) - logits(jnp.full(x.shape, 0.3, jnp.float32))

    def error(steps):
        found = maps.integrated_gradients(model, variables, x, labels, baseline, steps)
        return np.abs(found.sum(axis=(1, 2, 3)) - difference).max()

    assert np.abs(difference).min() > 0.1
    assert error(maps.STEPS) < 0.01 * np.abs(difference).min()
    assert error(maps.STEPS) < error(2)


def test_occlusion_by_hand():
    # 14x8 pixels: squares of 8 // 7 = 1. The one lit pixel gives the logit 1/4 (a mean of 2x2);
    # what covers it takes that away, and covering others changes nothing.
    x = np.zeros((1, 14, 8, 2), np.float32)
    x[0, 3, 4, 0] = 1
    kernel = jnp.array([[1, 0], [0, 0]], jnp.float32)
    colour, label = jnp.zeros(2, jnp.float32), jnp.array([0], jnp.int32)
    (found,) = maps.occlusion(Sums(), {"kernel": kernel}, jnp.asarray(x), label, colour)
    expected = np.zeros((14, 8))
    expected[3, 4] = 0.25
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_squares_of_occlusion_overlap_and_reach_the_edges():
    # 28 pixels: squares of 4 that move by 2; a pixel away from the edges is in four of them.
    x = np.zeros((2, 28, 28, 2), np.float32)
    x[1, 10, 10, 0], x[1, 27, 27, 0] = 1, 1
    kernel = jnp.array([[4, 0], [0, 0]], jnp.float32)
    colour, labels = jnp.zeros(2, jnp.float32), jnp.array([0, 0], jnp.int32)
    dark, found = maps.occlusion(Sums(), {"kernel": kernel}, jnp.asarray(x), labels, colour)
    np.testing.assert_allclose(dark, 0, atol=1e-6)
    one = np.zeros(28)
    one[8:10], one[10:12], one[12:14] = 0.5, 1, 0.5  # of the two squares over a row, one or both
    np.testing.assert_allclose(found[:20, :20], np.outer(one, one)[:20, :20], atol=1e-6)
    corner = np.array([0.5, 0.5, 1, 1])
    np.testing.assert_allclose(found[-4:, -4:], np.outer(corner, corner), atol=1e-6)


def test_shown_cuts_the_strongest_hundredth_and_what_speaks_against():
    values = np.arange(-100, 101, dtype=np.float32).reshape(1, 1, 201)
    found = maps.shown(values)
    # The 99th of 100 hundredths of 201 values is the 198th from 0: 98.
    np.testing.assert_allclose(found[0, 0, 100:199], np.arange(99) / 98, rtol=1e-6)
    np.testing.assert_array_equal(found[0, 0, 199:], 1)
    np.testing.assert_array_equal(found[0, 0, :100], 0)
    np.testing.assert_array_equal(maps.shown(np.zeros((1, 2, 2), np.float32)), 0)
    one = np.zeros((1, 20, 20), np.float32)
    one[0, 3, 3] = 5
    np.testing.assert_array_equal(maps.shown(one), one / 5)


def test_neutral_is_the_mean_of_the_data_or_black():
    plain = Preprocess(image_size=(4, 4), channels=1)
    np.testing.assert_array_equal(maps.neutral(plain), [0])
    given = Preprocess(image_size=(4, 4), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(maps.neutral(given), [0, 0, 0])


@pytest.mark.parametrize("method", maps.METHODS)
def test_evidence_points_to_the_pixels_that_make_the_logit(method):
    # Channel 0 at the lower left speaks for class 0.
    x = np.full((1, 28, 28, 2), 0.5, np.float32)
    x[0, 20:24, 4:8, 0] = 1
    kernel = {"kernel": jnp.array([[1, 0], [0, 1]], jnp.float32)}
    plain, label = Preprocess(image_size=(28, 28), channels=2), jnp.array([0], jnp.int32)
    (found,) = maps.evidence(method, Sums(), kernel, jnp.asarray(x), label, plain)
    assert found.shape == (28, 28)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 20 <= row < 24
    assert 4 <= column < 8
