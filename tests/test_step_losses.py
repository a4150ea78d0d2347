"""Training with each loss, weight and teacher on pictures: it runs, and it improves."""

import json
import math

import jax
import numpy as np
import pytest

from imgclass import build, feeds, parallel, train
from imgclass.data import dataset
from imgclass.errors import UserError
from imgclass.evaluate import restore, score
from imgclass.state import eval_variables
from tests import tiny

COMMON = {
    "train.batch_size": 16, "optim.lr": 0.01, "model.batch_norm": True, "eval.batch_size": 64,
    "train.total_steps": 40,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes of 8x8 pictures, 60, 12 and 4 to train on and 10 each to validate."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    images, labels = tiny.pictures(180)
    kept = np.concatenate([np.flatnonzero(labels == k)[:n] for k, n in enumerate((60, 12, 4))])
    x_val, y_val = tiny.pictures(30, seed=1)
    np.savez(path, x_train=images[kept], y_train=labels[kept], x_val=x_val, y_val=y_val)
    return path


def trained(data, changes, steps=40, teacher=None):
    """Returns a figure's value before and after, losses of the steps, and the labels seen."""
    config = tiny.config(data, COMMON | changes)
    found = dataset.open_dataset(config)
    counts = tuple(np.bincount(found.splits["train"].labels, minlength=3).tolist())
    mesh = parallel.make_mesh(1, 16)
    task = build.make(config, ("0", "1", "2"), found.prepare, mesh, steps, 0, counts, teacher)
    run, evaluate = task.jitted_train_step(), task.jitted_eval_step()
    validation = feeds.eval_feed(task, found, "validation")
    state = task.initial_state()
    before = score.score(evaluate, eval_variables(state), validation, 3)
    losses, labels = [], []
    feeding = feeds.train_feed(task, found)
    for number in range(steps):
        batch = feeding.batch(number)
        labels.append(np.asarray(batch["label"]))
        state, out = run(state, batch)
        losses.append(float(out["sums"]["loss"][0]) / 16)
    feeding.close()
    after = score.score(evaluate, eval_variables(state), validation, 3)
    return before, after, losses, np.concatenate(labels)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.name": "bce", "loss.label_smoothing": 0.1, "augment.mixup_alpha": 0.2},
        {"loss.name": "bce", "loss.bce_sum": True, "loss.bce_threshold": 0.2,
         "augment.cutmix_alpha": 0.2},
        {"loss.name": "focal"},
        {"loss.class_weights": "inverse"},
        {"loss.class_weights": "effective", "loss.effective_beta": 0.99},
        {"loss.logit_adjust": 1.0, "optim.accumulate": 2},
        {"loss.consistency": 1.0, "augment.contrast": 0.5, "loss.class_weights": "inverse"},
        pytest.param(
            {"loss.consistency": 1.0, "augment.policy": "augmix", "augment.augmix_severity": 1.0,
             "loss.class_weights": "inverse"}, marks=pytest.mark.slow,
        ),
    ],
    ids=["bce", "bce-sum", "focal", "inverse", "effective", "adjusted", "views", "augmix"],
)  # fmt: skip
def test_each_loss_falls_and_the_model_gets_better(data, changes):
    before, after, losses, _ = trained(data, changes)
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:2])
    assert after["balanced_accuracy"] > max(0.6, before["balanced_accuracy"])


@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_balanced_sampling_shows_rare_classes_as_often(data, feed):
    changes = {"data.sampling": "balanced", "data.feed": feed}
    before, after, losses, labels = trained(data, changes)
    seen = np.bincount(labels)
    assert seen.sum() == 640
    assert abs(seen - 640 / 3).max() < 12  # the last epoch of 76 is cut in its middle
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:2])
    assert after["balanced_accuracy"] > max(0.6, before["balanced_accuracy"])


def test_training_takes_the_teacher_and_the_best_balanced_weights(tmp_path, data):
    teacher = tmp_path / "teacher"
    train.train_and_evaluate(tiny.config(data, COMMON | {"train.total_steps": 4}), teacher)
    changes = COMMON | {
        "loss.teacher": str(teacher), "loss.distill_weight": 0.5, "train.total_steps": 6,
        "eval.every_steps": 2, "eval.best_metric": "balanced_accuracy",
        "loss.class_weights": "inverse",
    }  # fmt: skip
    train.train_and_evaluate(tiny.config(data, changes), tmp_path / "student")
    records = [r for r in tiny.records(tmp_path / "student") if r["split"] == "validation"]
    result = json.loads((tmp_path / "student/result.json").read_text())
    best = max(records, key=lambda r: (r["balanced_accuracy"], -r["step"]))
    assert result["best"]["step"] == best["step"]
    assert result["best"]["balanced_accuracy"] == best["balanced_accuracy"]


def test_a_student_learns_from_a_run_what_its_own_labels_do_not_say(tmp_path, data):
    """Trained on the teacher's predictions alone, it comes to predict what the teacher does."""
    balanced = tiny.archive(tmp_path, train=150, validation=30, test=0)
    settings = COMMON | {"optim.lr": 0.03, "model.filters": (8,), "train.total_steps": 60}
    train.train_and_evaluate(tiny.config(balanced, settings), tmp_path / "teacher")
    teacher = restore.load_teacher(str(tmp_path / "teacher"))
    assert teacher.class_names == ("0", "1", "2")
    assert restore.load_teacher("") is None

    images, _ = tiny.pictures(60, seed=5)
    x = jax.numpy.asarray(images / np.float32(255))
    wanted = np.asarray(teacher.outputs(x)[0])

    taught = {"loss.teacher": str(tmp_path / "teacher"), "loss.distill_weight": 1.0}
    before, after, losses, _ = trained(data, taught | {"optim.lr": 0.03}, 60, teacher)
    assert losses[-1] < 0.2 * losses[0]
    assert after["accuracy"] > 0.9 > before["accuracy"]
    assert (wanted.argmax(1) == tiny.pictures(60, seed=5)[1]).mean() > 0.9


def test_a_feature_comes_to_be_the_teacher_s(tmp_path, data):
    settings = COMMON | {"train.total_steps": 30}
    train.train_and_evaluate(tiny.config(data, settings), tmp_path / "teacher")
    teacher = restore.load_teacher(str(tmp_path / "teacher"))
    taught = {
        "loss.teacher": "there", "loss.distill_weight": 0.0, "loss.distill_feature": "pooled",
        "loss.distill_feature_weight": 10.0, "seed": 1,
    }  # fmt: skip
    _, after, losses, _ = trained(data, taught, teacher=teacher)
    assert losses[-1] < 0.3 * losses[0]
    assert math.isfinite(after["loss"])


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"loss\.teacher: .*nowhere"):
        restore.load_teacher(str(tmp_path / "nowhere"))


def test_many_steps_in_one_dispatch_ask_the_teacher_too(tmp_path, data):
    settings = COMMON | {"train.total_steps": 2}
    train.train_and_evaluate(tiny.config(data, settings), tmp_path / "teacher")
    teacher = restore.load_teacher(str(tmp_path / "teacher"))
    config = tiny.config(data, COMMON | {"loss.teacher": "there", "train.devices": 8})
    found = dataset.open_dataset(config)
    mesh = parallel.make_mesh(8, 16)
    task = build.make(
        config, ("0", "1", "2"), found.prepare, mesh, 4, 0, (60, 12, 4), teacher
    )  # fmt: skip
    feeding = feeds.train_feed(task, found)
    many, one = task.jitted_train_steps(4), task.jitted_train_step()
    _, out = many(task.initial_state(), feeding.load(), feeding.indices(0, 4), np.int32(4))
    state = task.initial_state()
    for number in range(4):
        state, single = one(state, feeding.batch(number))
        np.testing.assert_allclose(
            out["sums"]["loss"][0][number], single["sums"]["loss"][0], rtol=1e-4
        )
