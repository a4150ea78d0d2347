"""The loop: what is written when, what is kept, and how a run ends that goes wrong."""

import json
import logging
import os
import signal

import jax
import numpy as np
import pytest

from imgclass import checkpoint, looks, train
from imgclass.data import order
from imgclass.errors import UsageError, UserError
from imgclass.evaluate import score
from imgclass.signals import Preempted
from imgclass.state import eval_variables
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


def run(data, workdir, changes=None, **options):
    return train.train_and_evaluate(tiny.config(data, changes), workdir, **options)


def test_what_a_run_writes_and_when(data, tmp_path):
    """20 steps of 8 of 50 examples; validation each 8th step, log each 6th, save each 5th."""
    changes = {
        "train.total_steps": 20, "eval.every_steps": 8, "log.every_steps": 6,
        "checkpoint.every_steps": 5, "eval.final_test": True,
    }  # fmt: skip
    state = run(data, tmp_path, changes)
    assert int(state.step) == 20
    records = tiny.records(tmp_path)
    assert [(r["step"], r["split"]) for r in records] == [
        (6, "train"), (8, "validation"), (12, "train"), (16, "validation"), (18, "train"),
        (20, "train"), (20, "validation"), (20, "test"),
    ]  # fmt: skip
    assert [r["epoch"] for r in records[:2]] == [6 * 8 / 50, 8 * 8 / 50]
    assert [r["examples"] for r in records if "examples" in r] == [13, 13, 13, 11]
    result = json.loads((tmp_path / "result.json").read_text())
    # Convolution 3x3x3x4 + 4, then 3x3x4 inputs to 3 classes and 3 biases.
    assert result["parameters"] == 108 + 4 + 36 * 3 + 3
    assert (result["steps"], result["epochs"]) == (20, 3.2)
    accuracies = {r["step"]: r["accuracy"] for r in records if r["split"] == "validation"}
    best = max(accuracies, key=lambda step: (accuracies[step], -step))
    assert result["best"]["step"] == best
    assert result["final"]["step"] == 20
    assert result["test"]["step"] == best
    assert {best, 20} <= set(tiny.saved_steps(tmp_path))
    assert len(set(tiny.saved_steps(tmp_path)) - {best}) <= 2


def test_training_figures_are_means_over_their_window(data, tmp_path):
    """Log every 3rd step against log every step: sums of three steps over 24 rows."""
    run(data, tmp_path / "a", {"log.every_steps": 1})
    run(data, tmp_path / "b", {"log.every_steps": 3})
    single = [r for r in tiny.records(tmp_path / "a") if r["split"] == "train"]
    window = [r for r in tiny.records(tmp_path / "b") if r["split"] == "train"]
    assert [r["step"] for r in window] == [3, 6]
    for k, record in enumerate(window):
        for name in ("loss", "accuracy", "gradient_norm", "learning_rate"):
            mean = np.mean([r[name] for r in single[3 * k : 3 * k + 3]])
            np.testing.assert_allclose(record[name], mean, rtol=1e-12)


def test_the_test_figure_is_of_the_best_weights_and_counts_each_picture_once(
    data, tmp_path, monkeypatch
):
    """Validation is made to fall, so that the best is the first, and the last is not it."""
    falling = iter([0.9, 0.5, 0.1])
    real = score.score

    def scored(eval_step, variables, feed, classes):
        figures = real(eval_step, variables, feed, classes)
        return figures | ({"accuracy": next(falling)} if figures["examples"] == 13 else {})

    monkeypatch.setattr(score, "score", scored)
    changes = {
        "eval.every_steps": 2, "eval.final_test": True, "checkpoint.keep": 1, "optim.lr": 0.05,
    }  # fmt: skip
    run(data, tmp_path, changes)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["best"]["step"], result["final"]["step"]) == (2, 6)
    assert tiny.saved_steps(tmp_path) == [2, 6]  # the best and the newest

    # By hand from the stored arrays of step 2: convolution, relu, max-pool, dense, in NumPy.
    w = {k: v.astype(np.float64) for k, v in tiny.arrays(tmp_path, 2).items() if "params" in k}
    archive = np.load(data)
    x, y = archive["x_test"] / 255, archive["y_test"]
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # [n, 6, 6, c, 3, 3]
    z = np.einsum("nhwcij,ijco->nhwo", windows, w["params.block1_conv1.kernel"])
    z = np.maximum(z + w["params.block1_conv1.bias"], 0)
    z = z.reshape(-1, 3, 2, 3, 2, 4).max((2, 4)).reshape(len(y), -1)
    logits = z @ w["params.head.kernel"] + w["params.head.bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(result["test"]["loss"], -log_p[range(11), y].mean(), rtol=1e-5)
    assert result["test"]["accuracy"] == (logits.argmax(1) == y).mean()
    assert result["test"]["examples"] == 11


def test_a_validation_that_is_not_finite_is_never_the_best(data, tmp_path, monkeypatch):
    figures = iter([(np.nan, 0.9), (np.inf, 0.95), (1.0, 0.3)])

    def scored(*_):
        loss, accuracy = next(figures)
        return {"examples": 13, "loss": loss, "accuracy": accuracy}

    monkeypatch.setattr(score, "score", scored)
    run(data, tmp_path, {"eval.every_steps": 2})
    assert json.loads((tmp_path / "result.json").read_text())["best"]["step"] == 6


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(data, tmp_path):
    """At 1e30 the first update ends in weights whose logits overflow at step 1."""
    changes = {"optim.lr": 1e30, "optim.name": "sgd", "eval.every_steps": 1, "log.every_steps": 6}
    with pytest.raises(
        UserError, match=r"step 1: the loss or its gradient is not finite"
    ) as caught:
        run(data, tmp_path, changes)
    rows = order.batch_indices(0, 50, 8, 1).tolist()
    assert str(rows) in str(caught.value)
    assert f"train/{rows[0]}" in str(caught.value)
    assert caught.value.exit_status == 1
    # Step 1's weights were finite and its validation was not: nothing was saved as the best.
    assert tiny.records(tmp_path)[0]["loss"] is None
    assert tiny.saved_steps(tmp_path) == []
    assert not (tmp_path / "result.json").exists()


def test_skipping_goes_on_and_says_what_was_skipped(data, tmp_path, caplog):
    changes = {"optim.lr": 1e30, "optim.name": "sgd", "train.on_nonfinite": "skip"}
    with caplog.at_level(logging.WARNING):
        state = run(data, tmp_path, changes)
    skipped = [r.message for r in caplog.records if "update skipped" in r.message]
    assert [message.split(":")[0] for message in skipped] == [f"step {k}" for k in range(1, 6)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert json.loads((tmp_path / "result.json").read_text())["best"] is None
    assert "NaN" not in (tmp_path / "result.json").read_text()  # which is not JSON
    run(data, tmp_path, changes)  # and it can be said again


def test_many_steps_a_dispatch_name_the_very_step(data, tmp_path):
    changes = {
        "optim.lr": 1e30, "optim.name": "sgd", "train.steps_per_dispatch": 4, "log.every_steps": 6,
    }  # fmt: skip
    with pytest.raises(UserError, match="step 1: the loss"):
        run(data, tmp_path, changes)


def test_many_steps_a_dispatch_change_no_record(data, tmp_path):
    changes = {
        "model.batch_norm": True, "train.total_steps": 11, "log.every_steps": 3,
        "eval.every_steps": 4, "checkpoint.every_steps": 5, "data.feed": "resident",
    }  # fmt: skip
    run(data, tmp_path / "1", changes | {"train.steps_per_dispatch": 1})
    run(data, tmp_path / "4", changes | {"train.steps_per_dispatch": 4})
    one, four = tiny.records(tmp_path / "1"), tiny.records(tmp_path / "4")
    assert [(r["step"], r["split"]) for r in one] == [(r["step"], r["split"]) for r in four]
    np.testing.assert_allclose([r["loss"] for r in one], [r["loss"] for r in four], rtol=1e-5)


def test_a_finished_run_is_left_alone(data, tmp_path, caplog):
    run(data, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with caplog.at_level(logging.INFO):
        state = run(data, tmp_path)
    assert int(state.step) == 6
    assert "Already finished" in caplog.text
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.ema_decay": 0.9, "optim.average_every": 7},
        {"optim.swa_start": 0.5, "optim.average_every": 7},
        {"optim.lookahead_steps": 7},
    ],
)
def test_an_average_that_no_step_reaches_is_warned_of(data, tmp_path, changes, caplog):
    state = run(data, tmp_path / "a", changes)
    # Whatever the rate, they are the same weights: those before the first step.
    other = run(data, tmp_path / "c", changes | {"optim.lr": 0.5})
    for one, same in zip(*map(jax.tree.leaves, map(eval_params, (state, other))), strict=True):
        np.testing.assert_array_equal(one, same)
    assert "=7: a run of 6 steps ends with the weights it began with" in caplog.text
    caplog.clear()
    run(data, tmp_path / "b", {key: 6 if value == 7 else value for key, value in changes.items()})
    assert "began with" not in caplog.text


def eval_params(state):
    return eval_variables(state)["params"]


def test_checkpoints_without_a_config_are_not_gone_on_from(data, tmp_path):
    run(data, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"has checkpoints and no config\.json"):
        run(data, tmp_path, {"seed": 77})


@pytest.mark.parametrize("result", [True, False])
def test_a_run_at_its_last_step_keeps_what_it_was_trained_with(data, tmp_path, result):
    run(data, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    if not result:  # killed between the last save and the result
        (tmp_path / "result.json").unlink()
    with pytest.raises(
        UsageError, match=r"at its last step, 6, .*\n  optim\.lr: .* 0\.5 now\nRaise"
    ):
        run(data, tmp_path, {"optim.lr": 0.5}, allow_change=True)
    assert (tmp_path / "config.json").read_bytes() == before
    run(data, tmp_path, {"optim.lr": 0.5, "train.total_steps": 8}, allow_change=True)
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    changed = [start.get("config_changed") for start in starts]
    assert changed[0] is None
    assert any(line.startswith("optim.lr: ") for line in changed[1])
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["lr"] == 0.5


def test_a_finished_run_can_be_asked_for_its_report(data, tmp_path):
    run(data, tmp_path)
    assert not (tmp_path / "report.html").exists()
    run(data, tmp_path, {"log.report": True}, allow_change=True)
    assert (tmp_path / "report.html").exists()


def test_a_run_can_be_lengthened_and_not_shortened_below_its_step(data, tmp_path):
    run(data, tmp_path / "a", {"eval.final_test": True})
    with pytest.raises(UsageError, match=r"train\.total_steps"):
        run(data, tmp_path / "a", {"eval.final_test": True, "train.total_steps": 9})
    longer = {"eval.final_test": True, "train.total_steps": 9}
    run(data, tmp_path / "a", longer, allow_change=True)
    run(data, tmp_path / "b", longer)
    tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(tmp_path / "b"))
    # The first end was validated and the second run's was not there; the test came once.
    a = [(r["step"], r["split"]) for r in tiny.records(tmp_path / "a")]
    assert [r for r in a if r != (6, "validation")] == [
        (r["step"], r["split"]) for r in tiny.records(tmp_path / "b")
    ]
    with pytest.raises(UsageError, match="is at step 9, past the 4 steps"):
        run(data, tmp_path / "a", {"eval.final_test": True, "train.total_steps": 4},
            allow_change=True)  # fmt: skip
    assert tiny.saved_steps(tmp_path / "a")[-1] == 9


def test_dying_between_the_test_figure_and_the_result_tests_again_but_records_once(data, tmp_path):
    run(data, tmp_path, {"eval.final_test": True})
    before = tiny.records(tmp_path)
    (tmp_path / "result.json").unlink()
    run(data, tmp_path, {"eval.final_test": True})
    assert tiny.records(tmp_path) == before
    assert (tmp_path / "result.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(data, tmp_path, monkeypatch, number):
    changes = tiny.FULL | {"log.every_steps": 4}
    run(data, tmp_path / "a", changes)
    handler = signal.getsignal(number)
    real = train.Trainer.advance

    def advance(self, state, step, count):
        if step == 2:
            os.kill(os.getpid(), number)
        return real(self, state, step, count)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "advance", advance)
        with pytest.raises(Preempted, match="stopped after step 2 of 6") as caught:
            run(data, tmp_path / "b", changes)
    assert caught.value.exit_status == 75
    assert tiny.saved_steps(tmp_path / "b") == [2]
    run(data, tmp_path / "b", changes)
    tiny.assert_same_bits(tiny.arrays(tmp_path / "a"), tiny.arrays(tmp_path / "b"))
    assert tiny.records(tmp_path / "a") == tiny.records(tmp_path / "b")
    assert signal.getsignal(number) is handler


def test_a_failing_save_ends_the_run_with_its_reason(data, tmp_path, monkeypatch):
    real = checkpoint._write_manifest

    def full_from_step_4(target, step, record):
        if step >= 4:
            raise OSError(28, "No space left on device")
        real(target, step, record)

    monkeypatch.setattr(checkpoint, "_write_manifest", full_from_step_4)
    with pytest.raises(UserError, match="No space left on device"):
        run(data, tmp_path, {"checkpoint.every_steps": 2})
    assert tiny.saved_steps(tmp_path) == [2]


@pytest.mark.parametrize(("metric", "classes"), [("auroc", 3), ("top5", 5)])
def test_a_best_metric_that_is_not_defined_is_refused_before_training(data, metric, classes):
    with pytest.raises(UsageError, match=metric):
        train._check_metric(metric, classes)


def test_a_run_without_validation_keeps_its_newest(tmp_path):
    path = tiny.archive(tmp_path, validation=0, test=0)
    run(path, tmp_path / "run", {"data.validation_split": "", "checkpoint.every_steps": 2})
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["best"] is None
    assert result["final"] is None
    assert tiny.saved_steps(tmp_path / "run") == [4, 6]


def test_the_model_learns(tmp_path):
    """Classes differ in brightness; 60 steps are enough, and a test that must not be luck."""
    path = tiny.archive(tmp_path, train=60, validation=30, test=30)
    changes = {"train.total_steps": 60, "optim.lr": 0.02, "log.every_steps": 60,
               "eval.final_test": True}  # fmt: skip
    run(path, tmp_path / "run", changes)
    assert json.loads((tmp_path / "run/result.json").read_text())["test"]["accuracy"] > 0.9


@pytest.mark.parametrize(("final", "seen"), [(True, 1), (False, 0)])
def test_the_final_test_is_recorded_as_a_look(tmp_path, final, seen):
    changes = {"eval.final_test": final}
    train.train_and_evaluate(tiny.config(tiny.archive(tmp_path), changes), tmp_path / "run")
    assert looks.count(tmp_path / "run") == seen
    # A run that is finished looks no more.
    train.train_and_evaluate(tiny.config(tiny.archive(tmp_path), changes), tmp_path / "run")
    assert looks.count(tmp_path / "run") == seen
