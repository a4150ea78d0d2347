"""Crops and mirrors against hand numbers and NumPy loops."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.data import crop
from imgclass.errors import UsageError
from tests.data.pictures import every, pictures, run


def test_center_crop_by_hand():
    image = jnp.arange(30.0).reshape(5, 6, 1)
    np.testing.assert_array_equal(
        crop.center_crop(image, (3, 2))[..., 0], [[8, 9], [14, 15], [20, 21]]
    )
    # An odd spare row stays below: rows 0 to 3 of 5.
    np.testing.assert_array_equal(crop.center_crop(image, (4, 6)), image[:4])


def test_a_larger_load_size_is_cropped_to_its_centre():
    images = pictures(2, 10, 12)
    got, _ = run(images, {}, out_size=(8, 8))
    np.testing.assert_array_equal(got, images[:, 1:9, 2:10])


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_pad_crop_gives_every_window_and_no_other(mode):
    image = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3, 1) / 10
    if mode == "constant":
        padded = np.zeros((5, 5, 1), np.float32)
        padded[1:4, 1:4] = image
    else:
        # Row 0 is the picture's second row, and so on: 5 4 5 6 5 / 2 1 2 3 2 / ...
        padded = image[[1, 0, 1, 2, 1]][:, [1, 0, 1, 2, 1]]
    windows = [padded[t : t + 3, x : x + 3] for t, x in itertools.product(range(3), range(3))]
    got = every(lambda k: crop.pad_crop(jnp.asarray(image), k, 1, mode, (3, 3)))
    counts = [int((got == window).all(axis=(1, 2, 3)).sum()) for window in windows]
    assert sum(counts) == 2000
    # 222 expected, standard deviation 14: within 4 of them.
    assert min(counts) > 166
    assert max(counts) < 278


def test_pad_crop_pads_with_black():
    image = jnp.ones((1, 1, 3), jnp.float32)
    got = crop.pad_crop(image, jax.random.key(0), 1, "constant", (3, 3))
    expected = np.zeros((3, 3, 3), np.float32)
    expected[1, 1] = 1.0
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("changes", "out_size", "message"),
    [
        ({}, (9, 8), r"data\.image_size is 9x8 but the picture to crop it from is 8x8"),
        ({"pad_crop": 1}, (8, 11), r"data\.image_size is 8x11 .* is 10x10"),
    ],
)
def test_impossible_crops_are_refused(changes, out_size, message):
    with pytest.raises(UsageError, match=message):
        run(pictures(2), changes, out_size=out_size)


# --- Random resized crop ---


def test_resized_crop_of_the_whole_picture_is_the_picture():
    images = pictures(4, 9, 9)
    changes = {"random_resized_crop": True, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    got, _ = run(images, changes, out_size=(9, 9))
    np.testing.assert_allclose(got, images, atol=1e-6)


def boxes(size, scale, ratio):
    got = every(lambda key: crop.draw_box(key, size, scale, ratio))
    top, left, height, width = got.T.astype(np.float64)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size[0] * (1 + 1e-6)).all()
    assert (left + width <= size[1] * (1 + 1e-6)).all()
    return top, left, height, width


def test_box_area_is_uniform_and_ratio_log_uniform():
    # At most 0.3 of the area and twice as wide as high, a box always fits in 40 x 40.
    top, left, height, width = boxes((40, 40), (0.1, 0.3), (0.5, 2.0))
    share = height * width / 1600
    place = np.log(width / height) / math.log(2)
    for values, low, high in ((share, 0.1, 0.3), (place, -1, 1), (top / (40 - height), 0, 1)):
        assert values.min() >= low - 1e-5
        assert values.max() <= high + 1e-5
        quarters, _ = np.histogram(values, bins=4, range=(low - 1e-5, high + 1e-5))
        # 500 each, standard deviation 19.4.
        assert np.abs(quarters - 500).max() < 80
    assert abs(np.corrcoef(top / (40 - height), left / (40 - width))[0, 1]) < 0.09


def test_a_box_that_does_not_fit_is_shrunk_at_its_ratio():
    # The whole area of 10 x 40 as a square would be 20 x 20: it becomes 10 x 10.
    top, left, height, width = boxes((10, 40), (1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(height, 10, rtol=1e-6)
    np.testing.assert_allclose(width, 10, rtol=1e-6)
    assert np.abs(top).max() < 1e-5
    assert left.min() < 3
    assert left.max() > 27


resample = jax.jit(crop.resample, static_argnums=2)


def bilinear_loop(image, box, out_size):
    """Triangle filter, widened where it shrinks; each output pixel's weights add to 1."""
    (top, left, height, width), (h, w) = box, image.shape[:2]
    out = np.zeros((*out_size, image.shape[2]))
    step_y, step_x = height / out_size[0], width / out_size[1]
    for i, j in np.ndindex(*out_size):
        centre_y, centre_x = top + (i + 0.5) * step_y, left + (j + 0.5) * step_x
        total = 0.0
        for y, x in np.ndindex(h, w):
            weight = max(0.0, 1 - abs(y + 0.5 - centre_y) / max(step_y, 1.0))
            weight *= max(0.0, 1 - abs(x + 0.5 - centre_x) / max(step_x, 1.0))
            out[i, j] += weight * image[y, x]
            total += weight
        out[i, j] /= total
    return out


@pytest.mark.parametrize(
    "box",
    [(0, 0, 7, 9), (1, 2, 4, 4), (0.3, 1.7, 2.5, 6.2), (4.5, 6, 2.5, 3)],
    ids=["whole", "equal size", "up and down", "corner"],
)
def test_resample_is_a_bilinear_loop(box):
    image = pictures(1, 7, 9)[0]
    got = resample(image, jnp.array(box, jnp.float32), (4, 4))
    np.testing.assert_allclose(got, bilinear_loop(np.asarray(image), box, (4, 4)), atol=2e-6)


def test_resample_of_a_whole_pixel_box_of_equal_size_is_a_slice():
    image = pictures(1, 7, 9)[0]
    got = resample(image, jnp.array([1.0, 2.0, 4.0, 4.0], jnp.float32), (4, 4))
    np.testing.assert_allclose(got, image[1:5, 2:6], atol=1e-6)
