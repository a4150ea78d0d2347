"""Spatter's parts: edges, equalized levels, and the colours that mud and water leave."""

import numpy as np

from imgclass.evaluate.corruptions import spatter


def random(n=2):
    return [np.random.default_rng(i) for i in range(n)]


def test_edges_of_a_square_are_its_outline():
    levels = np.zeros((20, 20))
    levels[6:14, 6:14] = 255
    found = spatter.edges(levels)
    assert found.any()
    rows, columns = np.nonzero(found)
    # Within a pixel of the square's border, and none inside it or away from it.
    assert ((rows >= 5) & (rows <= 14) & (columns >= 5) & (columns <= 14)).all()
    assert not found[8:12, 8:12].any()
    # One pixel thick on each side.
    assert (found[9, :10].sum(), found[9, 10:].sum()) == (1, 1)


def test_weak_edges_count_only_beside_strong_ones():
    # A step of s has a Sobel gradient of 4 s: 80 is between 50 and 150, 400 is above both.
    levels = np.zeros((10, 30))
    levels[:, 5:] += 20
    assert not spatter.edges(levels).any()
    levels[:, 20:] += 100
    found = spatter.edges(levels)
    assert found[:, 18:22].any()
    assert not found[:, :10].any()
    # A step that is strong in its upper half is an edge all the way down.
    levels = np.zeros((10, 30))
    levels[:, 15:] = 20
    levels[:4, 15:] = 100
    assert spatter.edges(levels)[1:9].any(axis=1).all()


def test_equalized_by_hand():
    # 4 of level 3, 1 of level 5, 3 of level 9: 0, 255 * 1/4 = 64 rounded, 255.
    levels = np.array([[3, 3, 3, 3], [5, 9, 9, 9]], np.uint8)
    expected = [[0, 0, 0, 0], [64, 255, 255, 255]]
    np.testing.assert_array_equal(spatter.equalized(levels), expected)
    flat = np.full((2, 2), 7, np.uint8)
    np.testing.assert_array_equal(spatter.equalized(flat), flat)


def test_mud_covers():
    white = np.ones((2, 64, 64, 3), np.float32)
    made = spatter.spatter(white, (0.65, 0.3, 1, 0.65, 1.5, True), random())
    covered = made[..., 0] < 1
    assert 0 < covered.mean() < 0.5
    # There it is between white and (63, 42, 20) of 255, from 0.8 of the way on.
    way = (255 - 255 * made[covered]) / (255 - np.array([63, 42, 20]))
    np.testing.assert_allclose(way, way[:, :1] * np.ones((1, 3)), rtol=1e-5)
    assert 0.8 <= way.min() < way.max() <= 1


def test_water_adds_turquoise_up_to_its_strength():
    black = np.zeros((2, 64, 64, 3), np.float32)
    made = spatter.spatter(black, (0.65, 0.3, 1, 0.69, 0.6, False), random())
    np.testing.assert_allclose(
        made.max((1, 2)) * 255, 0.6 * np.array([[175, 238, 238]] * 2), rtol=1e-4
    )
    assert made.min() >= 0
    assert (made == 0).mean() > 0.2
