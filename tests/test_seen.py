"""The sheet of augmented pictures: what the first step trains on, laid out in rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import build, feeds, keys, parallel, seen
from imgclass.data import augment, dataset
from tests import tiny


def opened(data, changes=None):
    config = tiny.config(data, changes)
    found = dataset.open_dataset(config)
    mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
    return build.from_data(config, found, mesh, 6, 0), found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("devices", [1, 8])
def test_they_are_the_rows_of_the_first_step(data, devices):
    """Without augmentation the very pixels of the feed's first batch, on however many devices."""
    task, found = opened(data, {"train.devices": devices})
    batch = feeds.train_feed(task, found).batch(0)
    np.testing.assert_array_equal(seen.first_pictures(task, found), np.asarray(batch["image"]))


def test_they_are_augmented_as_in_the_first_step(data):
    """Flipped by the keys of rows 0 to 7 at step 0."""
    task, found = opened(data, {"augment.flip": True, "seed": 5})
    batch = feeds.train_feed(task, found).batch(0)
    plain = np.asarray(batch["image"])
    flipped = seen.first_pictures(task, found)
    row_keys = keys.for_rows(keys.stream(5, "augment"), jnp.int32(0), jnp.arange(8))
    expected, _ = augment.augment(
        jnp.asarray(plain, jnp.float32) / 255.0, jnp.eye(3)[np.asarray(batch["label"])], row_keys,
        jax.random.key(0), task.config.augment, (8, 8), jnp.zeros(3),
    )  # fmt: skip
    np.testing.assert_array_equal(flipped, np.rint(np.asarray(expected) * 255).astype(np.uint8))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, plain, strict=True)]
    assert 0 < sum(mirrored) < 8


def test_views_of_a_picture_follow_one_another(data):
    changes = {"loss.consistency": 12.0, "augment.brightness": 0.5, "train.batch_size": 16}
    task, found = opened(data, changes)
    got = seen.first_pictures(task, found, most=9)
    batch = feeds.train_feed(task, found).batch(0)
    assert got.shape == (9, 8, 8, 3)
    # The first of three views is not augmented but for crop and flip, which are off.
    np.testing.assert_array_equal(got[::3], np.asarray(batch["image"])[:3])
    assert not np.array_equal(got[1], got[0])


def test_the_sheet_by_hand():
    """9 gray pictures of 20x30, thrice enlarged to 60x90, so that the longer side is 64 or more.

    8 in a row and one below: 2 * 62 - 2 = 122 high, 8 * 92 - 2 = 734 wide.
    """
    pictures = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None], (9, 20, 30, 1))
    page = seen.sheet(pictures)
    assert (page.shape, page.dtype) == ((122, 734, 3), np.uint8)
    assert page[59, 89].tolist() == [0, 0, 0]
    assert page[0, 90].tolist() == [255, 255, 255]
    assert page[0, 92].tolist() == [1, 1, 1]
    assert page[62, 0].tolist() == [8, 8, 8]
    assert page[62, 92].tolist() == [255, 255, 255]


def test_large_pictures_stay_as_they_are():
    assert seen.sheet(np.zeros((1, 100, 80, 3), np.uint8)).shape == (100, 80, 3)
