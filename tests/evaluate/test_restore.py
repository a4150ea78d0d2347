"""Opening a run: which step, which weights, and what is done where a checkpoint is gone."""

import json
import logging
import shutil

import numpy as np
import pytest

from imgclass import train
from imgclass.errors import UsageError, UserError
from imgclass.evaluate import restore, score
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with checkpoints of steps 2, 4 and 6, of which 4 was made the best."""
    root = tmp_path_factory.mktemp("run")
    accuracies = iter([0.5, 0.9, 0.1])
    real = score.score

    def scored(*args):
        return real(*args) | {"accuracy": next(accuracies)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "score", scored)
        changes = {"eval.every_steps": 2, "checkpoint.every_steps": 2, "checkpoint.keep": 3}
        train.train_and_evaluate(tiny.config(tiny.archive(root), changes), root / "run")
    assert tiny.saved_steps(root / "run") == [2, 4, 6]
    return root / "run"


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it that may be spoiled."""
    return shutil.copytree(finished, tmp_path / "run")


def checkpoint_of(folder, step):
    return folder / f"checkpoints/{step:010d}"


def damage(folder, step):
    """Flips a bit of the largest file of a checkpoint."""
    files = [path for path in (checkpoint_of(folder, step) / "arrays").rglob("*") if path.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def assert_weights(restored, folder, step, section="params"):
    assert restored.step == step
    kernel = tiny.arrays(folder, step)[f"{section}.head.kernel"]
    np.testing.assert_array_equal(restored.variables["params"]["head"]["kernel"], kernel)


@pytest.mark.parametrize(
    ("which", "step"), [("best", 4), ("latest", 6), ("2", 2), ("4", 4), ("0006", 6)]
)
def test_which_step(finished, which, step):
    restored = restore.restore(finished, which)
    assert_weights(restored, finished, step)
    assert restored.variables.keys() == {"params", "batch_stats"}
    assert restored.folder == finished
    assert restored.task.class_names == ("0", "1", "2")
    assert restored.data["splits"]["validation"]["examples"] == 13


def test_the_best_is_what_is_taken_unasked(finished):
    assert restore.restore(finished).step == 4


@pytest.mark.parametrize("which", ["3", "8", "-2", "first", "", "4.0", "²"])
def test_a_step_that_is_not_there_names_those_that_are(finished, which):
    with pytest.raises(UsageError) as caught:
        restore.restore(finished, which)
    assert f"no checkpoint {which!r}; there are best, latest, 2, 4, 6" in str(caught.value)


def test_the_best_that_is_gone_is_replaced_by_the_latest(folder, caplog):
    shutil.rmtree(checkpoint_of(folder, 4))
    with caplog.at_level(logging.WARNING):
        assert_weights(restore.restore(folder), folder, 6)
    assert caplog.messages == ["step 4, the best, is gone; taking the latest"]


def test_a_damaged_best_is_not_used(folder):
    damage(folder, 4)
    with pytest.raises(UserError, match="0000000004: this checkpoint is damaged"):
        restore.restore(folder)


def test_which_was_the_best_is_known_from_an_earlier_checkpoint_if_the_newest_is_damaged(
    folder, caplog
):
    damage(folder, 6)
    with caplog.at_level(logging.WARNING):
        assert_weights(restore.restore(folder, "best"), folder, 4)
    assert len(caplog.messages) == 1
    assert "checkpoint of step 6 is damaged" in caplog.text


def test_the_latest_is_the_newest_that_is_intact(folder, caplog):
    damage(folder, 6)
    with caplog.at_level(logging.WARNING):
        assert_weights(restore.restore(folder, "latest"), folder, 4)
    assert "checkpoint of step 6 is damaged" in caplog.text


def test_a_step_asked_for_by_number_is_that_or_nothing(folder):
    damage(folder, 2)
    with pytest.raises(UserError, match="0000000002: this checkpoint is damaged; ask for another"):
        restore.restore(folder, "2")


@pytest.mark.parametrize("which", ["best", "latest"])
def test_a_run_whose_checkpoints_are_all_damaged(folder, which):
    for step in (2, 4, 6):
        damage(folder, step)
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(steps 2, 4, 6\)"):
        restore.restore(folder, which)


def test_a_run_without_validation_has_only_its_latest(tmp_path):
    path = tiny.archive(tmp_path, validation=0, test=0)
    changes = {"data.validation_split": "", "checkpoint.every_steps": 3}
    train.train_and_evaluate(tiny.config(path, changes), tmp_path / "run")
    assert restore.restore(tmp_path / "run", "best").step == 6


def test_averaged_weights_are_the_ones_to_use(tmp_path):
    changes = {"optim.ema_decay": 0.5, "model.batch_norm": True}
    train.train_and_evaluate(tiny.config(tiny.archive(tmp_path), changes), tmp_path / "run")
    restored = restore.restore(tmp_path / "run", "latest")
    assert_weights(restored, tmp_path / "run", 6, "ema.params")
    stored = tiny.arrays(tmp_path / "run")
    assert (stored["ema.params.head.kernel"] != stored["params.head.kernel"]).any()
    mean = restored.variables["batch_stats"]["block1_bn1"]["mean"]
    np.testing.assert_array_equal(mean, stored["ema.batch_stats.block1_bn1.mean"])


def test_what_is_no_run_or_has_not_saved_yet(folder, tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        restore.restore(tmp_path)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="no finished checkpoint yet"):
        restore.restore(folder)


def test_a_damaged_description_of_the_data(folder):
    (folder / "data.json").write_text(json.dumps({})[:1])
    with pytest.raises(UserError, match=r"data\.json cannot be read"):
        restore.restore(folder)
