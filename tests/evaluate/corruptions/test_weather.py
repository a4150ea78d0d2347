"""Weather: the parts that formulas fix, and the landscape of fog."""

import colorsys

import numpy as np
import pytest

from imgclass.evaluate.corruptions import weather

PICTURES = np.random.default_rng(5).random((2, 16, 16, 3)).astype(np.float32)


def random(n=2):
    return [np.random.default_rng(i) for i in range(n)]


def test_brightness_raises_the_value_of_hsv():
    made = weather.brightness(PICTURES, 0.2, random())
    for i, j in ((0, 0), (3, 9), (15, 2)):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, PICTURES[0, i, j]))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(made[0, i, j], expected, rtol=1e-4)


def test_brightness_makes_black_grey():
    black = np.zeros((1, 2, 2, 3), np.float32)
    np.testing.assert_allclose(weather.brightness(black, 0.3, random(1)), 0.3, rtol=1e-6)


def test_fog_of_a_flat_picture():
    # A plasma runs from 0 to 1, and 0.5 is the brightest: (0.5 + 1.5 p) * 0.5 / 2, 0.125 to 0.5.
    flat = np.full((2, 16, 16, 3), 0.5, np.float32)
    made = weather.fog(flat, (1.5, 2), random())
    assert made.min() == pytest.approx(0.125, rel=1e-5)
    assert made.max() == pytest.approx(0.5, rel=1e-5)


def test_a_plasma_by_the_loop():
    # Side 4, by hand: middle of all, the edges' middles, and the same for squares of 2.
    side, decay, again = 4, 1.5, np.random.default_rng(0)
    z = np.zeros((side, side))
    amplitude, step = 1.0, side
    while step > 1:
        half = step // 2
        count = side // step
        draws = [again.uniform(-amplitude, amplitude, (count, count)) for _ in range(3)]
        corner = [(i, j) for i in range(0, side, step) for j in range(0, side, step)]
        for i, j in corner:
            ring = [z[(i + a) % side, (j + b) % side] for a in (0, step) for b in (0, step)]
            z[i + half, j + half] = sum(ring) / 4 + draws[0][i // step, j // step]
        new = z.copy()
        for draw, down, right in ((draws[1], 0, half), (draws[2], half, 0)):
            for i, j in corner:
                at, to = i + down, j + right
                ring = [z[(at + a) % side, (to + b) % side]
                        for a, b in ((half, 0), (-half, 0), (0, half), (0, -half))]  # fmt: skip
                new[at, to] = sum(ring) / 4 + draw[i // step, j // step]
        z = new
        amplitude, step = amplitude / decay**2, half
    expected = (z - z.min()) / (z.max() - z.min())
    made = weather.plasma(side, decay, np.random.default_rng(0))
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-7)


def test_a_faster_decay_is_smoother():
    rough, smooth = (weather.plasma(64, decay, np.random.default_rng(0)) for decay in (1.4, 3.0))
    assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(rough)).mean()


def test_frost_has_the_mean_of_one_of_the_photographs():
    # Black under a weight of 1 shows the frost itself. Levels of 255, and at most 2 cut off.
    black = np.zeros((12, 64, 64, 3), np.float32)
    made = 255 * weather.frost(black, (1, 1), random(12))
    photographs = [(77.7, 149.1, 165.7), (200.8, 205.4, 214.5), (137.6, 152.8, 165.2),
                   (112.4, 123.4, 134.8)]  # fmt: skip
    found = set()
    for mean in made.mean((1, 2)):
        away = [np.abs(mean - photo).max() for photo in photographs]
        assert min(away) < 2
        found.add(int(np.argmin(away)))
    assert len(found) > 1


def test_snow_falls_on_black_and_whitens():
    black = np.zeros((2, 64, 64, 3), np.float32)
    how = (0.1, 0.3, 1, 0.6, 8, 3, 0.8)
    made = weather.snow(black, how, random())
    # Black becomes 0.2 * (1.5 * 0 + 0.5) = 0.1 grey, and flakes are added.
    assert made.min() == pytest.approx(0.1, rel=1e-5)
    assert made.max() > 0.3
    # Flakes, and the same turned by half a circle.
    np.testing.assert_allclose(made, made[:, ::-1, ::-1], atol=1e-6)
