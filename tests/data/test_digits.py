import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from imgclass.data.digits import held_out, open_digits
from imgclass.data.source import open_source
from imgclass.errors import UserError
from tests.data.sections import data_section


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def digits(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return open_digits()


def pixels(split):
    records = split.read(range(len(split)))
    return np.stack([np.asarray(PIL.Image.open(io.BytesIO(r.image))) for r in records])


def shard(cache):
    return next((cache / "imgclass" / "tfds" / "digits" / "1.0.0").glob("*test.array_record*"))


def test_every_picture_of_scikit_learn_is_there_once(digits):
    expected, labels = sklearn.datasets.load_digits(return_X_y=True)
    train, test = digits.splits["train"], digits.splits["test"]
    assert (len(train), len(test)) == (1442, 355)
    assert set(digits.splits) == {"train", "test"}
    stored = np.concatenate([pixels(train), pixels(test)])
    assert stored.dtype == np.uint8
    stored_labels = np.concatenate([train.labels, test.labels])
    # 0..16 to 0..255 in steps of 15.9375, so no two intensities meet and back is exact.
    back = np.round(stored.reshape(1797, 64) / 15.9375)
    rows = sorted(map(tuple, np.column_stack([back, stored_labels])))
    assert rows == sorted(map(tuple, np.column_stack([expected, labels])))


def test_a_fifth_of_each_class_is_test(digits):
    test = np.bincount(digits.splits["test"].labels)
    both = test + np.bincount(digits.splits["train"].labels)
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # A fifth of each, rounded down.
    assert test.tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]


def test_the_fifth_of_each_class_is_test():
    assert held_out(np.array([1, 1, 0, 1, 1, 1, 0, 1])).tolist() == [False] * 5 + [
        True,
        False,
        False,
    ]


def test_names_and_labels(digits):
    assert digits.class_names == tuple("0123456789")
    record = digits.splits["test"].read([5])[0]
    assert record.name == "test/5"
    assert record.label == digits.splits["test"].labels[5]
    assert record.image.startswith(b"\x89PNG")


def test_as_a_source(digits):
    source = open_source(data_section("digits"))
    assert {role: len(own) for role, own in source.splits.items()} == {
        "train": 1298,
        "validation": 144,
        "test": 355,
    }
    assert source.notes == ()


def test_the_second_opening_prepares_nothing(digits, cache):
    before = os.stat(shard(cache)).st_mtime_ns
    open_digits()
    assert os.stat(shard(cache)).st_mtime_ns == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_set_is_prepared_again(digits, cache, damage):
    path = shard(cache)
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:3000])
    again = open_digits()
    assert again.splits["test"].fingerprint == digits.splits["test"].fingerprint
    assert [entry.name for entry in (cache / "imgclass" / "tfds").iterdir()] == ["digits"]


def test_the_fingerprint_is_that_of_the_pixels(digits):
    # The same on every machine, whatever compressor wrote the PNGs.
    assert digits.splits["test"].fingerprint == "12e260dcbe5dd520008c64efad087d66"
    assert digits.splits["test"].fingerprint_kind == "content"


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        UserError, match=r"cannot prepare digits in .*Set XDG_CACHE_HOME to a folder"
    ):
        open_digits()


def test_two_processes_at_once_print_nothing_and_need_no_tensorflow(tmp_path):
    code = (
        "import sys; from imgclass.data.digits import open_digits\n"
        "own = open_digits().splits['train']; own.read([0, 1436])\n"
        "sys.exit(9 if 'tensorflow' in sys.modules else 0)"
    )
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path),
        "TFDS_DATA_DIR": "/nowhere",
        "PYTHONWARNINGS": "error",
    }
    root = pathlib.Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for process in running:
        output, _ = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, "")
    assert [entry.name for entry in (tmp_path / "imgclass" / "tfds").iterdir()] == ["digits"]
