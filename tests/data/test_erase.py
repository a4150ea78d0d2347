"""Cutout against squares drawn by hand, random erasing by its statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.data import erase
from tests.data.pictures import every, many_keys


@functools.cache
def cutouts():
    """Cuts a side out of a 4 x 5 picture, for 2000 keys; one program for every side."""
    image, fill = jnp.zeros((4, 5, 1), jnp.float32), jnp.ones(1, jnp.float32)
    one = jax.vmap(lambda key, side: erase.cutout(image, key, side, fill), (0, None))
    return jax.jit(functools.partial(one, many_keys()))


@pytest.mark.parametrize("side", [1, 2, 3, 20])
def test_cutout_is_a_clipped_square_about_any_pixel(side):
    h, w = 4, 5
    got = np.asarray(cutouts()(jnp.int32(side)))[..., 0]
    expected = set()
    for y, x in np.ndindex(h, w):
        square = np.zeros((h, w), np.float32)
        top, left = y - side // 2, x - side // 2
        square[max(top, 0) : top + side, max(left, 0) : left + side] = 1
        expected.add(square.tobytes())
    assert {one.tobytes() for one in got} == expected


def test_cutout_fills_with_the_colour_given():
    fill = jnp.array([0.1, 0.2, 0.3], jnp.float32)
    got = erase.cutout(jnp.ones((4, 4, 3), jnp.float32), jax.random.key(0), 9, fill)
    np.testing.assert_array_equal(got, np.broadcast_to(np.asarray(fill), (4, 4, 3)))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_cutout_inside_is_a_whole_square_anywhere_equally_often(side):
    image, fill = jnp.zeros((4, 5, 1), jnp.float32), jnp.ones(1, jnp.float32)
    got = every(lambda key: erase.cutout(image, key, side, fill, inside=True))[..., 0]
    places = (5 - side) * (6 - side)
    counts = []
    for top, left in np.ndindex(5 - side, 6 - side):
        square = np.zeros((4, 5), np.float32)
        square[top : top + side, left : left + side] = 1
        counts.append((got == square).all(axis=(1, 2)).sum())
    assert sum(counts) == 2000
    deviation = np.sqrt(2000 / places * (1 - 1 / places))
    assert np.abs(np.array(counts) - 2000 / places).max() < 4 * deviation


@functools.cache
def erasing():
    """Erases from a 40 x 30 picture for 2000 keys; one program for all settings."""
    image, fill = jnp.zeros((40, 30, 1), jnp.float32), jnp.ones(1, jnp.float32)

    def one(key, probability, scale, ratio):
        return erase.random_erasing(image, key, probability, scale, ratio, fill)

    return jax.jit(jax.vmap(one, (0, None, None, None)))


def erased(probability=1.0, scale=(0.02, 0.33), ratio=(0.3, 3.3)):
    """Which pixels are erased, bool[2000, 40, 30]; each has to be one rectangle."""
    settings = (jnp.array(value, jnp.float32) for value in (probability, scale, ratio))
    mask = np.asarray(erasing()(many_keys(), *settings))[..., 0] == 1
    assert (mask == mask.any(axis=2)[:, :, None] & mask.any(axis=1)[:, None, :]).all()
    for line in (mask.any(axis=2), mask.any(axis=1)):
        assert (np.abs(np.diff(line.astype(int), axis=1)).sum(axis=1) <= 2).all()
    return mask


def test_erased_areas_are_uniform_and_shapes_log_uniform():
    # Up to a fifth of the area at up to 1:2 a rectangle has sides of up to 21.9.
    mask = erased(scale=(0.05, 0.2), ratio=(0.5, 2.0))
    heights, widths = mask.any(axis=2).sum(axis=1), mask.any(axis=1).sum(axis=1)
    shares = heights * widths / 1200
    # Sides are rounded, which moves an area of s by up to (h + w) / 2 pixels.
    for values, low, high in (
        (shares, 0.05, 0.2),
        (np.log(heights / widths) / np.log(2.0), -1.0, 1.0),
    ):
        quarters, _ = np.histogram(np.clip(values, low, high), bins=4, range=(low, high))
        # 500 each, standard deviation 19.4, and the rounding.
        assert np.abs(quarters - 500).max() < 120
    # Anywhere it fits: the centre is that of the picture on average.
    rows = (mask.any(axis=2) * np.arange(40)).sum(axis=1) / heights
    assert abs(rows.mean() - 19.5) < 1.0


def test_erasing_happens_as_often_as_asked():
    count = erased(probability=0.25).any(axis=(1, 2)).sum()
    assert abs(count - 500) < 4 * np.sqrt(2000 * 0.25 * 0.75)


def test_a_rectangle_as_large_as_the_picture_is_not_used():
    assert not erased(scale=(1.0, 1.0), ratio=(1.0, 1.0)).any()
    # 0.9 of 40 x 30 is 32.9 square: wider than the picture; at height / width of 1.5, 40.2 high.
    assert not erased(scale=(0.9, 0.9), ratio=(1.0, 1.0)).any()


def test_erasing_with_noise_draws_every_pixel_and_channel():
    def one(key):
        image = jnp.full((40, 30, 3), 2.0, jnp.float32)
        return erase.random_erasing(image, key, 1.0, (0.3, 0.3), (1.0, 1.0), None)

    got = np.asarray(jax.jit(jax.vmap(one))(many_keys()[:20]))
    noise = got[got != 2.0]
    assert noise.size == 20 * 19 * 19 * 3  # 0.3 of 1200 is 18.97 square
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 4 / np.sqrt(12 * noise.size)
    assert len(np.unique(noise)) > 0.99 * noise.size
