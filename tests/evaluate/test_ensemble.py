"""Averages of probabilities and of weights, by hand; and what cannot be averaged."""

import dataclasses

import numpy as np
import pytest

from imgclass import train
from imgclass.errors import UsageError
from imgclass.evaluate import ensemble, restore
from imgclass.evaluate.outcomes import Outcomes
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Two runs that differ in their seeds, with batch norm."""
    root = tmp_path_factory.mktemp("runs")
    path = tiny.archive(root)
    for seed in (0, 1):
        config = tiny.config(path, {"seed": seed, "model.batch_norm": True})
        train.train_and_evaluate(config, root / f"seed{seed}")
    return [restore.restore(root / f"seed{seed}") for seed in (0, 1)]


def outcomes_of(said, index=(0, 1)):
    labels = np.array([1, 0], np.int32)
    return Outcomes(np.array(said, np.float32), labels, np.array(index, np.int64))


def test_probabilities_are_averaged_and_not_votes():
    found = ensemble.average(
        [
            outcomes_of([[0.6, 0.4], [0.9, 0.1]]),
            outcomes_of([[0.6, 0.4], [0.4, 0.6]]),
            outcomes_of([[0.1, 0.9], [0.2, 0.8]]),
        ]
    )
    np.testing.assert_allclose(found.probabilities, [[1.3 / 3, 1.7 / 3], [0.5, 0.5]], rtol=1e-6)
    assert found.probabilities.dtype == np.float32
    assert found.right.tolist()[0]  # two of three said class 0
    assert found.labels.tolist() == [1, 0]


def test_outcomes_of_other_examples_are_a_bug():
    with pytest.raises(ValueError, match="same examples"):
        ensemble.average([outcomes_of(np.eye(2)), outcomes_of(np.eye(2), index=(1, 0))])


def test_a_soup_has_the_mean_of_weights_and_of_batch_statistics(members):
    ensemble.check_same_data(members)
    found = ensemble.soup(members)
    one, two = (tiny.arrays(member.folder, member.step) for member in members)
    for name, leaf in [
        ("params.head.kernel", found.variables["params"]["head"]["kernel"]),
        ("batch_stats.block1_bn1.var", found.variables["batch_stats"]["block1_bn1"]["var"]),
    ]:
        assert (one[name] != two[name]).any()
        np.testing.assert_allclose(leaf, (one[name] + two[name]) / 2, rtol=1e-6)
        assert leaf.dtype == np.float32
    assert found.task is members[0].task


def test_a_soup_of_one_model_twice_is_that_model(members):
    found = ensemble.soup([members[0], members[0]])
    kernel = members[0].variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(found.variables["params"]["head"]["kernel"], kernel)


def changed(member, **data):
    return dataclasses.replace(member, data=member.data | data)


def test_other_classes_or_other_data_cannot_be_averaged(members):
    first, second = members
    with pytest.raises(UsageError, match=r"seed1: its classes are not those of .*seed0"):
        ensemble.check_same_data([first, changed(second, class_names=["0", "1", "cat"])])
    splits = second.data["splits"]
    other = splits | {"test": splits["test"] | {"fingerprint": "another"}}
    with pytest.raises(UsageError, match=r"seed1: its data is not that of .*\(test differ\)"):
        ensemble.check_same_data([first, changed(second, splits=other)])
    left_out = [{"index": 3, "name": "x.png", "reason": "truncated"}]
    other = splits | {"validation": splits["validation"] | {"bad_files": left_out}}
    with pytest.raises(UsageError, match=r"\(validation differ\)"):
        ensemble.check_same_data([first, changed(second, splits=other)])


def with_config(member, key, value):
    config = member.task.config.copy_and_resolve_references()
    with config.unlocked():
        config.model[key] = value
    return dataclasses.replace(member, task=dataclasses.replace(member.task, config=config))


def test_another_architecture_is_no_soup(members):
    first, second = members
    with pytest.raises(UsageError, match=r"seed1: cannot be .* model\.activation differ"):
        ensemble.soup([first, with_config(second, "activation", "tanh")])
    ensemble.soup([first, with_config(second, "dropout", 0.5)])  # of training only
    prepare = dataclasses.replace(second.task.prepare, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    other = dataclasses.replace(second, task=dataclasses.replace(second.task, prepare=prepare))
    with pytest.raises(UsageError, match="prepared differently; leave out --soup"):
        ensemble.soup([first, other])
