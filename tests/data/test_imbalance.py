import numpy as np
import pytest

from imgclass import config as config_lib
from imgclass.data import dataset
from imgclass.data.imbalance import long_tail
from tests import tiny

# Cao et al. (2019) and all who follow: CIFAR-10's 5,000 a class, thinned out.
CIFAR10 = {
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
}


@pytest.mark.parametrize("ratio", CIFAR10)
def test_cifar10_has_the_published_counts(ratio):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    kept = long_tail(labels, ratio, seed=0)
    assert np.bincount(labels[kept]).tolist() == CIFAR10[ratio]
    assert (np.diff(kept) > 0).all()


def test_what_is_kept_depends_on_the_seed_and_a_larger_ratio_keeps_a_part_of_it():
    labels = np.arange(600) % 3
    kept = {ratio: set(long_tail(labels, ratio, seed=5).tolist()) for ratio in (1, 10, 50)}
    assert len(kept[1]) == 600
    assert kept[50] < kept[10] < kept[1]
    np.testing.assert_array_equal(long_tail(labels, 10, 5), sorted(kept[10]))
    assert set(long_tail(labels, 10, seed=6).tolist()) != kept[10]


def test_it_is_the_same_for_ever():
    """The positions are part of what a seed means, as those of a file format."""
    assert long_tail(np.arange(12) % 2, 3.0, seed=0).tolist() == [0, 2, 4, 5, 6, 7, 8, 10]


def test_a_class_that_is_small_already_keeps_what_it_has_and_none_is_lost():
    labels = np.repeat([0, 1, 3], [40, 5, 2])  # class 2 does not occur and has no place
    # 40, then 40 / 10 = 4 of 5, then 40 / 100 = 0.4, which is less than one.
    assert np.bincount(labels[long_tail(labels, 100.0, seed=0)]).tolist() == [40, 4, 0, 1]
    labels = np.repeat([0, 1], [3, 40])  # the first would keep 40
    assert np.bincount(labels[long_tail(labels, 4.0, seed=0)]).tolist() == [3, 10]
    assert long_tail(np.zeros(0, np.int32), 10.0, seed=0).tolist() == []


def test_the_training_split_alone_is_thinned_out(tmp_path):
    path = tiny.archive(tmp_path, train=90, validation=30, test=30)
    opened = dataset.open_dataset(tiny.config(path, {"data.long_tail": 9.0}))
    # 30 a class; 30 / 3 and 30 / 9 = 3.33.
    assert np.bincount(opened.splits["train"].labels).tolist() == [30, 10, 3]
    assert dataset.describe(opened)["splits"]["train"]["class_counts"] == [30, 10, 3]
    for role in ("validation", "test"):
        assert np.bincount(opened.splits[role].labels).tolist() == [10, 10, 10]
    plain = dataset.open_dataset(tiny.config(path))
    assert len(plain.splits["train"]) == 90
    assert plain.splits["train"].fingerprint != opened.splits["train"].fingerprint


def test_validation_is_carved_before(tmp_path):
    path = tiny.archive(tmp_path, train=90, validation=0, test=0)
    opened = dataset.open_dataset(
        tiny.config(path, {"data.long_tail": 9.0, "data.validation_fraction": 0.2})
    )
    assert np.bincount(opened.splits["validation"].labels).tolist() == [6, 6, 6]
    assert np.bincount(opened.splits["train"].labels).tolist() == [24, 8, 2]  # 24 / 9 = 2.67


def test_less_than_one_is_refused():
    config = config_lib.defaults()
    config.data.long_tail = 0.5
    (problem,) = config_lib.problems(config_lib.resolve(config))
    assert problem.startswith("data.long_tail=0.5: must be")
