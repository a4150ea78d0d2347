"""Attacks on linear models, where the best there is has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.evaluate import attacks
from tests import tiny

SHAPE = (4, 4, 3)
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(48, 2)).astype(np.float32)
# Away from 0 and 1, so that nothing is cut off at the largest bound below.
X = jnp.asarray(RANDOM.uniform(0.2, 0.8, (6, *SHAPE)), jnp.float32)
LABELS = jnp.array([0, 1, 0, 1, 0, 1], jnp.int32)


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


def linear(x):
    return x.reshape(x.shape[0], -1) @ jnp.asarray(WEIGHTS)


def margins(x, labels=LABELS):
    """The logit of the label less that of the other class."""
    logits, rows = np.asarray(linear(x)), np.arange(len(labels))
    return logits[rows, labels] - logits[rows, 1 - np.asarray(labels)]


def start(scale=1.0):
    return scale * attacks.random_start(jax.random.key(0), jnp.arange(6, dtype=jnp.int32), SHAPE)


GRADIENT = attacks.gradient_of(linear)


def test_log_odds_by_hand():
    # p = 0.2, 0.3, 0.5: against the second, 0.7 / 0.3, against the third, 1.
    logits = jnp.log(jnp.array([[0.2, 0.3, 0.5]] * 2))
    odds = attacks.log_odds_against(logits, jnp.array([1, 2], jnp.int32))
    np.testing.assert_allclose(odds, [np.log(7 / 3), 0.0], atol=1e-6)


def test_the_gradient_has_the_signs_of_cross_entropys():
    def cross_entropy(x):
        own = jnp.take_along_axis(jax.nn.log_softmax(linear(x)), LABELS[:, None], axis=1)
        return -jnp.sum(own)

    np.testing.assert_array_equal(
        jnp.sign(GRADIENT(X, LABELS)), jnp.sign(jax.grad(cross_entropy)(X))
    )


def test_the_gradient_is_there_where_cross_entropys_is_rounded_away():
    def sure(x):
        return 1000 * linear(x)

    labels = jnp.argmax(sure(X), axis=1).astype(jnp.int32)

    def cross_entropy(x):
        own = jnp.take_along_axis(jax.nn.log_softmax(sure(x)), labels[:, None], axis=1)
        return -jnp.sum(own)

    assert not np.asarray(jax.grad(cross_entropy)(X)).any()
    assert np.asarray(attacks.gradient_of(sure)(X, labels)).all()


@pytest.mark.parametrize("epsilon", [2 / 255, 8 / 255, 0.1])
def test_fgsm_takes_epsilon_times_the_l1_norm_off_the_margin(epsilon):
    moved = attacks.fgsm(GRADIENT, X, LABELS, epsilon)
    drop = epsilon * np.abs(WEIGHTS[:, 0] - WEIGHTS[:, 1]).sum()  # the most that any change can
    np.testing.assert_allclose(margins(X) - margins(moved), drop, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_pgd_reaches_the_same_from_anywhere_in_the_bound(scale):
    # 10 steps of a quarter of the bound pass through all of it.
    epsilon = 8 / 255
    moved = attacks.pgd(GRADIENT, X, LABELS, epsilon, 10, epsilon / 4, start(scale))
    best = attacks.fgsm(GRADIENT, X, LABELS, epsilon)
    np.testing.assert_allclose(moved, best, atol=1e-6)


def test_pgd_of_one_step():
    moved = attacks.pgd(GRADIENT, X, LABELS, 0.1, 1, 0.03, jnp.zeros_like(X))
    expected = X + 0.03 * jnp.sign(GRADIENT(X, LABELS))
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_no_attack_leaves_the_bound_or_the_range():
    x = jnp.asarray(RANDOM.uniform(0, 1, (6, *SHAPE)), jnp.float32)
    x = x.at[0].set(0.0).at[1].set(1.0)
    for moved in (
        attacks.fgsm(GRADIENT, x, LABELS, 0.2),
        attacks.pgd(GRADIENT, x, LABELS, 0.2, 7, 0.1, start()),
    ):
        assert float(jnp.abs(moved - x).max()) <= 0.2 + 1e-6
        assert float(moved.min()) >= 0.0
        assert float(moved.max()) <= 1.0
        assert float(jnp.abs(moved - x).max()) > 0.19


def test_pgd_finds_more_than_fgsm_on_a_bent_model():
    random = np.random.default_rng(1)
    first, last = (jnp.asarray(random.normal(size=s), jnp.float32) for s in ((48, 64), (64, 3)))

    def bent(x):
        return jnp.sin(4 * x.reshape(x.shape[0], -1) @ first) @ last

    labels = jnp.argmax(bent(X), axis=1).astype(jnp.int32)
    gradient = attacks.gradient_of(bent)

    def odds(x):
        return np.asarray(attacks.log_odds_against(bent(x), labels))

    fgsm = attacks.fgsm(gradient, X, labels, 0.05)
    pgd = attacks.pgd(gradient, X, labels, 0.05, 20, 0.005, start())
    assert odds(pgd).mean() > odds(fgsm).mean()
    assert (odds(pgd) > odds(X)).all()


def test_starts_are_uniform_and_each_examples_own():
    both = attacks.random_start(jax.random.key(0), jnp.array([4, 9], jnp.int32), (50, 50, 1))
    one = attacks.random_start(jax.random.key(0), jnp.array([9], jnp.int32), (50, 50, 1))
    np.testing.assert_array_equal(both[1], one[0])
    assert (both[0] != both[1]).any()
    # Uniform in [-1, 1]: deviation 1 / sqrt(3).
    assert float(both.std()) == pytest.approx(3**-0.5, rel=0.03)
    assert float(jnp.abs(both).max()) <= 1
