"""Blurs by kernels: a point shows the kernel; and glass by the loop that the paper describes."""

import numpy as np
import pytest
from scipy import ndimage

from imgclass.evaluate.corruptions import blur, movement


def point(size=41):
    x = np.zeros((1, size, size, 1), np.float32)
    x[0, size // 2, size // 2] = 1
    return x


def random(n=1):
    return [np.random.default_rng(i) for i in range(n)]


PICTURES = np.random.default_rng(3).random((2, 24, 30, 3)).astype(np.float32)


@pytest.mark.parametrize("how", [row for rows in blur.DEFOCUS.values() for row in rows])
def test_a_disk_adds_up_to_one(how):
    kernel = blur.disk(*how)
    assert kernel.sum() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-9)


def test_a_disk_of_radius_3_has_29_pixels():
    # x^2 + y^2 <= 9: rows of 1, 5, 5, 7, 5, 5, 1. With an edge of 0.1 nothing is smoothed.
    kernel = blur.disk(3, 0.1)
    rows = [n for n in (kernel > 1e-6).sum(axis=1) if n]
    assert rows == [1, 5, 5, 7, 5, 5, 1]
    np.testing.assert_allclose(kernel[kernel > 1e-6], 1 / 29, rtol=1e-5)


def test_a_disk_below_one_pixel_is_the_gaussian_that_smooths_it():
    # exp(-1 / (2 * 0.4^2)) = 0.0439369; with both sides 1.0878738; (1 / that)^2 = 0.844973.
    assert blur.disk(0.3, 0.4).max() == pytest.approx(0.844973, rel=1e-5)


def test_defocus_spreads_a_point_over_the_disk():
    made = blur.defocus(point(), (3, 0.1), random())[0, :, :, 0]
    assert (made > 1e-4).sum() == 29
    assert made.sum() == pytest.approx(1, rel=1e-5)


def test_defocus_by_scipy():
    kernel = blur.disk(2.5, 0.01)[None, :, :, None]
    expected = ndimage.convolve(PICTURES.astype(np.float64), kernel, mode="mirror")
    made = blur.defocus(PICTURES, (2.5, 0.01), random(2))
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_gaussian_has_its_deviation():
    made = blur.gaussian(point(), 2.0, random())[0, :, :, 0]
    rows = np.arange(41) - 20
    assert made.sum() == pytest.approx(1, rel=1e-5)
    assert (made.sum(1) * rows**2).sum() ** 0.5 == pytest.approx(2.0, rel=0.01)  # cut off at 8


def looped(picture, reach, times, moves):
    """The published loop, its effect on values written out: from the far corner, pixel by pixel."""
    x = picture.copy()
    h, w = x.shape[:2]
    for turn in range(times):
        for i in range(h - reach, reach, -1):
            for j in range(w - reach, reach, -1):
                down, right = moves[turn][:, i, j]
                x[i, j] = x[i + down, j + right]
    return x


@pytest.mark.parametrize(("reach", "times"), [(1, 1), (2, 3), (4, 2)])
def test_glass_is_the_loop_pixel_by_pixel(reach, times):
    # A blur of deviation 0.05 leaves pictures as they are.
    made = blur.glass(PICTURES, (0.05, reach, times), random(2))
    for row in range(2):
        again = np.random.default_rng(row)
        moves = [again.integers(-reach, reach, (2, 24, 30)) for _ in range(times)]
        np.testing.assert_array_equal(made[row], looped(PICTURES[row], reach, times, moves))


@pytest.mark.parametrize("degrees", [-45, -20, 0, 30, 45, -135])
def test_a_motion_kernel_is_half_a_gaussian_on_a_line(degrees):
    weights, places = movement.motion_kernel(10, 3, degrees)
    assert len(weights) == 21
    assert weights.sum() == pytest.approx(1, rel=1e-6)
    assert weights[3] / weights[0] == pytest.approx(np.exp(-0.5), rel=1e-5)
    down, right = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    away = places - np.arange(21)[:, None] * np.array([down, right])
    assert np.abs(away).max() <= 0.5 + 1e-9


def test_motion_along_a_row():
    made = movement.motion(point(), 6, 1.5, [0.0])[0, :, :, 0]
    expected = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    # A pixel looks to its right: the point is seen from its left.
    np.testing.assert_allclose(made[20, 8:21], (expected / expected.sum())[::-1], atol=1e-6)
    assert np.count_nonzero(made.sum(1)) == 1


def test_motion_leaves_flat_pictures():
    flat = np.full((1, 9, 7, 3), 0.25, np.float32)
    np.testing.assert_allclose(movement.motion(flat, 15, 8, [33.0]), flat, rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.3, 4.5])
@pytest.mark.parametrize("size", [32, 64])
def test_zoomed_is_scipys_zoom_of_the_middle(factor, size):
    x = np.random.default_rng(0).random((1, size, size, 2)).astype(np.float32)
    kept = int(np.ceil(size / factor))
    first = (size - kept) // 2
    middle = x[0, first : first + kept, first : first + kept].astype(np.float64)
    wide = ndimage.zoom(middle, (factor, factor, 1), order=1)
    trim = (wide.shape[0] - size) // 2
    expected = wide[trim : trim + size, trim : trim + size]
    np.testing.assert_allclose(movement.zoomed(x, factor)[0], expected, atol=1e-5)


def test_zoom_averages_and_counts_the_picture_twice():
    expected = PICTURES + sum(movement.zoomed(PICTURES, f) for f in (1.0, 1.1, 1.2))
    made = blur.zoom(PICTURES, (1.25, 0.1), random(2))
    np.testing.assert_allclose(made, expected / 4, atol=1e-6)
