"""Contrast, pixelate, JPEG and saturation by Pillow and colorsys; elastic by its parts."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from imgclass.evaluate.corruptions import corrupt, digital

PICTURE = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)


def random(n=1):
    return [np.random.default_rng(i) for i in range(n)]


def test_contrast_by_hand():
    # Levels 0, 0, 0, 200 have mean 50; of the distances a tenth is left: 45 and 65.
    x = np.array([0, 0, 0, 200], np.float32).reshape(1, 2, 2, 1)
    made = digital.contrast(x, 0.1, random())
    np.testing.assert_allclose(made.ravel(), [45, 45, 45, 65], rtol=1e-6)


@pytest.mark.parametrize(("severity", "quality"), [(1, 65), (3, 50), (5, 25)])
def test_jpeg_is_pillows_at_that_quality(severity, quality):
    file = io.BytesIO()
    Image.fromarray(PICTURE[0]).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file))
    made = corrupt(PICTURE, "jpeg_compression", severity, 0, [0])
    np.testing.assert_array_equal(made[0], expected)


def test_pixelate_averages_boxes():
    # At severity 5 half the side is left, so each 2x2 block becomes its mean.
    made = corrupt(PICTURE, "pixelate", 5, 0, [0])[0]
    blocks = PICTURE[0].reshape(32, 2, 32, 2, 3).mean((1, 3))
    # Pillow rounds after the rows and after the columns.
    assert np.abs(made[::2, ::2] - blocks).max() <= 1
    np.testing.assert_array_equal(made[::2, ::2], made[1::2, 1::2])


@pytest.mark.parametrize(("factor", "added"), [(0.3, 0), (2, 0), (5, 0.1)])
def test_saturation_of_hsv(factor, added):
    x = PICTURE[:, :4, :4].astype(np.float32) / 255
    x[0, 0, 0] = 0.5  # grey, whose hue is that of red
    x[0, 0, 1] = 0.0
    made = digital.saturate(x, (factor, added), random())
    for i in range(4):
        for j in range(4):
            hue, saturation, value = colorsys.rgb_to_hsv(*map(float, x[0, i, j]))
            expected = colorsys.hsv_to_rgb(hue, min(saturation * factor + added, 1), value)
            np.testing.assert_allclose(made[0, i, j], expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0])
def test_smoothed_is_scipys_gaussian_filter(sigma):
    fields = np.random.default_rng(0).uniform(-1, 1, (2, 24, 31))
    expected = [ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) for f in fields]
    made = digital.smoothed(fields.astype(np.float32), sigma)
    np.testing.assert_allclose(made, expected, atol=2e-6)


def test_three_points_go_where_they_were_moved():
    moves = np.array([(2.0, -1.0), (0.5, 3.0), (-2.0, 1.5)])
    matrix = digital._affine(30, 36, moves)
    before = np.array([(25, 28), (25, 8), (5, 8)])  # a third of 30 from (15, 18)
    for place, move in zip(before, moves, strict=True):
        np.testing.assert_allclose(matrix @ [*(place + move), 1], place, atol=1e-9)


def test_elastic_without_moves_is_the_picture():
    x = PICTURE.astype(np.float32) / 255
    np.testing.assert_allclose(digital.elastic(x, (0, 0, 0), random()), x, atol=1e-5)


def test_elastic_samples_where_its_displacement_says():
    # A ramp of columns: with the points held, a pixel shows its column plus its shift right.
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32)[None, None, :, None], (1, 32, 32, 1))
    made = digital.elastic(ramp.copy(), (0.1, 0.1, 0.0), random())
    again = np.random.default_rng(0)
    again.uniform(0, 0, (3, 2))
    field = again.uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    shift = 3.2 * ndimage.gaussian_filter(field[1], 3.2, mode="reflect", truncate=3)
    expected = np.arange(32)[None, :] + shift
    inner = slice(2, 30)  # away from the mirrored borders
    np.testing.assert_allclose(made[0, inner, inner, 0], expected[inner, inner], atol=1e-3)
