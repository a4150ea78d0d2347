"""Warps against Pillow's `transform` and `rotate`, and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgclass.data import warp

SIZE = (33, 40)
FILL = (10, 20, 30)
AMOUNTS = ("shear_x", "shear_y", "right", "down", "degrees")


@functools.cache
def program(interpolation):
    def change(image, amounts):
        affine = warp.matrix(SIZE, **dict(zip(AMOUNTS, amounts, strict=True)))
        return warp.warp(image, affine, jnp.array(FILL, jnp.float32), interpolation)

    return jax.jit(change)


def warped(pixels, interpolation="nearest", **amount):
    amounts = jnp.array([amount.get(name, 0.0) for name in AMOUNTS], jnp.float32)
    return np.asarray(program(interpolation)(jnp.asarray(pixels, jnp.float32), amounts))


def noise():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_nothing_changes_no_bit(interpolation):
    np.testing.assert_array_equal(warped(noise(), interpolation), noise())


def test_a_shift_is_a_slice_and_the_rest_is_filled():
    got = warped(noise(), right=3.0)
    np.testing.assert_array_equal(got[:, 3:], noise()[:, :-3])
    assert (got[:, :3] == FILL).all()
    got = warped(noise(), "bilinear", down=-5.0)
    np.testing.assert_array_equal(got[:-5], noise()[5:])
    assert (got[-5:] == FILL).all()


def test_a_half_pixel_shift_is_the_mean_of_neighbours():
    got = warped(noise(), "bilinear", right=-0.5)
    mean = (noise()[:, :-1].astype(float) + noise()[:, 1:]) / 2
    np.testing.assert_allclose(got[:, :-1], mean, atol=1e-3)
    assert (got[:, -1] == FILL).all()  # its place, 39.5 + 0.5, is no longer inside
    # Nearer than half a pixel to the edge there is no neighbour, and no blend with the fill.
    got = warped(noise(), "bilinear", right=-0.4)
    np.testing.assert_array_equal(got[:, -1], noise()[:, -1])


def test_half_a_turn_is_both_mirrors():
    got = warped(noise(), degrees=180.0)
    # cos and sin of 180 degrees are off by 9e-8, which only places on an edge could notice.
    np.testing.assert_array_equal(got, noise()[::-1, ::-1])


@pytest.mark.parametrize(
    ("name", "amount", "pillows"),
    [
        ("shear_x", 0.3, lambda a: (1, a, 0, 0, 1, 0)),
        ("shear_x", -0.99, lambda a: (1, a, 0, 0, 1, 0)),
        ("shear_y", 0.17, lambda a: (1, 0, 0, a, 1, 0)),
        ("right", 7.0, lambda a: (1, 0, -a, 0, 1, 0)),
        ("right", -3.37, lambda a: (1, 0, -a, 0, 1, 0)),
        ("down", 4.83, lambda a: (1, 0, 0, 0, 1, -a)),
        ("degrees", 27.0, None),
        ("degrees", -134.0, None),
    ],
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_warps_are_pillows(name, amount, pillows, interpolation):
    picture = Image.fromarray(noise())
    how = Image.Resampling[interpolation.upper()]
    if pillows is None:
        expected = picture.rotate(amount, resample=how, fillcolor=FILL)
    else:
        expected = picture.transform(
            picture.size, Image.Transform.AFFINE, pillows(amount), resample=how, fillcolor=FILL
        )
    off = np.abs(np.floor(warped(noise(), interpolation, **{name: amount})) - np.asarray(expected))
    # Where a place falls on an edge between pixels, or a value on a whole level, float32 here and
    # fixed point or float64 there may part: one level of few values, or one pixel in a thousand.
    if interpolation == "bilinear":
        assert off.max() <= 1
        assert (off > 0).mean() < 0.02
    else:
        assert (off > 0).mean() < 0.002
