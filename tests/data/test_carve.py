import numpy as np
import pytest

from imgclass.data.carve import TEST_TAG, carve


def philox4x64(key, blocks):
    """Philox4x64-10 in Python integers, from Salmon et al. (2011), section 4.3."""
    mask = 2**64 - 1
    words = []
    for block in range(1, blocks + 1):
        counter, (k0, k1) = [block, 0, 0, 0], key
        for _ in range(10):
            low, high = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
            counter = [
                (high >> 64) ^ counter[1] ^ k0,
                high & mask,
                (low >> 64) ^ counter[3] ^ k1,
                low & mask,
            ]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
        words += counter
    return words


def test_ten_examples_by_the_paper():
    # 6 of class 0 and 4 of class 1; a fifth is 2: 1.2 and 0.8, so one each. Of each class the one
    # with the smallest random word goes.
    labels = np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 1])
    words = philox4x64((7, 1), 3)[:10]
    expected = sorted(
        min((i for i in range(10) if labels[i] == c), key=lambda i: words[i]) for c in (0, 1)
    )
    assert carve(labels, 0.2, seed=7).tolist() == expected == [3, 9]


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ([6, 4], 0.2, [1, 1]),  # 1.2, 0.8
        ([10, 10, 10], 0.1, [1, 1, 1]),
        ([70, 20, 10], 0.1, [7, 2, 1]),
        ([14, 14, 14, 14, 14], 0.1, [2, 2, 1, 1, 1]),  # 7 in all; 1.4 each, ties to the first
        ([100, 2], 0.1, [10, 1]),  # 10.0 and 0.2; the class of two gives one on top
        ([2, 2], 0.9, [1, 1]),
        ([5, 1], 0.5, [3, 0]),  # a class of one stays; its share goes to the other
        ([100], 0.29, [29]),  # 0.29 * 100 is 28.999999999999996 in binary
        ([10, 10], 0.0, [0, 0]),
    ],
)
def test_counts_by_class(counts, fraction, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    held = carve(labels, fraction, seed=3)
    assert np.bincount(labels[held], minlength=len(counts)).tolist() == expected


def test_every_class_of_two_stays_on_both_sides():
    # 50 classes of two: a tenth would be 10 examples, but each class gives one.
    labels = np.repeat(np.arange(50), 2)
    held = carve(labels, 0.1, seed=0)
    rest = np.setdiff1d(np.arange(100), held)
    assert sorted(labels[held].tolist()) == sorted(labels[rest].tolist()) == list(range(50))


def test_seed_and_purpose_change_the_choice():
    labels = np.zeros(1000, np.int32)
    first = carve(labels, 0.1, seed=0)
    assert carve(labels, 0.1, seed=0).tolist() == first.tolist()
    # Two independent tenths share a hundredth: 10 of 1000, give or take 3.
    assert len(np.intersect1d(first, carve(labels, 0.1, seed=1))) < 30
    assert len(np.intersect1d(first, carve(labels, 0.1, seed=0, tag=TEST_TAG))) < 30


def test_groups_stay_whole_and_balanced():
    # 40 groups of 5, 10 groups of class 1 and 30 of class 0; a fifth is 30 + 10 examples.
    groups = np.repeat(np.arange(40), 5)
    labels = (groups % 4 == 0).astype(np.int32)
    held = carve(labels, 0.2, seed=0, groups=groups)
    assert np.bincount(labels[held]).tolist() == [30, 10]
    assert len(np.unique(groups[held])) == 8
    rest = np.setdiff1d(np.arange(200), held)
    assert not set(groups[held]) & set(groups[rest])


def test_groups_of_mixed_classes_and_sizes_come_near():
    rng = np.random.Generator(np.random.PCG64(5))
    groups = rng.integers(0, 100, 1000)
    labels = rng.integers(0, 3, 1000)
    held = carve(labels, 0.2, seed=0, groups=groups)
    rest = np.setdiff1d(np.arange(1000), held)
    assert not set(groups[held]) & set(groups[rest])
    # A group has 3.3 of each class, so each class should land within a group or so of its fifth.
    np.testing.assert_allclose(np.bincount(labels[held]), np.bincount(labels) / 5, atol=5)


def test_a_class_with_two_big_groups_still_gives_one():
    # Class 1 is two groups of 10; its share is 2, and taking 10 is farther from it than taking 0.
    labels = np.array([0] * 80 + [1] * 20)
    groups = np.array([*range(80), *([80] * 10), *([81] * 10)])
    held = carve(labels, 0.1, seed=0, groups=groups)
    assert np.bincount(labels[held]).tolist() == [8, 10]


def test_a_class_that_is_one_group_stays():
    labels = np.array([0] * 10 + [1] * 10)
    groups = np.array([*range(10), *([10] * 10)])
    assert carve(labels, 0.2, seed=0, groups=groups).max() < 10
