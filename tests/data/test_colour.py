"""Colour changes against Pillow, colorsys and hand numbers."""

import colorsys
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from imgclass.data import colour
from tests.data.pictures import every

FACTORS = [0.0, 0.4, 1.0, 1.7]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (colour.adjust_brightness, ImageEnhance.Brightness),
        (colour.adjust_contrast, ImageEnhance.Contrast),
        (colour.adjust_saturation, ImageEnhance.Color),
    ],
)
def test_colour_is_pillows(ours, theirs, factor):
    pixels = np.random.default_rng(4).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = np.asarray(theirs(Image.fromarray(pixels)).enhance(factor), np.float64)
    got = ours(jnp.asarray(pixels, jnp.float32) / 255.0, jnp.float32(factor))
    # Pillow rounds the grey level (by 0.5, times |1 - factor| <= 1) and cuts the result to whole
    # levels (by up to 1).
    assert np.abs(np.asarray(got) * 255 - expected).max() <= 1.5 + 1e-3


def test_colour_by_hand():
    # Luma of (1, 0, 0) is 0.299 and of (0, 1, 0) is 0.587; their mean is 0.443.
    image = jnp.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], jnp.float32)
    half = jnp.float32(0.5)
    np.testing.assert_allclose(colour.adjust_brightness(image, half), image / 2, rtol=1e-6)
    np.testing.assert_allclose(
        colour.adjust_contrast(image, half),
        [[[0.7215, 0.2215, 0.2215], [0.2215, 0.7215, 0.2215]]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        colour.adjust_saturation(image, half),
        [[[0.6495, 0.1495, 0.1495], [0.2935, 0.7935, 0.2935]]],
        rtol=1e-6,
    )
    grey = jnp.array([[[0.2], [0.6]]], jnp.float32)
    np.testing.assert_allclose(colour.adjust_contrast(grey, half)[0, :, 0], [0.3, 0.5], rtol=1e-6)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 1 / 3, 0.5])
def test_hue_is_colorsys(turn):
    corners = np.array(list(itertools.product([0, 0.5, 1], repeat=3)))  # greys and ties too
    random = np.random.default_rng(5).uniform(size=(100, 3))
    colours = np.concatenate([corners, random])
    expected = []
    for rgb in colours:
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        expected.append(colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value))
    got = colour.adjust_hue(jnp.asarray(colours[None], jnp.float32), jnp.float32(turn))
    np.testing.assert_allclose(got[0], expected, atol=2e-6)


@pytest.mark.parametrize(("amount", "low", "high"), [(0.3, 0.7, 1.3), (1.0, 0.0, 2.0)])
def test_factors_are_uniform_about_one(amount, low, high):
    got = every(lambda key: colour.draw_factor(key, amount))
    assert low <= got.min() < low + 0.02
    assert high - 0.02 < got.max() <= high
    assert abs(got.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * 2000)
