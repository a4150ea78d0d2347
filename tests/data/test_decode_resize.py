"""decode.resize against kernels in plain NumPy, geometry worked out by hand, and memory."""

import math
import resource
import sys

import numpy as np
import pytest
from PIL import Image

from imgclass.data import decode as d

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 13, 3), np.uint8)


def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def triangle(x):
    return max(0.0, 1 - abs(x))


def cubic(x):  # Keys (1981), a = -1/2
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def lanczos3(x):
    def sinc(t):
        return 1.0 if t == 0 else math.sin(math.pi * t) / (math.pi * t)

    return sinc(x) * sinc(x / 3) if abs(x) < 3 else 0.0


def weights(n_in, n_out, kernel):
    """f64[n_out, n_in]: the kernel, widened by the shrink factor, around each output's centre."""
    scale = n_in / n_out
    out = np.zeros((n_out, n_in))
    for i in range(n_out):
        for j in range(n_in):
            out[i, j] = kernel((j + 0.5 - (i + 0.5) * scale) / max(scale, 1.0))
    return out / out.sum(1, keepdims=True)


def reference(image, size, kernel):
    tall, wide = weights(image.shape[0], size[0], kernel), weights(image.shape[1], size[1], kernel)
    out = np.einsum("ij,jkc,lk->ilc", tall, image.astype(float), wide)
    return np.clip(np.floor(out + 0.5), 0, 255)


KERNELS = {"bilinear": triangle, "bicubic": cubic, "lanczos": lanczos3}


@pytest.mark.parametrize("size", [(9, 13), (5, 7), (20, 20), (18, 4), (3, 40), (1, 1)])
@pytest.mark.parametrize("name", KERNELS)
def test_stretch_is_the_widened_kernel(name, size):
    got, kernel = d.resize(NOISE, size, interpolation=name), KERNELS[name]
    # Each pass rounds and clips to 8 bits, and 'bicubic' and 'lanczos' overshoot, so the order
    # of the passes shows: rows first only where the picture widens and shortens.
    first = (size[0], 13) if size[1] > 13 and size[0] < 9 else (9, size[1])
    expected = reference(reference(NOISE, first, kernel), size, kernel)
    assert np.abs(got - expected).max() <= 1


def test_halving_by_hand():
    # Bilinear halving weighs (1, 3, 3, 1)/8; cut to (3, 3, 1)/7 at the edge.
    # (0 + 3 x 80 + 160)/7 = 57.1; (80 + 3 x 160 + 3 x 240 + 0)/8 = 160; (240 + 0 + 240)/7 = 68.6
    row = np.array([0, 80, 160, 240, 0, 80], np.uint8)[None, :, None]
    got = d.resize(row, (1, 3))[0, :, 0]
    assert got.tolist() == [57, 160, 69]


def test_nearest_takes_the_pixel_under_each_centre():
    got = d.resize(NOISE, (3, 26), interpolation="nearest")
    np.testing.assert_array_equal(got, NOISE[[1, 4, 7]][:, np.repeat(np.arange(13), 2)])


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("name", ["nearest", *KERNELS])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_a_flat_picture_stays_flat(how, name, channels):
    colour = np.arange(channels, dtype=np.uint8) * 50 + 7
    flat = np.broadcast_to(colour, (11, 37, channels))
    got = d.resize(flat, (24, 17), how, name, crop_fraction=0.9)
    assert got.shape == (24, 17, channels)
    assert got.dtype == np.uint8
    # pad: 37 wide to 17 is 11 high to 5.05, so 5 rows from (24 - 5) // 2 = 9.
    inside = got[9:14] if how == "pad" else got
    np.testing.assert_array_equal(inside, np.broadcast_to(colour, inside.shape))


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_the_right_size_is_left_alone(how):
    np.testing.assert_array_equal(d.resize(NOISE, (9, 13), how, "lanczos"), NOISE)


@pytest.mark.parametrize(
    ("source", "size", "fraction", "scaled", "corner"),
    [
        # 375 -> 256, 500 -> 341.3 -> 341; (341 - 224)/2 = 58.5 -> 58 (even), (256 - 224)/2 = 16
        ((375, 500), (224, 224), 0.875, (256, 341), (16, 58)),
        ((500, 375), (224, 224), 0.875, (341, 256), (58, 16)),
        ((40, 60), (32, 32), 1.0, (32, 48), (0, 8)),
        ((60, 41), (32, 32), 1.0, (46, 32), (7, 0)),  # 46.8
        # cover 32 x 20 / 0.9 = 35.6 x 22.2 -> 36 x 22; width rules: 22/30 > 36/60
        ((60, 30), (32, 20), 0.9, (44, 22), (6, 1)),
        ((10, 10), (32, 20), 1.0, (32, 32), (0, 6)),
        ((35, 32), (32, 32), 1.0, (35, 32), (2, 0)),  # 1.5 -> 2
    ],
)
def test_crop_is_scale_then_cut(source, size, fraction, scaled, corner):
    image = RNG.integers(0, 256, (*source, 3), np.uint8)
    whole = np.asarray(Image.fromarray(image).resize(scaled[::-1], Image.Resampling.BILINEAR))
    expected = whole[corner[0] :, corner[1] :][: size[0], : size[1]]
    got = d.resize(image, size, "crop", crop_fraction=fraction)
    # One level: the same filter, its weights rounded from slightly different sums.
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("source", "size", "inside", "corner"),
    [
        ((2, 4), (8, 8), (4, 8), (2, 0)),
        ((4, 2), (8, 8), (8, 4), (0, 2)),
        ((10, 10), (5, 8), (5, 5), (0, 1)),  # 3 spare columns: 1 left, 2 right
        ((30, 20), (9, 9), (9, 6), (0, 1)),
        ((49, 49), (49, 50), (49, 49), (0, 0)),
        ((300, 1), (10, 10), (10, 1), (0, 4)),
    ],
)
def test_pad_geometry(source, size, inside, corner):
    image = RNG.integers(0, 256, (*source, 3), np.uint8)
    got = d.resize(image, size, "pad", pad_value=77)
    expected = np.full((*size, 3), 77, np.uint8)
    rows, columns = slice(corner[0], corner[0] + inside[0]), slice(corner[1], corner[1] + inside[1])
    expected[rows, columns] = d.resize(image, inside)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_a_line_of_a_hundred_thousand_pixels(how, turned):
    line = (np.arange(100_000) * 256 // 100_000).astype(np.uint8)[None, :, None]
    got = d.resize(line.transpose(1, 0, 2) if turned else line, (224, 224), how)[:, :, 0]
    got = got.T if turned else got
    # stretch: column i is the ramp at (i + .5)/224. crop: 224 columns of 25.6 million scaled
    # by 256, that is the middle of the ramp. pad: one row, 111 = (224 - 1) // 2 rows down.
    ramp = 256 * (np.arange(224) + 0.5) / 224 - 0.5
    if how == "crop":
        assert set(np.unique(got)) <= {127, 128}
        return
    rows = got if how == "stretch" else got[111:112]
    assert np.abs(rows - ramp[None, :]).max() <= 1
    assert how == "stretch" or got[112:].max() == 0


@pytest.mark.parametrize("shape", [(900_000, 1), (1, 900_000), (3_000_000, 1), (1, 3_000_000)])
def test_memory_stays_near_that_of_the_source(shape):
    # Widening first would pass through 224 x 900,000 pixels, 0.2 GB.
    # The filter alone, 6 weights of 8 bytes a pixel, is 43 MB, or 144 MB at 3,000,000 pixels.
    line = np.full((*shape, 1), 9, np.uint8)
    memory = peak_bytes()
    for how in ("stretch", "crop", "pad"):
        got = d.resize(line, (224, 224), how, "lanczos", pad_value=9)
        np.testing.assert_array_equal(got, np.full((224, 224, 1), 9))
    assert peak_bytes() - memory < 100_000_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "squash"}, "resize='squash'"),
        ({"interpolation": "area"}, "interpolation='area'"),
        ({"size": (0, 4)}, "size="),
        ({"how": "crop", "crop_fraction": 0.0}, "crop_fraction=0.0"),
        ({"how": "crop", "crop_fraction": 1.1}, "crop_fraction=1.1"),
        ({"how": "pad", "pad_value": 256}, "pad_value=256"),
        ({"image": NOISE[:, :, 0]}, "expected uint8"),
        ({"image": NOISE.astype(np.float32)}, "expected uint8"),
    ],
)
def test_resize_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        d.resize(**{"image": NOISE, "size": (4, 4), **arguments})
