import importlib.util
import io
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from imgclass.data.digits import open_digits
from imgclass.data.source import open_source
from imgclass.errors import UsageError, UserError
from tests.data.sections import data_section

SHARED = pathlib.Path(__file__).resolve().parents[2] / ".." / "shared" / "tfds"
TRAIN = "digits-train.array_record-00000-of-00001"
needs_cifar10 = pytest.mark.skipif(
    not (SHARED / "cifar10").exists(), reason="CIFAR-10 is not beside the repository"
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The user's cache, kept out of the tests; made once a session."""
    folder = tmp_path_factory.getbasetemp() / "tfds-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def prepared(cache, tmp_path):
    """A data_dir with a copy of a small prepared set, to be opened by name or damaged."""
    open_digits()
    shutil.copytree(cache / "imgclass" / "tfds" / "digits", tmp_path / "digits")
    return tmp_path / "digits" / "1.0.0"


def as_path(prepared, **changes):
    return open_source(data_section(prepared, **changes))


def test_a_folder_of_a_prepared_set(prepared):
    source = as_path(prepared)
    assert source.kind == "tfds"
    assert source.class_names == tuple("0123456789")
    assert {role: len(own) for role, own in source.splits.items()} == {
        "train": 1298,
        "validation": 144,
        "test": 355,
    }


def test_a_prepared_set_without_code_is_found_by_name(prepared):
    for name in ("train", "test"):
        next(prepared.glob(f"digits-{name}*")).rename(
            prepared / f"marks-{name}.array_record-00000-of-00001"
        )
    info = json.loads((prepared / "dataset_info.json").read_text())
    (prepared / "dataset_info.json").write_text(json.dumps(info | {"name": "marks"}))
    prepared.parent.rename(prepared.parents[1] / "marks")
    source = open_source(data_section("marks:1.0.0", data_dir=str(prepared.parents[1])))
    assert len(source.splits["test"]) == 355


def test_slices_of_a_stored_set_may_miss_classes(prepared):
    source = as_path(prepared, train_split="train[:4]", validation_split="", test_split="")
    assert len(source.splits["train"]) == 4
    assert source.notes[0].startswith("no train example of")


def test_reads_in_the_order_asked(prepared):
    test = as_path(prepared).splits["test"]
    one_by_one = [test.read([i])[0] for i in (300, 2, 300)]
    together = test.read([300, 2, 300])
    assert [(r.name, r.label, r.image) for r in together] == [
        (r.name, r.label, r.image) for r in one_by_one
    ]
    assert [r.name for r in together] == ["test/300", "test/2", "test/300"]
    assert [r.label for r in together] == test.labels[[300, 2, 300]].tolist()
    assert test.read([]) == []


def test_labels_are_read_once(prepared, monkeypatch):
    labels = as_path(prepared).splits["test"].labels
    monkeypatch.setattr("imgclass.data.tfds_split.TfdsSplit._read_labels", None)
    assert as_path(prepared).splits["test"].labels.tolist() == labels.tolist()


def test_a_damaged_or_unwritable_cache_only_costs_time(prepared, cache, tmp_path, monkeypatch):
    labels = as_path(prepared).splits["test"].labels
    for path in (cache / "imgclass" / "labels").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert as_path(prepared).splits["test"].labels.tolist() == labels.tolist()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert as_path(prepared).splits["test"].labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_key": "picture"}, "data.image_key='picture' has to be a feature of type Image"),
        (
            {"label_key": "image"},
            r"type ClassLabel; there are image \(Image\), label \(ClassLabel\)",
        ),
    ],
)
def test_features_that_are_not_there(prepared, changes, message):
    with pytest.raises(UsageError, match=message):
        as_path(prepared, **changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar11",
            "no tfds set of that name, and no folder of that name either. Near names: .*cifar10",
        ),
        ("cifar10:9.9.9", "Dataset cifar10 cannot be loaded at version 9.9.9, only: 3.0.2"),
        ("cifar10/small", "BuilderConfig small not found"),
        ("huggingface:mnist", "only tfds's own sets are supported"),
        ("my pictures", "data.name='my pictures': Parsing builder name string my pictures failed"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(UsageError, match=message):
        open_source(data_section(name))


def test_a_set_that_is_not_prepared_says_what_to_run(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name)
    )
    message = (
        rf"mnist is not prepared in {tmp_path}, and preparing it needs tensorflow.\n"
        r"Run: pip install -e '.\[prepare\]' in imgclass's folder, then the same command again"
    )
    with pytest.raises(UserError, match=message):
        open_source(data_section("mnist", data_dir=str(tmp_path)))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_a_flipped_bit_names_file_and_record(prepared):
    flip(prepared / TRAIN, 5000)
    with pytest.raises(UserError, match=rf"{TRAIN}: record (\d+) \(example train/\1\) is damaged"):
        as_path(prepared)


@pytest.mark.parametrize("length", [0, 10, 200_000])
def test_a_truncated_file_is_named(prepared, length):
    (prepared / TRAIN).write_bytes((prepared / TRAIN).read_bytes()[:length])
    message = rf"{TRAIN} holds 0 records where dataset_info.json says 1442: prepare the set again"
    with pytest.raises(UserError, match=message):
        as_path(prepared)


def test_a_missing_file_is_named(prepared):
    (prepared / TRAIN).unlink()
    with pytest.raises(UserError, match=rf"{TRAIN} is missing: prepare digits/1.0.0 again"):
        as_path(prepared)


def test_damaged_metadata(prepared):
    (prepared / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="is not a readable tfds set: Failed to load JSON"):
        as_path(prepared)


def test_tfrecord_cannot_be_read_by_index(prepared):
    path = prepared / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        UserError, match=r"stored as tfrecord, and array_record is needed.\nPrepare"
    ):
        as_path(prepared)


def test_the_fingerprint_sees_a_flipped_bit(prepared):
    before = as_path(prepared).splits["test"]
    assert before.fingerprint_kind == "content"
    flip(next(prepared.glob("digits-test*")), 10)  # in the unused part of the header
    assert as_path(prepared).splits["test"].fingerprint != before.fingerprint


def test_few_open_files_are_enough(prepared, monkeypatch):
    monkeypatch.setattr("imgclass.data.tfds_split._most_open_files", lambda: 1)
    test = as_path(prepared).splits["test"]
    assert [r.name for r in test.read([0, 354])] == ["test/0", "test/354"]


@needs_cifar10
def test_cifar10():
    source = open_source(data_section("cifar10", data_dir=str(SHARED)))
    assert source.class_names[:3] == ("airplane", "automobile", "bird")
    counts = {role: np.bincount(own.labels).tolist() for role, own in source.splits.items()}
    assert counts == {"train": [4500] * 10, "validation": [500] * 10, "test": [1000] * 10}
    train = source.splits["train"]
    for record in train.read([44999, 0, 12345]):
        with PIL.Image.open(io.BytesIO(record.image)) as picture:
            assert (picture.size, picture.mode) == ((32, 32), "RGB")
