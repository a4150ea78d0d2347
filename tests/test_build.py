"""What a config and its data become: shapes and places of the state."""

import dataclasses

import jax
import numpy as np
import pytest

from imgclass import build, models, parallel
from imgclass.data import dataset
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


def make(config, opened):
    mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
    return build.make(config, opened.source.class_names, opened.prepare, mesh, 6, 0)


def opened(data, changes=None):
    config = tiny.config(data, changes)
    found = dataset.open_dataset(config)
    return make(config, found), found


def test_the_abstract_state_is_that_of_the_first_one(data):
    task, _ = opened(data, tiny.FULL | {"train.devices": 8, "train.fsdp": True})
    first = task.initial_state()

    def form(leaf):
        return leaf.shape, leaf.dtype, leaf.sharding

    assert jax.tree.map(form, first) == jax.tree.map(form, task.abstract)
    assert first.ema.keys() == {"params", "batch_stats"}
    # 3x3x3x4 without a bias, scale and bias of the norm, 3x3x4 inputs to 3 classes and 3 biases.
    assert models.count_parameters(first.params) == 108 + 8 + 36 * 3 + 3
    assert task.class_names == ("0", "1", "2")


def test_the_first_state_depends_on_the_seed_alone(data):
    def kernel(changes):
        return np.asarray(opened(data, changes)[0].initial_state().params["head"]["kernel"])

    one = kernel({"train.devices": 1})
    np.testing.assert_array_equal(one, kernel({"train.devices": 8, "optim.lr": 0.5}))
    assert (one != kernel({"train.devices": 1, "seed": 1})).any()


def test_a_model_that_does_not_fit_the_pictures_is_refused(data):
    with pytest.raises(UsageError, match=r"model\.kernel_size"):
        opened(data, {"model.kernel_size": 9})


def test_classes_are_counted_to_the_last(data):
    """50 pictures are 17, 17 and 16 of the classes; a last class without any counts as well."""
    config = tiny.config(data)
    found, mesh = dataset.open_dataset(config), parallel.make_mesh(1, 8)
    task = build.from_data(config, found, mesh, 6, 2)
    assert task.class_names == ("0", "1", "2")
    assert (task.class_counts, task.total_steps) == ((17, 17, 16), 6)
    source = dataclasses.replace(found.source, class_names=("0", "1", "2", "3"))
    more = build.from_data(config, dataclasses.replace(found, source=source), mesh, 6, 2)
    assert more.class_counts == (17, 17, 16, 0)
    assert models.count_parameters(more.abstract.params["head"]) == 36 * 4 + 4


def test_the_same_task_from_what_a_run_stored(data):
    """Evaluation builds from data.json what training built from the open data."""
    changes = {"data.standardize": "train"}
    task, found = opened(data, changes)
    stored = dataset.describe(found)
    again = build.make(
        tiny.config(data, changes), tuple(stored["class_names"]),
        Preprocess.from_json(stored["preprocess"]), task.mesh, 6, 0,
    )  # fmt: skip
    assert again.prepare == task.prepare
    assert len(again.prepare.mean) == 3
    assert again.abstract == task.abstract
