"""Mixup and cutmix by hand, and the statistics of their draws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.data import mix
from tests.data.pictures import every, one_hot, pictures


def test_mixup_by_hand():
    images = jnp.array([0.0, 0.4, 1.0], jnp.float32)[:, None, None, None]
    targets = one_hot(3, 3)
    mixed, soft = mix.mixup(images, targets, jnp.float32(0.75))
    np.testing.assert_allclose(mixed[:, 0, 0, 0], [0.25, 0.4, 0.75], rtol=1e-6)
    np.testing.assert_array_equal(soft, [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]])


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((4, 4), (2, 6), (2, 6)), ((0, 0), (0, 2), (0, 2)), ((7, 3), (5, 8), (1, 5))],
)
def test_cutmix_by_hand(centre, rows, columns):
    # sqrt(1 - 0.75) of 8 is 4: a window of 4 x 4 from centre - 2, clipped.
    images = pictures(4)
    targets = one_hot(4)
    mixed, soft = mix.cutmix(images, targets, jnp.float32(0.75), jnp.array(centre, jnp.int32))
    expected = np.array(images)
    expected[:, slice(*rows), slice(*columns)] = np.asarray(images)[
        ::-1, slice(*rows), slice(*columns)
    ]
    np.testing.assert_array_equal(mixed, expected)
    pasted = (rows[1] - rows[0]) * (columns[1] - columns[0]) / 64
    np.testing.assert_array_equal(soft[0], [1 - pasted, 0, 0, pasted])
    np.testing.assert_array_equal(soft[2], [0, pasted, 1 - pasted, 0])


@functools.cache
def mixes(mixup_alpha, cutmix_alpha, *chances):
    """The pixels and the target that a black row gets from a white partner, for 2000 keys."""
    images = jnp.array([0.0, 1.0], jnp.float32)[:, None, None, None] * jnp.ones((1, 16, 16, 1))
    targets = one_hot(2, 2)

    def one(key):
        mixed, soft = mix.mix(images, targets, key, mixup_alpha, cutmix_alpha, *chances)
        return jnp.concatenate([mixed[0].reshape(-1), soft[0]])

    got = every(one)
    return got[:, :-2], got[:, -2:]


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (1.0, 1.0)])
def test_targets_are_the_share_of_the_pixels(alphas):
    # The partner is white, so the mean pixel is its share.
    pixels, soft = mixes(*alphas)
    np.testing.assert_allclose(pixels.mean(axis=1), soft[:, 1], atol=2e-6)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, rtol=1e-6)


def test_cutmix_shares_are_exact():
    pixels, soft = mixes(1.0, 1.0)
    pasted = ((pixels == 0) | (pixels == 1)).all(axis=1)
    shares = (pixels[pasted] == 1.0).sum(axis=1) / 256
    np.testing.assert_array_equal(soft[pasted, 1], shares)
    assert len(np.unique(shares)) > 50


def test_both_kinds_are_chosen_equally_often():
    pixels, _ = mixes(1.0, 1.0)
    blended = ((pixels > 0) & (pixels < 1)).any(axis=1).sum()
    assert 910 < blended < 1090  # 1000, 4 standard deviations of 22.4


def test_mixup_shares_follow_beta():
    # Beta(a, a) has mean 1/2 and variance 1 / (4 * (2a + 1)), 0.17857 for a = 0.2.
    _, soft = mixes(0.2, 0.0)
    assert abs(soft[:, 0].mean() - 0.5) < 4 * math.sqrt(0.17857 / 2000)
    assert abs(soft[:, 0].var() - 0.17857) < 0.008


def test_batches_are_mixed_and_cut_as_often_as_asked_and_others_are_untouched():
    pixels, soft = mixes(1.0, 1.0, 0.3, 0.8)
    untouched = (pixels == 0).all(axis=1)
    np.testing.assert_array_equal(soft[untouched], np.tile([1.0, 0.0], (untouched.sum(), 1)))
    # 1400, and of 480 windows the two or so that are smaller than a pixel.
    assert abs(untouched.sum() - 1402) < 4 * math.sqrt(2000 * 0.3 * 0.7)
    blended = ((pixels > 0) & (pixels < 1)).any(axis=1).sum()
    assert abs(blended - 120) < 4 * math.sqrt(2000 * 0.06 * 0.94)


def test_mixing_can_be_turned_off_within_one_program():
    images, targets = pictures(4), one_hot(4)

    @jax.jit
    def run(key, mixing):
        return mix.mix(images, targets, key, 0.2, 1.0, mixing=mixing)

    for seed in range(8):  # of both kinds
        off, on = (run(jax.random.key(seed), jnp.bool_(mixing)) for mixing in (False, True))
        np.testing.assert_array_equal(off[0], images)
        np.testing.assert_array_equal(off[1], targets)
        assert (on[1] != targets).any()
