"""Bilinear resampling without antialiasing: two pixels a direction, with OpenCV and without."""

import tracemalloc

import jax
import numpy as np
import pytest

from imgclass.data import aliased, decode, installed
from imgclass.data.preprocess import Preprocess


@pytest.fixture(params=["with OpenCV", "without"])
def either(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(installed, "opencv", lambda: None)
    elif installed.opencv() is None:
        pytest.skip("no OpenCV")


def by_formula(image, size, box):
    """Pixel centres lie at halves; beyond the picture its border goes on. In float64."""
    left, top, right, bottom = box

    def along(axis, start, end, out):
        length = image.shape[axis]
        at = start + (np.arange(out) + 0.5) * (end - start) / out - 0.5
        places = np.arange(length)
        # A tent of one pixel each way, whatever the scale: that is what 'not antialiased' means.
        return np.maximum(0, 1 - np.abs(at.clip(0, length - 1)[:, None] - places))

    rows, columns = along(0, top, bottom, size[0]), along(1, left, right, size[1])
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns)


def test_values_by_hand(either):
    row = np.array([[0, 100, 200, 40, 60, 80, 10, 250]], np.uint8)[:, :, None]
    # By 4 the places are 1.5 and 5.5: between pixels 1 and 2, 5 and 6. The others do not count.
    np.testing.assert_array_equal(aliased.sample(row, (1, 2), (0, 0, 8, 1))[0, :, 0], [150, 45])
    # By 8/3: 5/6, 3.5, 6 + 1/6; weights are of 256: 213/256 of 100, 50, 43/256 between 10 and 250.
    np.testing.assert_array_equal(aliased.sample(row, (1, 3), (0, 0, 8, 1))[0, :, 0], [83, 50, 50])
    # Twice as large: a quarter and three quarters, and the border goes on.
    pair = np.array([[0], [200]], np.uint8)[:, :, None]
    np.testing.assert_array_equal(
        aliased.sample(pair, (4, 1), (0, 0, 1, 2))[:, 0, 0], [0, 50, 150, 200]
    )


def test_any_size_is_within_rounding_of_the_formula(either):
    random = np.random.default_rng(0)
    for _ in range(200):
        h, w, out_h, out_w = (int(n) for n in random.integers(1, 60, 4))
        image = random.integers(0, 256, (h, w, int(random.choice([1, 3]))), np.uint8)
        made = aliased.sample(image, (out_h, out_w), (0, 0, w, h))
        assert (made.dtype, made.shape) == (np.uint8, (out_h, out_w, image.shape[2]))
        expected = by_formula(image, (out_h, out_w), (0, 0, w, h))
        assert np.abs(made - expected).max() < 0.5 + 2 * 255 / 512  # of the result, of two weights


def test_a_box_between_pixels_sees_those_beyond_it(either):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    box = (2.25, 3.5, 27.75, 18.5)
    made, expected = aliased.sample(image, (7, 9), box), by_formula(image, (7, 9), box)
    assert np.abs(made - expected).max() < 1.5


def test_jax_without_antialiasing_takes_the_same_samples(either):
    random = np.random.default_rng(4)
    for h, w, out_h, out_w in ((40, 50, 13, 17), (20, 20, 41, 9), (31, 7, 31, 5)):
        image = random.integers(0, 256, (h, w, 3), np.uint8)
        made = aliased.sample(image, (out_h, out_w), (0, 0, w, h))
        expected = jax.image.resize(
            image.astype(np.float32), (out_h, out_w, 3), "bilinear", antialias=False
        )
        assert np.abs(made - np.asarray(expected)).max() < 1.5


@pytest.mark.skipif(installed.opencv() is None, reason="no OpenCV")
def test_opencv_changes_no_bit(monkeypatch):
    random = np.random.default_rng(2)
    cases = []
    for h, w in [*random.integers(1, 200, (100, 2)).tolist(), (1, 40_000), (40_000, 1), (1, 1)]:
        image = random.integers(0, 256, (h, w, int(random.choice([1, 3]))), np.uint8)
        size = tuple(random.integers(1, 200, 2).tolist())
        cases.append((image, size, aliased.sample(image, size, (0, 0, w, h))))
    monkeypatch.setattr(installed, "opencv", lambda: None)
    for image, size, made in cases:
        box = (0, 0, image.shape[1], image.shape[0])
        np.testing.assert_array_equal(aliased.sample(image, size, box), made, strict=True)


def test_memory_follows_source_and_result(either):
    wide = np.zeros((1, 2_000_000, 3), np.uint8)
    for image, size, how in ((wide, (64, 64), "crop"), (wide[:, :1], (1000, 1000), "stretch")):
        tracemalloc.start()
        decode.resize(image, size, how, "bilinear_aliased")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * 2**20  # rows of 64 such pictures are 384 MB, sums of a million 12 bytes


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_pictures_are_prepared_with_it(either, how):
    image = np.random.default_rng(3).integers(0, 256, (37, 50, 3), np.uint8)
    keys = {"image_size": (12, 12), "resize": how, "crop_fraction": 0.8}
    plain = Preprocess(**keys, interpolation="bilinear").load(image)
    made = Preprocess(**keys, interpolation="bilinear_aliased").load(image)
    assert made.shape == (12, 12, 3)
    assert (made != plain).mean() > 0.5
    # Of another number of channels, each is done by itself.
    two = decode.resize(image[:, :, :2], (12, 12), how, "bilinear_aliased", 0.8)
    np.testing.assert_array_equal(two, made[:, :, :2])
