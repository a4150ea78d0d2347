"""Noise has the moments that its formula gives, on flat grey where nothing is cut off."""

import numpy as np
import pytest

from imgclass.evaluate.corruptions import noise

GREY = np.full((4, 64, 64, 3), 0.5, np.float32)
SAMPLES = GREY.size  # 49,152: a deviation is known to 1 / sqrt(2 * 49152) = 0.3%, so 2% is 6 sigma


def random(n=4):
    return [np.random.default_rng(i) for i in range(n)]


@pytest.mark.parametrize("deviation", [0.04, 0.18, 0.38])
def test_gaussian_has_its_deviation(deviation):
    added = noise.gaussian(GREY, deviation, random()) - GREY
    assert added.std() == pytest.approx(deviation, rel=0.02)
    assert abs(added.mean()) < 6 * deviation / SAMPLES**0.5


@pytest.mark.parametrize("photons", [500, 60, 3])
def test_shot_is_poisson(photons):
    # A Poisson count of mean m has variance m: a share of 0.5 of c photons, 0.5 c / c^2 = 0.5 / c.
    made = noise.shot(GREY, photons, random())
    assert made.std() == pytest.approx((0.5 / photons) ** 0.5, rel=0.02)
    assert made.mean() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_allclose(made * photons, np.round(made * photons), atol=1e-3)


@pytest.mark.parametrize("share", [0.01, 0.27])
def test_impulse_loses_its_share_one_half_to_black(share):
    made = noise.impulse(GREY, share, random())
    assert set(np.unique(made)) == {0.0, 0.5, 1.0}
    sigma = (share / 2 / SAMPLES) ** 0.5
    assert abs((made == 0).mean() - share / 2) < 6 * sigma
    assert abs((made == 1).mean() - share / 2) < 6 * sigma


def test_speckle_is_in_proportion():
    x = np.concatenate([0.2 * np.ones_like(GREY), 0.4 * np.ones_like(GREY)])
    made = noise.speckle(x, 0.15, random(8))
    assert made[:4].std() == pytest.approx(0.03, rel=0.02)
    assert made[4:].std() == pytest.approx(0.06, rel=0.02)
    assert (noise.speckle(0 * GREY, 0.15, random()) == 0).all()
