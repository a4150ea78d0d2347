"""What a config and its data become: shapes and places of the state, and the feeds."""

import jax
import numpy as np
import pytest

from imgclass import build, models, parallel
from imgclass.data import dataset, feed, sampling
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


@pytest.mark.parametrize(("pictures", "kind"), [(1024, feed.ResidentFeed), (1025, feed.StreamFeed)])
def test_auto_keeps_up_to_so_many_mebibytes_on_the_device(tmp_path, pictures, kind):
    """Gray pictures of 32x32 are a KiB each, so 1,024 of them are 1 MiB and one more is above."""
    path = tiny.archive(tmp_path, train=pictures, validation=0, test=0, size=32)
    changes = {
        "data.image_size": (16, 16), "data.load_size": (32, 32), "data.channels": 1,
        "data.validation_split": "", "data.resident_mb": 1,
    }  # fmt: skip
    task, found = opened(path, changes)
    made = build.train_feed(task, found)
    try:
        assert type(made) is kind
        assert made.batch(0)["image"].shape == (8, 32, 32, 1)
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["resident", "stream"])
def test_either_feed_takes_the_order_of_the_config(data, kind):
    """50 pictures, 17, 17 and 16 of the classes, whose rows are there twice running."""
    changes = {"data.feed": kind, "augment.repeats": 2, "data.sampling": "balanced", "seed": 3}
    task, found = opened(data, changes)
    made = build.train_feed(task, found)
    try:
        got = np.concatenate([made.batch(step)["index"] for step in range(3)])
    finally:
        made.close()
    order = sampling.make_order(3, found.splits["train"].labels, 8, "balanced", repeats=2)
    np.testing.assert_array_equal(got, np.concatenate([order(step) for step in range(3)]))
    np.testing.assert_array_equal(got[::2], got[1::2])


def test_an_evaluation_batch_is_rounded_up_to_the_devices(data):
    task, found = opened(data, {"train.devices": 8, "eval.batch_size": 5})
    batches = list(build.eval_feed(task, found, "validation"))
    assert [b["image"].shape[0] for b in batches] == [8, 8]
    assert [int(np.sum(b["mask"])) for b in batches] == [8, 5]  # 13 pictures


def test_a_split_that_is_not_there_has_no_feed(tmp_path):
    path = tiny.archive(tmp_path, validation=0, test=0)
    task, found = opened(path, {"data.validation_split": ""})
    assert build.eval_feed(task, found, "validation") is None
    assert build.eval_feed(task, found, "test") is None


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
