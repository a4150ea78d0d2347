"""Crops on the host: where the boxes lie, and that they belong to (seed, step, row) alone."""

import math

import numpy as np
import pytest
from PIL import Image

from imgclass import build, feeds, parallel, seen
from imgclass.config import ConfigError
from imgclass.data import dataset, feed, folder, host_crop
from imgclass.data.host_crop import RandomCrop
from imgclass.data.preprocess import Preprocess
from tests import tiny


def boxes(n, size=(300, 400), scale=(0.08, 1.0), ratio=(0.75, 4 / 3)):
    drawn = np.random.default_rng(0).random((n, 4))
    return np.array([host_crop.window(row, size, scale, ratio) for row in drawn])


def test_boxes_have_the_areas_and_shapes_asked_for():
    top, left, height, width = boxes(4000, scale=(0.1, 0.3)).T
    share = height * width / (300 * 400)
    assert share.min() > 0.097  # sides are rounded to pixels
    assert share.max() < 0.303
    assert abs(share.mean() - 0.2) < 0.003  # uniform; 3.3 standard errors
    aspect = np.log(width / height)
    assert np.abs(aspect).max() < math.log(4 / 3) + 0.02
    assert abs(aspect.mean()) < 0.01
    assert (top + height).max() == 300
    assert (left + width).max() == 400
    assert min(top.min(), left.min()) == 0


def test_a_box_that_does_not_fit_is_the_largest_of_its_shape():
    # The whole area at 4/3 of a square: 115.5 x 86.6, shrunk to a width of 100.
    assert host_crop.window(np.array([0, 1, 0, 0.99]), (100, 100), (1, 1), (1, 4 / 3)) == (
        0, 0, 75, 100,
    )  # fmt: skip
    assert host_crop.window(np.zeros(4), (1, 1), (0.01, 0.01), (1, 1)) == (0, 0, 1, 1)


def test_a_crop_is_the_resized_box():
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    crop = RandomCrop(3, 8, (0.08, 1.0), (0.75, 1.3333), (10, 12), "bilinear")
    found = crop.boxes(crop.drawn(5), 30, 40)
    words = np.random.Philox(key=[3, 5], counter=[0, 0, 0, 2**33]).random_raw(32)
    for row in range(8):
        drawn = np.array([int(word) // 2**11 / 2**53 for word in words[4 * row : 4 * row + 4]])
        top, left, height, width = host_crop.window(drawn, (30, 40), (0.08, 1.0), (0.75, 1.3333))
        box = Image.fromarray(pixels).crop((left, top, left + width, top + height))
        expected = np.asarray(box.resize((12, 10), Image.Resampling.BILINEAR))
        assert found[row] == (top, left, height, width)
        cut = pixels[top : top + height, left : left + width]
        np.testing.assert_array_equal(crop.resized(cut), expected)


def a_feed(split, rows, batch_size, repeats=1, threads=2):
    crop = RandomCrop(4, batch_size, (0.08, 1.0), (0.75, 1.3333), (6, 5), "bilinear")
    return feed.StreamFeed(
        split, Preprocess(image_size=(6, 5)), (6, 5), seed=4, batch_size=batch_size,
        rows=np.array(rows), put=dict, repeats=repeats, crop=crop, threads=threads,
    )  # fmt: skip


def images(feeding, step):
    try:
        return feeding.batch(step)["image"]
    finally:
        feeding.close()


def test_a_crop_belongs_to_seed_step_and_row(tmp_path):
    split = folder.open_folder(tiny.folder(tmp_path, "train", 20, size=24)).splits["train"]
    whole = images(a_feed(split, range(8), 8), 3)
    np.testing.assert_array_equal(whole, images(a_feed(split, range(8), 8, threads=5), 3))
    parts = [images(a_feed(split, rows, 8), 3) for rows in ([0, 1, 2, 3], [4, 5, 6, 7])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    # One example fills three rows running: each has a box of its own.
    repeated = images(a_feed(split, range(6), 6, repeats=3), 0)
    assert len({image.tobytes() for image in repeated}) == 6


def task_of(data, changes):
    keys = {"augment.random_resized_crop": True, "augment.crop_on": "host"}
    config = tiny.config(data, keys | changes)
    found = dataset.open_dataset(config)
    mesh = parallel.make_mesh(1, config.train.batch_size)
    return build.from_data(config, found, mesh, 6, 0), found


@pytest.mark.parametrize("cached", ["", "raw", "jpeg"])
def test_training_sees_the_hosts_crops(tmp_path, monkeypatch, cached):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    changes = {"data.load_size": (24, 24), "data.cache": cached}
    task, found = task_of(tiny.archive(tmp_path, size=40), changes)
    made = feeds.train_feed(task, found)
    assert isinstance(made, feed.StreamFeed)  # though 'auto' would keep so small a set
    batch = np.asarray(images(made, 0))
    assert batch.shape == (8, 8, 8, 3)
    # Nothing else changes pixels, so the model sees them as they are.
    np.testing.assert_array_equal(seen.first_pictures(task, found, most=8), batch)


def test_the_resident_feed_holds_no_whole_pictures_to_crop(tmp_path):
    with pytest.raises(ConfigError, match=r"crop_on='host' needs the stream feed"):
        task_of(tiny.archive(tmp_path), {"data.feed": "resident"})
