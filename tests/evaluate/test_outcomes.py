"""Outcomes: masked rows, ties, what is kept on disk, and the look that a test split costs."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from imgclass import train
from imgclass.data import dataset
from imgclass.errors import UsageError, UserError
from imgclass.evaluate import outcomes, restore
from tests import tiny

NAN = math.nan


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """A run of 6 steps on three classes; 13 pictures of validation, 11 of test."""
    root = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(tiny.config(tiny.archive(root)), root / "run")
    return restore.restore(root / "run")


@pytest.fixture
def found(restored, tmp_path):
    """The run, its folder an empty one, so that what is written there is seen."""
    return dataclasses.replace(restored, folder=tmp_path, data=dict(restored.data))


def made(probabilities, labels):
    return outcomes.Outcomes(
        np.array(probabilities, np.float32),
        np.array(labels, np.int32),
        np.arange(len(labels), dtype=np.int64),
    )


def test_ties_go_to_the_lower_label_and_nan_is_never_right():
    said = made(
        [[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [NAN, NAN, NAN], [0.1, 0.2, 0.7]], [1, 1, 0, 2]
    )
    assert said.predicted.tolist() == [1, 0, 0, 2]
    assert said.predicted.dtype == np.int32
    np.testing.assert_array_equal(said.confidence, np.array([0.4, 0.5, NAN, 0.7], np.float32))
    assert said.right.tolist() == [True, False, False, True]
    assert len(said) == 4


def test_collect_leaves_out_masked_rows_and_keeps_the_order():
    def eval_step(variables, batch):
        return {}, batch["image"] * variables

    def batch(values, labels, index, mask):
        rows = np.array(values, np.float32)
        return {
            "image": np.stack([rows, 1 - rows], axis=1),
            "label": np.array(labels, np.int32),
            "index": np.array(index, np.int32),
            "mask": np.array(mask),
        }

    batches = [
        batch([0.1, 0.9], [0, 1], [0, 1], [True, True]),
        batch([0.3, NAN], [1, 0], [2, 0], [True, False]),
    ]
    said = outcomes.collect(eval_step, np.float32(1), batches)
    np.testing.assert_allclose(said.probabilities[:, 0], [0.1, 0.9, 0.3], rtol=1e-6)
    assert said.probabilities.dtype == np.float32
    assert said.labels.tolist() == [0, 1, 1]
    assert said.index.tolist() == [0, 1, 2]
    assert (said.labels.dtype, said.index.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize(("split", "examples"), [("train", 50), ("validation", 13), ("test", 11)])
def test_a_split_is_scored_once_an_example_on_eight_devices(found, split, examples):
    assert found.task.mesh.devices.size == 8 == len(jax.devices())
    data = outcomes.open_data(found)
    said = outcomes.of_split(found, data, split)
    assert said.index.tolist() == list(range(examples))
    assert said.labels.tolist() == [i % tiny.CLASSES for i in range(examples)]
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1, rtol=1e-6)
    # Row 1 by itself, as `predict` would see it.
    picture = tiny.pictures(examples, seed=["train", "validation", "test"].index(split))[0][1]
    x = found.task.prepare.standardize(np.float32(picture[None]) / np.float32(255))
    logits = np.asarray(found.task.model.apply(found.variables, x)[0])[0].astype(np.float64)
    by_hand = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(said.probabilities[1], by_hand, rtol=1e-4)


def test_a_look_at_test_is_recorded_and_no_other(found):
    data = outcomes.open_data(found)
    outcomes.of_split(found, data, "validation")
    path = found.folder / "test_looks.jsonl"
    assert not path.exists()
    outcomes.of_split(found, data, "test", verb="report")
    outcomes.of_split(found, data, "test")
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(look["verb"], look["step"]) for look in written] == [("report", 6), ("evaluate", 6)]


def test_a_split_that_is_not_there(found, tmp_path):
    data = dataset.open_dataset(found.task.config, found.data)
    del data.splits["test"]
    with pytest.raises(UsageError, match="its data has no test split; it has train, validation"):
        outcomes.of_split(found, data, "test")
    assert not (tmp_path / "test_looks.jsonl").exists()


def test_a_run_without_data(found):
    found.data["kind"] = "none"
    with pytest.raises(UsageError, match=r"imported without data; import it with --config\.data"):
        outcomes.open_data(found)


def test_what_is_kept_is_read_back(tmp_path):
    assert outcomes.read(tmp_path, "test") is None
    said = made([[0.25, 0.75], [0.5, 0.5], [0.875, 0.125]], [1, 1, 1])
    outcomes.write(tmp_path, "test", 366, said)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions-test.npz"]
    stored = outcomes.read(tmp_path, "test")
    assert stored.step == 366
    assert stored.index.tolist() == [0, 1, 2]
    assert stored.label.tolist() == [1, 1, 1]
    assert stored.predicted.tolist() == [1, 0, 0]
    assert stored.confidence.tolist() == [0.75, 0.5, 0.875]
    assert stored.probability.tolist() == [0.75, 0.5, 0.125]
    assert stored.right.tolist() == [True, False, False]
    assert outcomes.read(tmp_path, "validation") is None
    outcomes.write(tmp_path, "test", 406, said)
    assert outcomes.read(tmp_path, "test").step == 406


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "predictions-test.npz"
    outcomes.write(tmp_path, "test", 1, made([[0.25, 0.75]], [1]))
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[:-40]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"predictions-test\.npz cannot be read"):
            outcomes.read(tmp_path, "test")
    np.savez(path, step=1, index=[0])
    with pytest.raises(UserError, match="cannot be read"):
        outcomes.read(tmp_path, "test")
    rows = {name: np.zeros(2, kind) for name, kind in outcomes.ARRAYS.items()}
    np.savez(path, step=1, **(rows | {"label": np.zeros(3, np.int32)}))
    with pytest.raises(UserError, match="does not hold predictions"):
        outcomes.read(tmp_path, "test")


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        outcomes.write(tmp_path / "gone", "test", 1, made([[0.25, 0.75]], [1]))
