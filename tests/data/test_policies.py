"""Policies: what is drawn how often, and magnitudes as torchvision 0.29 and timm 1.0 have them."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.data import autoaugment, operations, policies
from tests.data.pictures import many_keys, pictures, section

SIZE = (224, 200)
FILL = jnp.array([0.5, 0.25, 0.125], jnp.float32)
SIGNED = {"shear_x", "shear_y", "shift_x", "shift_y", "rotate"}
FACTORS = {"brightness", "contrast", "saturation", "sharpness"}


@functools.cache
def draws(**changes):
    """For 2000 keys, [(name, amount), ...] of each picture."""
    one = functools.partial(policies.draw, cfg=section(**changes), size=SIZE)
    numbers, amounts = jax.jit(jax.vmap(one))(many_keys())
    names = np.array(operations.NAMES)[np.asarray(numbers)]
    return [list(zip(*row, strict=True)) for row in zip(names, np.asarray(amounts), strict=True)]


def by_name(**changes):
    found = collections.defaultdict(list)
    for row in draws(**changes):
        for name, amount in row:
            found[name].append(float(amount))
    return found


def assert_even(counts, total):
    expected = total / len(counts)
    deviation = math.sqrt(expected * (1 - 1 / len(counts)))
    assert max(abs(count - expected) for count in counts) < 4.5 * deviation


def assert_amounts(amounts, values, middle=0.0):
    """Every value with either sign about the middle, none else, all about as often."""
    kinds = sorted({round(middle + sign * value, 3) for value in values for sign in (1, -1)})
    got = [kinds[np.argmin(np.abs(np.array(kinds) - amount))] for amount in amounts]
    np.testing.assert_allclose(got, amounts, atol=1e-3)
    assert set(got) == set(kinds)


def test_trivial_augment_draws_each_of_14_operations_and_31_strengths():
    rows = draws(policy="trivial_wide")
    assert {len(row) for row in rows} == {1}
    found = by_name(policy="trivial_wide")
    assert set(found) == set(operations.NAMES) - {"invert", "solarize_add"}
    assert_even([len(amounts) for amounts in found.values()], 2000)
    # 143 draws of 61 or fewer values each: all amounts are of the bins k / 30, most are seen.
    for name, reach in (("shear_x", 0.99), ("shift_y", 32.0), ("rotate", 135.0)):
        bins = [reach * k / 30 for k in range(31)]
        if name == "shift_y":
            bins = [math.floor(value) for value in bins]  # whole pixels
        near = np.abs(np.abs(found[name])[:, None] - np.array(bins)[None, :]).min(axis=1)
        assert near.max() < 1e-3
        assert len({round(amount, 3) for amount in found[name]}) > 35
        assert min(found[name]) < -0.8 * reach
        assert max(found[name]) > 0.8 * reach
    for name in FACTORS:
        assert min(found[name]) < 0.15
        assert max(found[name]) > 1.85
        assert min(found[name]) >= 0.0099
    # 8 - round(k / 5): 8 and 2 for 3 values of k each, the others for 5.
    assert collections.Counter(found["posterize"]).keys() == set(range(2, 9))
    assert {round(v / 8.5, 3) for v in found["solarize"]} <= set(range(31))


def test_randaugment_is_torchvisions_at_magnitude_9():
    found = by_name(policy="rand", policy_ops=3)
    assert len(found) == 14
    assert_even([len(amounts) for amounts in found.values()], 6000)
    # Of 31 bins number 9; shifts int(150 / 331 * 200 * 0.3) = 27 and int(150 / 331 * 224 * 0.3).
    assert_amounts(found["shear_x"], [0.09])
    assert_amounts(found["shear_y"], [0.09])
    assert_amounts(found["shift_x"], [27])
    assert_amounts(found["shift_y"], [30])
    assert_amounts(found["rotate"], [9.0])
    for name in FACTORS:
        assert_amounts(found[name], [0.27], middle=1.0)
    assert set(found["posterize"]) == {7.0}  # 8 - round(1.2)
    np.testing.assert_allclose(found["solarize"], 178.5)


def test_randaugment_draws_its_operations_apart():
    rows = draws(policy="rand", policy_ops=3)
    same = sum(row[0][0] == row[1][0] for row in rows)
    assert {len(row) for row in rows} == {3}
    assert 90 < same < 200  # one in 14, 143, standard deviation 11.5


def test_increasing_randaugment_is_timms_at_magnitude_9():
    found = by_name(policy="rand_increasing")
    # Each of two operations is done half of the time: 2000 of 4000, standard deviation 31.6.
    assert abs(len(found.pop("identity")) - 2000) < 130
    assert len(found) == 15
    assert_even([len(amounts) for amounts in found.values()], sum(map(len, found.values())))
    assert_amounts(found["rotate"], [27.0])
    assert set(found["posterize"]) == {1.0}  # 4 - int(3.6)
    assert set(found["solarize"]) == {26.0}  # 256 - int(230.4)
    assert set(found["solarize_add"]) == {99.0}
    for name in FACTORS:
        assert_amounts(found[name], [0.81], middle=1.0)
    assert_amounts(found["shear_y"], [0.27])
    assert_amounts(found["shift_x"], [81.0])  # 0.45 * 0.9 * 200
    assert_amounts(found["shift_y"], [90.72])


def test_a_deviation_spreads_the_magnitude_up_to_10():
    found = by_name(policy="rand_increasing", policy_std=0.5)
    levels = np.abs(found["rotate"]) / 3.0
    # Of N(9, 0.5) one in 44 is above 10 and cut there.
    assert levels.max() <= 10 + 1e-5
    assert abs(levels.mean() - 9) < 0.3
    assert 0.3 < levels.std() < 0.6
    assert set(found["posterize"]) <= {0.0, 1.0, 2.0}
    rows = draws(policy="rand_increasing", policy_std=0.5)
    twice = [(a[1], b[1]) for a, b in rows if a[0] == b[0] == "rotate"]
    assert twice
    assert all(abs(a) != abs(b) for a, b in twice)  # drawn for each operation


@pytest.mark.parametrize(
    "policy",
    [
        "auto_imagenet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("auto_cifar10", "auto_svhn")),
    ],
)
def test_autoaugment_has_25_pairs_and_does_each_by_its_probabilities(policy):
    pairs = autoaugment.PAIRS[policy]
    assert len(pairs) == 25
    rows = draws(policy=policy)
    assert {len(row) for row in rows} == {2}
    expected = collections.Counter()
    for place in (0, 1):
        for pair in pairs:
            name, chance, _ = pair[place]
            expected[name] += 2000 / 25 * chance
            expected["identity"] += 2000 / 25 * (1 - chance)
    counts = collections.Counter(name for row in rows for name, _ in row)
    assert set(counts) <= set(expected)
    for name, count in expected.items():
        assert abs(counts[name] - count) < 5 * math.sqrt(count)


def test_autoaugment_by_hand():
    # The first pair of each table of the paper's appendix.
    assert autoaugment.PAIRS["auto_cifar10"][0] == (("invert", 0.1, 0), ("contrast", 0.2, 6))
    assert autoaugment.PAIRS["auto_imagenet"][0] == (("posterize", 0.4, 8), ("rotate", 0.6, 9))
    assert autoaugment.PAIRS["auto_svhn"][0] == (("shear_x", 0.9, 4), ("invert", 0.2, 0))
    # Magnitude 9 of 9 is 30 degrees, 8 is 26.667, 3 is 10; posterize 8 - round(8 / 2.25) = 4.
    found = by_name(policy="auto_imagenet")
    assert_amounts(found["rotate"], [30.0, 80 / 3, 10.0])
    assert set(found["posterize"]) == {4.0, 5.0, 6.0}  # of 8 and 7; 6; 5


def test_augmix_blends_the_picture_with_its_chains(monkeypatch):
    cfg = section(policy="augmix")
    images, keys = pictures(64, 16, 16), many_keys()[:64]

    def inverted(levels, draws, fill, interpolation):
        return 255.0 - levels

    run = jax.vmap(lambda image, key: policies.apply(image, key, cfg, FILL))
    monkeypatch.setattr(policies, "_in_turn", inverted)
    got = np.asarray(jax.jit(run)(images, keys))
    levels = np.round(np.asarray(images) * 255)
    # Three chains that all invert, whose weights add up to 1: (1 - share) x + share (255 - x).
    shares = (got * 255 - levels)[:, 0, 0, 0] / (255 - 2 * levels[:, 0, 0, 0])
    assert 0 <= shares.min() < 0.1
    assert 0.9 < shares.max() <= 1
    share = shares[:, None, None, None]
    np.testing.assert_allclose(got * 255, (1 - share) * levels + share * (255 - levels), atol=0.05)


def test_augmix_draws_chains_of_one_to_three_operations():
    draw = jax.vmap(lambda key: policies.draw_chains(key, 3.0, (30, 36)))
    share, weights, (numbers, amounts) = jax.tree.map(np.asarray, jax.jit(draw)(many_keys()))
    assert numbers.shape == (2000, 3, 3)
    # Beta(1, 1): mean 1/2, variance 1/12. Dirichlet(1, 1, 1): mean 1/3, variance 1/18.
    assert abs(share.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / 2000)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    assert abs(weights[:, 0].var() - 1 / 18) < 0.006
    lengths = (numbers != 0).sum(axis=2)
    assert_even(np.bincount(lengths.ravel(), minlength=4)[1:].tolist(), 6000)
    assert ((numbers != 0) == (np.arange(3)[None, None, :] < lengths[:, :, None])).all()
    counts = collections.Counter(np.array(operations.NAMES)[numbers[numbers != 0]].tolist())
    assert len(counts) == 9
    assert not set(counts) & FACTORS  # as ImageNet-C tests with them
    assert_even(counts.values(), sum(counts.values()))
    # Severity 3 of 10: up to int(30 * 0.3) degrees less a hair, int(36 / 3 * 0.3), 4 - int(1.2).
    for name, values in (("rotate", range(9)), ("shift_x", range(4)), ("shift_y", range(3))):
        found = np.abs(amounts[numbers == operations.NUMBER[name]])
        assert set(found.tolist()) == set(values)
    assert set(amounts[numbers == operations.NUMBER["posterize"]].tolist()) == {4.0, 3.0}


def test_a_policy_does_what_it_draws():
    cfg = section(policy="rand", policy_interpolation="nearest", policy_fill="mean")
    images, keys = pictures(12, 16, 18), many_keys()[:12]
    got = jax.jit(jax.vmap(lambda i, k: policies.apply(i, k, cfg, FILL)))(images, keys)
    numbers, amounts = jax.jit(jax.vmap(lambda key: policies.draw(key, cfg, (16, 18))))(keys)
    one = jax.jit(functools.partial(operations.operate, interpolation="nearest"))
    for row, result in enumerate(np.asarray(got)):
        levels = jnp.round(images[row] * 255)
        for number, amount in zip(numbers[row], amounts[row], strict=True):
            levels = one(levels, number, amount, jnp.round(FILL * 255))
        # Cut to whole levels by another program: few values differ, by one.
        off = np.abs(np.asarray(levels) - result * 255)
        assert (off > 1e-3).mean() < 0.01


@pytest.mark.parametrize("policy_fill", ["black", "mean"])
def test_what_comes_in_from_outside(policy_fill):
    cfg = section(policy="trivial_wide", policy_fill=policy_fill)
    images = jnp.ones((200, 16, 16, 3), jnp.float32)
    got = np.asarray(
        jax.jit(jax.vmap(lambda i, k: policies.apply(i, k, cfg, FILL)))(images, many_keys()[:200])
    )
    outside = {"black": (0.0, 0.0, 0.0), "mean": (128 / 255, 64 / 255, 32 / 255)}[policy_fill]
    names = [row[0] for row in draws(policy="trivial_wide")[:200]]
    moved = [name in SIGNED and abs(amount) > 8 for name, amount in names]
    far = [name == "rotate" and 40 < abs(amount) < 50 for name, amount in names]
    assert any(far)
    np.testing.assert_allclose(got[far][:, 0, 0], np.tile(outside, (sum(far), 1)), atol=1e-6)
    assert sum(moved) > 20
