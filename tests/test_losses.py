"""Losses against numbers worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import losses


def test_cross_entropy_by_hand():
    # softmax([0, ln 3]) = [1/4, 3/4], so the rows cost ln 4/3 and ln 4 nats (log2 gives 0.415, 2).
    logits = jnp.array([[0.0, math.log(3)]] * 2, jnp.float32)
    targets = jnp.array([[0.0, 1.0], [1.0, 0.0]], jnp.float32)
    got = jax.jit(losses.cross_entropy)(logits, targets)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [0.2876821, 1.3862944], rtol=1e-6)


def test_cross_entropy_of_a_soft_target_is_the_weighted_mean():
    # 0.3 * ln 4 + 0.7 * ln 4/3 = 0.6172658
    logits = jnp.array([[0.0, math.log(3)]], jnp.float32)
    targets = jnp.array([[0.3, 0.7]], jnp.float32)
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), [0.6172658], rtol=1e-6)


def test_cross_entropy_survives_large_logits():
    # exp(1000) overflows; the loss is the gap, 1000 nats, and 0 for the sure row.
    logits = jnp.array([[1000.0, 0.0], [1000.0, 0.0]], jnp.float32)
    targets = jnp.array([[0.0, 1.0], [1.0, 0.0]], jnp.float32)
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), [1000.0, 0.0])


def test_cross_entropy_gradient_is_softmax_minus_target():
    logits = jnp.array([[0.0, math.log(3)]], jnp.float32)
    targets = jnp.array([[0.0, 1.0]], jnp.float32)
    grad = jax.grad(lambda z: losses.cross_entropy(z, targets).sum())(logits)
    np.testing.assert_allclose(grad, [[0.25, -0.25]], rtol=1e-6)


def test_a_nan_row_stays_a_nan_row():
    logits = jnp.array([[jnp.nan, 0.0], [0.0, 0.0]], jnp.float32)
    targets = jnp.array([[0.0, 1.0], [1.0, 0.0]], jnp.float32)
    got = np.asarray(losses.cross_entropy(logits, targets))
    assert math.isnan(got[0])
    np.testing.assert_allclose(got[1], math.log(2), rtol=1e-6)


def test_smoothing_by_hand():
    # s = 0.1, K = 5: 0.9 + 0.02 on the label, 0.02 elsewhere.
    got = losses.smooth(losses.one_hot(jnp.array([3, 0], jnp.int32), 5), 0.1)
    expected = np.full((2, 5), 0.02)
    expected[0, 3] = expected[1, 0] = 0.92
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == jnp.float32


def test_one_hot_without_smoothing_is_exact():
    got = losses.smooth(losses.one_hot(jnp.array([2, -1], jnp.int32), 3), 0.0)
    np.testing.assert_array_equal(got, [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def drawn(seed=0, rows=5, classes=4, scale=3.0):
    """Returns f32 logits and distributions, and the logits of a second model."""
    random = np.random.default_rng(seed)
    logits, other = (scale * random.standard_normal((2, rows, classes))).astype(np.float32)
    targets = random.dirichlet(np.ones(classes), rows).astype(np.float32)
    return logits, targets, other


def softmax64(row):
    e = [math.exp(float(z) - max(map(float, row))) for z in row]
    return [x / sum(e) for x in e]


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_binary_cross_entropy_against_a_loop(threshold, total):
    logits, targets, _ = drawn()
    expected = []
    for row, wanted in zip(logits, targets, strict=True):
        cost = 0.0
        for z, t in zip(map(float, row), map(float, wanted), strict=True):
            yes = 1 / (1 + math.exp(-z))
            t = float(t > threshold) if threshold else t
            cost -= t * math.log(yes) + (1 - t) * math.log(1 - yes)
        expected.append(cost if total else cost / 4)
    got = losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), threshold, total)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_binary_cross_entropy_of_large_logits_is_the_logit():
    logits, targets = jnp.array([[200.0, -200.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, targets), [200.0])
    grad = jax.grad(lambda z: losses.binary_cross_entropy(z, targets).sum())(logits)
    np.testing.assert_allclose(grad, [[0.5, -0.5]])  # (sigmoid - target) / K


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_against_a_loop(gamma):
    logits, targets, _ = drawn(1)
    expected = [
        -sum(t * (1 - p) ** gamma * math.log(p) for p, t in zip(softmax64(z), ts, strict=True))
        for z, ts in zip(logits, targets, strict=True)
    ]
    got = losses.focal(jnp.asarray(logits), jnp.asarray(targets), gamma)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_a_sure_row_costs_nothing_and_pulls_nowhere(gamma):
    logits, targets = jnp.array([[200.0, 0.0]]), jnp.array([[1.0, 0.0]])
    value, grad = jax.value_and_grad(lambda z: losses.focal(z, targets, gamma).sum())(logits)
    assert float(value) == 0.0
    np.testing.assert_array_equal(grad, [[0.0, 0.0]])


def test_focal_gradient_against_differences():
    """In float64 by hand: p = softmax(z), loss -(1 - p0)^2 log p0."""

    def loss(z):
        p = softmax64(z)[0]
        return -((1 - p) ** 2) * math.log(p)

    z, step = [0.3, -0.4, 1.1], 1e-5
    slopes = []
    for k in range(3):
        up, down = list(z), list(z)
        up[k] += step
        down[k] -= step
        slopes.append((loss(up) - loss(down)) / (2 * step))
    targets = jnp.array([[1.0, 0.0, 0.0]])
    grad = jax.grad(lambda z: losses.focal(z, targets, 2.0).sum())(jnp.array([z], jnp.float32))
    np.testing.assert_allclose(grad[0], slopes, rtol=1e-4)


def test_jensen_shannon_against_a_loop():
    random = np.random.default_rng(2)
    logits = (2 * random.standard_normal((5, 3, 4))).astype(np.float32)
    expected = []
    for views in logits:
        ps = [softmax64(z) for z in views]
        mean = [sum(p[k] for p in ps) / 3 for k in range(4)]
        expected.append(
            sum(p[k] * math.log(p[k] / mean[k]) for p in ps for k in range(4)) / 3
        )  # fmt: skip
    np.testing.assert_allclose(losses.jensen_shannon(jnp.asarray(logits)), expected, rtol=1e-5)


def test_jensen_shannon_is_0_for_one_opinion_and_ln_3_for_three():
    same = jnp.broadcast_to(jnp.array([1.0, -2.0, 0.5]), (2, 3, 3))
    np.testing.assert_allclose(losses.jensen_shannon(same), [0.0, 0.0], atol=1e-6)
    apart = 200.0 * jnp.eye(3, dtype=jnp.float32)[None]
    value, grad = jax.value_and_grad(lambda z: losses.jensen_shannon(z).sum())(apart)
    np.testing.assert_allclose(value, math.log(3), rtol=1e-6)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_against_a_loop(temperature):
    student, _, teacher = drawn(3)
    expected = []
    for ours, theirs in zip(student, teacher, strict=True):
        p, q = softmax64(theirs / temperature), softmax64(ours / temperature)
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected.append(temperature**2 * kl)
    got = losses.distillation(jnp.asarray(student), jnp.asarray(teacher), temperature)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)  # terms cancel
    same = losses.distillation(jnp.asarray(student), jnp.asarray(student), temperature)
    np.testing.assert_allclose(same, np.zeros(5), atol=1e-5)


def test_distillation_gradient_is_hinton_s():
    # T^2 * (q - p) / T, with p and q the softened softmaxes (Hinton et al. 2015, eq. 2).
    student, _, teacher = drawn(4, rows=1)
    grad = jax.grad(lambda z: losses.distillation(z, jnp.asarray(teacher), 3.0).sum())
    p, q = softmax64(teacher[0] / 3), softmax64(student[0] / 3)
    expected = [3 * (b - a) for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(grad(jnp.asarray(student))[0], expected, rtol=1e-4, atol=1e-6)


def test_squared_error_is_a_mean_over_all_but_rows():
    a = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)
    b = jnp.zeros((2, 3, 2), jnp.bfloat16)
    # The squares of 0 to 5 add up to 55, those of 6 to 11 to 451.
    np.testing.assert_allclose(losses.squared_error(a, b), [55 / 6, 451 / 6], rtol=1e-6)


def test_inverse_weights_by_hand():
    # 10 examples in 3 classes that have any: 10 / (3 * n_c), and the mean over examples is 1.
    counts = np.array([1, 4, 0, 5])
    got = losses.class_weights(counts, "inverse")
    np.testing.assert_allclose(got, [10 / 3, 10 / 12, 0.0, 10 / 15], rtol=1e-6)
    assert got.dtype == np.float32
    np.testing.assert_allclose((counts * got).sum(), 10, rtol=1e-6)


def test_effective_weights_by_hand():
    # beta 0.5: 1 and 3 examples count as 1 and 1.75, so raw weights 1 and 4/7, their sum over the
    # examples 1 + 12/7 = 19/7, and 4 * 7/19 scales to mean 1.
    got = losses.class_weights(np.array([1, 3]), "effective", 0.5)
    np.testing.assert_allclose(got, [28 / 19, 16 / 19], rtol=1e-6)


@pytest.mark.parametrize(("beta", "like"), [(0.0, [1.0, 1.0, 1.0]), (1 - 1e-9, "inverse")])
def test_effective_weights_go_from_none_to_inverse(beta, like):
    counts = np.array([5, 50, 500])
    expected = losses.class_weights(counts, like) if like == "inverse" else like
    np.testing.assert_allclose(losses.class_weights(counts, "effective", beta), expected, rtol=1e-5)


def test_log_priors_by_hand():
    np.testing.assert_allclose(
        losses.log_priors(np.array([1, 3])), [-math.log(4), math.log(0.75)], rtol=1e-6
    )


@pytest.mark.parametrize(
    "loss",
    [losses.cross_entropy, losses.binary_cross_entropy, lambda a, b: losses.focal(a, b, 2.0),
     lambda a, b: losses.distillation(a, b, 1.0), losses.squared_error],
)  # fmt: skip
def test_losses_refuse_shapes_that_would_broadcast(loss):
    with pytest.raises(ValueError, match=r"\(4, 3\), targets \(1, 3\)"):
        loss(jnp.zeros((4, 3)), jnp.zeros((1, 3)))
