"""Which feed a task has: of what kind, in which order, of how many rows."""

import numpy as np
import pytest

from imgclass import build, feeds, parallel
from imgclass.data import dataset, feed, sampling
from tests import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


def opened(data, changes=None):
    config = tiny.config(data, changes)
    found = dataset.open_dataset(config)
    mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
    return build.from_data(config, found, mesh, 6, 0), found


@pytest.mark.parametrize(("pictures", "kind"), [(1024, feed.ResidentFeed), (1025, feed.StreamFeed)])
def test_auto_keeps_up_to_so_many_mebibytes_on_the_device(tmp_path, pictures, kind):
    """Gray pictures of 32x32 are a KiB each, so 1,024 of them are 1 MiB and one more is above."""
    path = tiny.archive(tmp_path, train=pictures, validation=0, test=0, size=32)
    changes = {
        "data.image_size": (16, 16), "data.load_size": (32, 32), "data.channels": 1,
        "data.validation_split": "", "data.resident_mb": 1,
    }  # fmt: skip
    task, found = opened(path, changes)
    made = feeds.train_feed(task, found)
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
    made = feeds.train_feed(task, found)
    try:
        got = np.concatenate([made.batch(step)["index"] for step in range(3)])
    finally:
        made.close()
    order = sampling.make_order(3, found.splits["train"].labels, 8, "balanced", repeats=2)
    np.testing.assert_array_equal(got, np.concatenate([order(step) for step in range(3)]))
    np.testing.assert_array_equal(got[::2], got[1::2])


def test_an_evaluation_batch_is_rounded_up_to_the_devices(data):
    task, found = opened(data, {"train.devices": 8, "eval.batch_size": 5})
    batches = list(feeds.eval_feed(task, found, "validation"))
    assert [b["image"].shape[0] for b in batches] == [8, 8]
    assert [int(np.sum(b["mask"])) for b in batches] == [8, 5]  # 13 pictures


def test_a_split_that_is_not_there_has_no_feed(tmp_path):
    path = tiny.archive(tmp_path, validation=0, test=0)
    task, found = opened(path, {"data.validation_split": ""})
    assert feeds.eval_feed(task, found, "validation") is None
    assert feeds.eval_feed(task, found, "test") is None


@pytest.mark.parametrize("random", [False, True])
def test_random_crops_are_drawn_from_the_whole_picture(tmp_path, random):
    """With a crop fraction of a half the border, here white, is left out, or else is seen."""
    images = np.full((6, 16, 16, 3), 255, np.uint8)
    images[:, 4:12, 4:12] = 0
    path = tmp_path / "framed.npz"
    np.savez(path, x_train=images, y_train=np.arange(6) % 3)
    changes = {
        "data.image_size": (8, 8), "data.load_size": (16, 16), "data.resize": "crop",
        "data.crop_fraction": 0.5, "data.validation_split": "", "data.test_split": "",
        "augment.random_resized_crop": random,
    }  # fmt: skip
    task, found = opened(path, changes)
    made = feeds.train_feed(task, found)
    try:
        corner = int(np.asarray(made.batch(0)["image"])[0, 0, 0, 0])
    finally:
        made.close()
    assert (corner == 255) == random  # else a pixel between black and white


@pytest.mark.parametrize("kind", ["resident", "stream"])
def test_the_cache_of_the_config_is_read_and_named(data, kind, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caplog.set_level("INFO")
    batches = []
    for cached in ("", "raw", "raw"):
        task, found = opened(data, {"data.feed": kind, "data.cache": cached})
        made = feeds.train_feed(task, found)
        batches.append(np.asarray(made.batch(3)["image"]))
        made.close()
    np.testing.assert_array_equal(batches[0], batches[1])
    np.testing.assert_array_equal(batches[0], batches[2])
    (path,) = (tmp_path / "imgclass/pictures").iterdir()
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in said] == ["decoding", "training", "training"]
    assert said[1] == f"training pictures: {path} (0 MiB)"
