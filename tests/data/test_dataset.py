"""The data of a run: bad files left out once and for all, statistics, and what is stored."""

import errno
import json
import pathlib
import tracemalloc

import numpy as np
import pytest

from imgclass.data import dataset
from imgclass.data.arrays import ArraySplit
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError, UserError
from tests import tiny

SKIP = {"data.bad_files": "skip"}


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.fixture
def pictures(tmp_path):
    """A folder of 12 training and 6 validation pictures; class k holds numbers k, k+3, ..."""
    tiny.folder(tmp_path, "train", 12)
    return tiny.folder(tmp_path, "validation", 6, seed=1)


def test_bad_files_are_left_out_named_and_counted(pictures):
    truncate(pictures / "train/class1/0004.png")
    (pictures / "train/class2/0011.png").write_bytes(b"")
    truncate(pictures / "validation/class0/0003.png")
    opened = dataset.open_dataset(tiny.config(pictures, SKIP))
    assert {role: [bad.name for bad in found] for role, found in opened.bad.items()} == {
        "train": ["train/class1/0004.png", "train/class2/0011.png"],
        "validation": ["validation/class0/0003.png"],
    }
    assert all(bad.reason for found in opened.bad.values() for bad in found)
    assert {role: len(split) for role, split in opened.splits.items()} == {
        "train": 10, "validation": 5,
    }  # fmt: skip
    kept = opened.splits["train"].example_names(range(10))
    assert "train/class1/0004.png" not in kept
    assert opened.splits["train"].labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    described = dataset.describe(opened)["splits"]["train"]
    assert (described["examples"], described["class_counts"]) == (10, [4, 3, 3])


def test_a_second_start_leaves_out_the_same_without_looking_again(pictures, monkeypatch):
    truncate(pictures / "train/class1/0004.png")
    config = tiny.config(pictures, SKIP | {"data.standardize": "train"})
    first = dataset.open_dataset(config)
    stored = json.loads(json.dumps(dataset.describe(first)))

    def never(*_):
        raise AssertionError("the work done at the first start is done again")

    monkeypatch.setattr(dataset, "find_bad", never)
    monkeypatch.setattr(dataset, "mean_and_std", never)
    again = dataset.open_dataset(config, stored)
    assert again.bad == first.bad
    assert again.prepare == first.prepare
    names = [opened.splits["train"].example_names(range(11)) for opened in (first, again)]
    assert names[0] == names[1]
    assert json.loads(json.dumps(dataset.describe(again))) == stored


def test_a_file_that_cannot_be_read_is_left_out_like_one_that_cannot_be_decoded(
    pictures, monkeypatch
):
    opens = pathlib.Path.open

    def denied(path, *how, **more):
        if path.name == "0004.png" and path.parent.parent.name == "train":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opens(path, *how, **more)

    whole = dataset.describe(dataset.open_dataset(tiny.config(pictures)))["splits"]
    monkeypatch.setattr(pathlib.Path, "open", denied)
    opened = dataset.open_dataset(tiny.config(pictures, SKIP))
    (bad,) = opened.bad["train"]
    assert bad.name == "train/class1/0004.png"
    assert bad.reason.endswith("0004.png: Permission denied")
    described = dataset.describe(opened)
    assert described["splits"]["train"]["class_counts"] == [4, 3, 4]
    # It counts in the fingerprint, as unreadable: reading it later is a change.
    dataset.open_dataset(tiny.config(pictures, SKIP), described)
    prints = [splits["train"]["fingerprint"] for splits in (whole, described["splits"])]
    assert prints[0] != prints[1]
    monkeypatch.undo()
    with pytest.raises(UsageError, match="train changed"):
        dataset.open_dataset(tiny.config(pictures, SKIP), described)


@pytest.mark.parametrize("threads", [1, 3])
def test_bad_files_are_found_in_order_for_any_thread_count(pictures, threads, monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK", 2)
    for name in ("class0/0006.png", "class1/0001.png", "class2/0011.png"):
        truncate(pictures / "train" / name)
    opened = dataset.open_dataset(tiny.config(pictures, SKIP | {"data.threads": threads}))
    # Class 0 is files 0, 3, 6, 9, so 0006 is at place 2; 0001 at 4, 0011 at 11.
    assert [bad.index for bad in opened.bad["train"]] == [2, 4, 11]


def test_nothing_left_to_train_on_is_an_error(pictures):
    for path in (pictures / "train").rglob("*.png"):
        truncate(path)
    with pytest.raises(UserError, match="no training examples"):
        dataset.open_dataset(tiny.config(pictures, SKIP))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/class0/0000.png").unlink(),
        lambda root: (root / "train/class0/9999.png").write_bytes(
            (root / "train/class0/0000.png").read_bytes()
        ),
        lambda root: (root / "train/class0/0000.png").rename(root / "train/class1/0000.png"),
        lambda root: truncate(root / "train/class0/0000.png"),
    ],
    ids=["removed", "added", "relabelled", "rewritten"],
)
def test_data_that_changed_since_the_run_began_is_refused(pictures, change):
    config = tiny.config(pictures)
    stored = dataset.describe(dataset.open_dataset(config))
    dataset.open_dataset(config, stored)
    change(pictures)
    with pytest.raises(UsageError, match="train changed"):
        dataset.open_dataset(config, stored)


def test_a_renamed_class_is_refused(pictures):
    config = tiny.config(pictures)
    stored = dataset.describe(dataset.open_dataset(config))
    for split in ("train", "validation"):
        (pictures / split / "class2").rename(pictures / split / "class9")
    with pytest.raises(UsageError, match="changed"):
        dataset.open_dataset(config, stored)


@pytest.mark.parametrize("threads", [1, 2])
def test_mean_and_deviation_are_numpys(tmp_path, threads, monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK", 7)
    data = tiny.archive(tmp_path, train=40)
    config = tiny.config(data, {"data.standardize": "train", "data.threads": threads})
    opened = dataset.open_dataset(config)
    pixels = np.load(data)["x_train"].reshape(-1, 3) / 255  # float64
    np.testing.assert_allclose(opened.prepare.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(opened.prepare.std, pixels.std(0), rtol=1e-10)


def test_deviation_by_hand(tmp_path):
    # Pixels 0 and 255, half each: mean 1/2, deviation 1/2.
    x = np.zeros((2, 2, 2, 3), np.uint8)
    x[1] = 255
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    config = tiny.config(
        tmp_path / "a.npz",
        {"data.standardize": "train", "data.image_size": (2, 2), "data.validation_fraction": 0.0,
         "data.validation_split": ""},
    )  # fmt: skip
    opened = dataset.open_dataset(config)
    assert opened.prepare.mean == (0.5, 0.5, 0.5)
    assert opened.prepare.std == (0.5, 0.5, 0.5)


def test_a_constant_channel_has_no_deviation(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    x[..., 1] = 7
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1] * 3)
    config = tiny.config(
        tmp_path / "a.npz", {"data.standardize": "train", "data.validation_split": ""}
    )
    with pytest.raises(UsageError, match="the same in every picture"):
        dataset.open_dataset(config)


def test_statistics_take_little_memory():
    x = np.zeros((256, 96, 96, 3), np.uint8)
    x[::2] = 200
    split = ArraySplit("train", x, np.zeros(256, np.int32))
    tracemalloc.start()
    dataset.mean_and_std(split, Preprocess(image_size=(96, 96)), threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The chunk itself is 6.8 MiB; int64 pixels and their squares would be 108 more.
    assert peak < 16 * 2**20


def test_training_pictures_may_be_loaded_larger(pictures):
    data = tiny.config(pictures, {"data.load_size": (10, 12)}).data
    assert dataset.train_size(data) == (10, 12)
    assert dataset.train_size(tiny.config(pictures).data) == (8, 8)
