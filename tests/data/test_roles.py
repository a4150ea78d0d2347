import numpy as np
import pytest

from imgclass.data.arrays import ArraySplit
from imgclass.data.roles import assign_roles
from imgclass.data.source import Native
from imgclass.errors import UsageError
from tests.data.sections import data_section


def split(name, labels):
    labels = np.array(labels, np.int32)
    return ArraySplit(name, np.zeros((len(labels), 2, 2), np.uint8), labels)


def native(kind="arrays", flat=False, **labels):
    splits = {name: split(name, own) for name, own in labels.items()}
    return Native(kind, ("a", "b"), splits, flat)


def sizes(roles):
    return {role: len(own) for role, own in roles.items()}


HUNDRED = [0] * 70 + [1] * 30


def test_a_flat_source_is_carved_80_10_10():
    roles, notes = assign_roles(native(flat=True, train=HUNDRED), data_section("x"))
    assert sizes(roles) == {"train": 80, "validation": 10, "test": 10}
    assert list(roles) == ["train", "validation", "test"]
    for own in roles.values():  # 70 : 30 everywhere
        assert np.bincount(own.labels).tolist() == [0.7 * len(own), 0.3 * len(own)]
    names = [n for own in roles.values() for n in own.example_names(range(len(own)))]
    assert len(names) == len(set(names)) == 100
    assert notes == ()


def test_only_a_flat_source_is_carved_a_test_split():
    roles, _ = assign_roles(native(train=HUNDRED), data_section("x"))
    assert sizes(roles) == {"train": 90, "validation": 10}


def test_own_splits_are_taken_as_they_are():
    own = native(train=HUNDRED, valid=[0, 1, 1], test=[1, 0])
    roles, _ = assign_roles(own, data_section("x"))
    assert sizes(roles) == {"train": 100, "validation": 3, "test": 2}
    assert roles["validation"].name == "validation"
    assert roles["test"].fingerprint == own.splits["test"].fingerprint


def test_an_empty_string_means_no_such_split():
    own = native(train=HUNDRED, test=[1, 0])
    roles, _ = assign_roles(own, data_section("x", validation_split="", test_split=""))
    assert sizes(roles) == {"train": 100}


def test_a_fraction_of_zero_carves_nothing():
    roles, _ = assign_roles(native(train=HUNDRED), data_section("x", validation_fraction=0.0))
    assert sizes(roles) == {"train": 100}


def test_the_carving_follows_the_seed_alone():
    def chosen(**changes):
        roles, _ = assign_roles(native(train=HUNDRED), data_section("x", **changes))
        return roles["validation"].example_names(range(10))

    assert chosen() == chosen()
    assert chosen(split_seed=1) != chosen()
    own = [int(name.split("/")[1]) for name in chosen()]
    assert own == [16, 17, 22, 31, 34, 39, 59, 70, 78, 81]


def test_overlap_is_counted():
    own = native(train=HUNDRED, test=HUNDRED)
    changes = {"train_split": "train[:60%]", "validation_split": "train[55%:]"}
    with pytest.raises(UsageError, match=r"train\[:60%\].*train\[55%:\].*share 5 examples"):
        assign_roles(own, data_section("x", **changes))


def test_an_own_split_used_to_train_is_not_also_the_test():
    own = native(train=HUNDRED, test=[0, 1, 1])
    with pytest.raises(UsageError, match="share 3 examples"):
        assign_roles(own, data_section("x", train_split="train+test"))


def test_explicit_slices_that_touch_do_not_overlap():
    own = native(flat=True, train=[0, 1] * 50)
    changes = {"train_split": "train[:80%]", "validation_split": "train[80%:90%]"}
    roles, _ = assign_roles(own, data_section("x", test_split="train[90%:]", **changes))
    assert sizes(roles) == {"train": 80, "validation": 10, "test": 10}


def test_examples_without_labels():
    own = native(kind="tfds", train=HUNDRED, test=[-1, -1, 0])
    roles, notes = assign_roles(own, data_section("x"))
    assert "test" not in roles
    assert notes == ("split 'test' has no labels and is not used",)
    with pytest.raises(UsageError, match=r"data.test_split='test': 2 of 3 examples have no label"):
        assign_roles(own, data_section("x", test_split="test"))


def test_a_class_that_cannot_be_learnt():
    with pytest.raises(UsageError, match="no training example of 'b'"):
        assign_roles(native(train=[0] * 10, test=[0, 1]), data_section("x"))


def test_a_class_that_cannot_be_scored_is_a_note():
    _, notes = assign_roles(native(train=HUNDRED, test=[1, 1]), data_section("x"))
    assert notes == ("no test example of 'a'",)


def test_fractions_that_leave_nothing():
    section = data_section("x", validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UsageError, match=r"leave nothing to train on: 0.5 \+ 0.5"):
        assign_roles(native(flat=True, train=HUNDRED), section)


def test_too_few_to_carve():
    with pytest.raises(UsageError, match=r"0.1 of 2 training examples is none"):
        assign_roles(native(train=[0, 1]), data_section("x"))


@pytest.mark.parametrize("spec", ["", "auto"])
def test_training_needs_a_split(spec):
    with pytest.raises(UsageError, match="name a split, such as 'train'"):
        assign_roles(native(train=HUNDRED), data_section("x", train_split=spec))


def test_group_by_has_to_match_every_name():
    with pytest.raises(UsageError, match=r"matches nothing in 100 of 100 .* such as 'train/0'"):
        assign_roles(native(train=HUNDRED), data_section("x", group_by=r"person\d+"))
