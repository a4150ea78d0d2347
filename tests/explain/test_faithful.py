"""Deletion curves and rank correlations with known answers."""

import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import config, models
from imgclass.data.preprocess import Preprocess
from imgclass.explain import faithful
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


class Lit:
    """Two classes: p of class 1 is the share of lit pixels."""

    def apply(self, variables, x):
        share = jnp.clip(x.mean(axis=(1, 2, 3)), 1e-6, 1 - 1e-6)
        return jnp.log(jnp.stack([1 - share, share], axis=1)), {}


def curve(evidence, picture):
    image = jnp.asarray(picture[:, :, None], jnp.float32)
    black = jnp.zeros(1, jnp.float32)
    return faithful.deletion(Lit(), {}, image, jnp.int32(1), evidence, black)


def test_deletion_of_a_quarter_that_is_all_there_is():
    # 20x20, a quarter lit: p falls from 1/4 in a line, and is 0 from 25% on.
    picture = np.zeros((20, 20), np.float32)
    picture[:10, :10] = 1
    found = curve(picture, picture)
    np.testing.assert_allclose(found.removed, np.arange(21) / 20, atol=1e-12)
    expected = np.maximum(0.25 - np.arange(21) / 20, 0)
    np.testing.assert_allclose(found.probability, expected, atol=2e-6)
    assert found.auc == pytest.approx(0.25**2 / 2, abs=1e-5)
    # The worst order covers the dark first: 1/4 until 75%.
    worst = curve(1 - picture, picture)
    assert worst.auc == pytest.approx(0.25 * 0.75 + 0.25**2 / 2, abs=1e-5)


def test_random_orders_are_the_map_moved_round():
    # Columns 0 to 3 of 20, lit and in the map: moved by k columns the map covers others. Whatever
    # the order, p starts at 1/5 and ends at 0; the mean over five orders is worse than the map's.
    picture = np.zeros((20, 20), np.float32)
    picture[:, :4] = 1
    found = curve(picture, picture)
    assert found.random[0] == pytest.approx(0.2, abs=1e-6)
    assert found.random[-1] == pytest.approx(0, abs=2e-6)
    assert found.auc < found.random_auc
    again = curve(picture, picture)
    np.testing.assert_array_equal(found.random, again.random)


def test_equal_evidence_is_removed_in_no_order():
    # All lit: any order takes p down in a line. A flat map of a picture lit above: so does it.
    flat = np.zeros((20, 20), np.float32)
    picture = flat.copy()
    picture[:10] = 1
    found = curve(flat, picture)
    line = 0.5 * (1 - np.arange(21) / 20)
    np.testing.assert_allclose(found.probability, line, atol=0.03)  # 400 pixels: deviation 0.013


def test_rank_correlation():
    one = np.array([[1, 2], [3, 4]], np.float32)
    assert faithful.rank_correlation(one, one**3) == pytest.approx(1)
    assert faithful.rank_correlation(one, -one) == pytest.approx(-1)
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15).
    assert faithful.rank_correlation(one, np.array([[5, 4], [9, 8]])) == pytest.approx(0.6)
    assert faithful.rank_correlation(one, np.zeros((2, 2))) is None
    assert faithful.rank_correlation(np.zeros((2, 2)), one) is None


def test_noise_does_not_correlate_with_the_maps_of_random_weights():
    section = config.defaults().model
    section.update(filters=(4,))
    model = models.create(section, 3, (14, 14, 3))
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(14, 14, 3)), jnp.float32)
    plain, label = Preprocess(image_size=(14, 14)), jnp.int32(1)
    noise = rng.normal(size=(14, 14)).astype(np.float32)
    found = faithful.random_correlation("gradcam", model, image, label, plain, noise)
    assert abs(found) < 0.3  # 196 pixels and five draws: a deviation below 0.1
    flat = np.zeros((14, 14), np.float32)
    assert faithful.random_correlation("gradcam", model, image, label, plain, flat) is None
