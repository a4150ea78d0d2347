"""The order of examples: permutations, straddled epochs, pinned values."""

import numpy as np
import pytest

from imgclass.data import order

MASK = 2**64 - 1


def philox_words(seed: int, epoch: int, n: int) -> list[int]:
    """Philox4x64-10 in plain integers (Salmon et al. 2011), counter from 1 as NumPy counts."""
    words: list[int] = []
    block = 0
    while len(words) < n:
        block += 1
        c, key = [block, 0, 0, 0], [seed, epoch]
        for _ in range(10):
            low, high = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(high >> 64) ^ c[1] ^ key[0], high & MASK, (low >> 64) ^ c[3] ^ key[1], low & MASK]
            key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
        words += c
    return words[:n]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (7, 3), (2**63 - 1, 12)])
def test_an_epoch_sorts_philox_words(seed, epoch):
    words = philox_words(seed, epoch, 23)
    expected = sorted(range(23), key=words.__getitem__)
    assert order.permutation(seed, epoch, 23).tolist() == expected


def test_pinned_values():
    # Literals, so that another NumPy or platform that gives another order is found out.
    assert order.batch_indices(0, 10, 10, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert order.batch_indices(1, 10, 10, 0).tolist() == [3, 5, 2, 9, 7, 0, 8, 6, 1, 4]
    late = order.batch_indices(0, 1_281_167, 4, 123_456)
    assert late.tolist() == [295_792, 950_594, 302_861, 988_972]


@pytest.mark.parametrize(
    ("n", "batch_size"), [(10, 3), (7, 7), (5, 8), (1, 4), (64, 64), (3, 20), (101, 16)]
)
def test_each_epoch_of_the_stream_is_a_permutation(n, batch_size):
    epochs = 6
    steps = -(-epochs * n // batch_size)
    stream = np.concatenate([order.batch_indices(3, n, batch_size, k) for k in range(steps)])
    seen = stream[: epochs * n].reshape(epochs, n)
    assert (np.sort(seen, axis=1) == np.arange(n)[None, :]).all()
    if n > 5:
        assert len({tuple(epoch) for epoch in seen.tolist()}) == epochs  # each its own order


def test_batch_size_cuts_one_and_the_same_stream():
    # 24 steps of 5 and 5 of 24 are the same 120 positions.
    small = [order.batch_indices(1, 17, 5, k) for k in range(24)]
    large = [order.batch_indices(1, 17, 24, k) for k in range(5)]
    assert np.concatenate(small).tolist() == np.concatenate(large).tolist()


def test_a_step_does_not_depend_on_what_was_asked_before():
    expected = [order.batch_indices(5, 11, 4, k).tolist() for k in range(12)]
    for k in (11, 0, 7, 7, 3, 10):
        order.permutation.cache_clear()
        assert order.batch_indices(5, 11, 4, k).tolist() == expected[k]
    for k in reversed(range(12)):
        assert order.batch_indices(5, 11, 4, k).tolist() == expected[k]


def test_global_random_state_is_neither_used_nor_moved():
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    first = order.batch_indices(0, 100, 8, 2)
    after = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert after == np.random.random()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    order.permutation.cache_clear()
    assert order.batch_indices(0, 100, 8, 2).tolist() == first.tolist()


def test_seeds_give_different_orders():
    orders = {tuple(order.permutation(seed, 0, 20).tolist()) for seed in range(50)}
    assert len(orders) == 50


def test_places_are_uniform():
    # Example 0 over 3,000 epochs of 6: 500 a place, standard deviation sqrt(3000*5/36) = 20.4.
    places = [int(np.flatnonzero(order.permutation(9, e, 6) == 0)[0]) for e in range(3000)]
    assert np.abs(np.bincount(places, minlength=6) - 500).max() < 5 * 20.4


def test_a_late_step_is_exact():
    # Position 2^40 of a set of 1000: epoch 1,099,511,627, place 776.
    step, batch_size = 2**37, 8
    epoch, place = divmod(2**40, 1000)
    assert (epoch, place) == (1_099_511_627, 776)
    expected = order.permutation(0, epoch, 1000)[776:784]
    assert order.batch_indices(0, 1000, batch_size, step).tolist() == expected.tolist()


def test_the_cached_permutation_cannot_be_spoiled():
    with pytest.raises(ValueError, match="read-only"):
        order.permutation(0, 0, 4)[0] = 1


@pytest.mark.parametrize(("n", "batch_size", "repeats"), [(10, 4, 2), (7, 5, 3), (6, 12, 4)])
def test_repeats_are_the_same_stream_with_each_example_so_often(n, batch_size, repeats):
    steps = -(-3 * n * repeats // batch_size)
    rows = [order.batch_indices(2, n, batch_size, k, repeats) for k in range(steps)]
    got = np.concatenate(rows)[: 3 * n * repeats].reshape(3 * n, repeats)
    once = np.concatenate([order.permutation(2, epoch, n) for epoch in range(3)])
    assert (got == once[:, None]).all()
    # An epoch of n rows: n / repeats examples, rounded up where the last one is not finished.
    epoch = got.reshape(-1)[:n]
    assert len(set(epoch.tolist())) == -(-n // repeats)
