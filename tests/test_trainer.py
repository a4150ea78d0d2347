"""Dispatching: which steps a dispatch does, and how a step that was not finite is made known."""

import json
import logging
import os
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest

from imgclass import build, feeds, parallel, signals, train, trainer
from imgclass.data import dataset, feed, load
from imgclass.errors import UserError
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


# At this learning rate the update of step 0 ends in weights whose logits overflow at step 1.
TOO_FAST = {"optim.lr": 1e30, "optim.name": "sgd"}


def make(data, changes=None):
    """Returns (task, opened data) of a config."""
    config = tiny.config(data, changes)
    opened = dataset.open_dataset(config)
    mesh = parallel.make_mesh(1, config.train.batch_size)
    return build.make(config, opened.source.class_names, opened.prepare, mesh, 6, 0), opened


def indices_of(task, opened, step):
    """Returns the examples a feed gives at `step`, as a list."""
    feed = feeds.train_feed(task, opened)
    try:
        return np.asarray(feed.indices(step)[0]).tolist()
    finally:
        feed.close()


def test_settling_names_the_step_and_its_examples(data):
    task, opened = make(data, TOO_FAST)
    rows = indices_of(task, opened, 1)
    assert len(set(rows)) == 8
    with trainer.Trainer(task, opened) as made:
        state, _ = made.advance(task.initial_state(), 0, 1)
        made.settle()  # step 0 itself was finite
        made.advance(state, 1, 1)
        with pytest.raises(UserError) as caught:
            made.settle()
        made.settle()  # said once
    words = str(caught.value)
    names = ", ".join(f"train/{row}" for row in rows[:4])
    assert words.startswith(
        f"step 1: the loss or its gradient is not finite, on examples {rows} ({names}, ...)"
    )
    assert "on_nonfinite='skip'" in words


def test_skipping_only_warns_and_training_goes_on(data, caplog):
    task, opened = make(data, TOO_FAST | {"train.on_nonfinite": "skip"})
    rows = indices_of(task, opened, 1)
    with caplog.at_level(logging.WARNING), trainer.Trainer(task, opened) as made:
        state, _ = made.advance(task.initial_state(), 0, 1)
        before = jax.tree.map(np.array, state.params)
        state, sums = made.advance(state, 1, 1)
        made.settle()
    (message,) = caplog.messages
    assert message.startswith(f"step 1: the loss or its gradient is not finite, on examples {rows}")
    assert message.endswith("; update skipped")
    jax.tree.map(np.testing.assert_array_equal, state.params, before)
    assert int(state.step) == 2
    assert int(sums["loss"][1]) == 0


def test_the_host_is_ahead_by_two_dispatches_at_most(data):
    """The verdict on step 1 is read when step 3 has been dispatched, not later."""
    task, opened = make(data, TOO_FAST)
    with trainer.Trainer(task, opened) as made:
        state = task.initial_state()
        for step in range(3):
            state, _ = made.advance(state, step, 1)
        with pytest.raises(UserError, match="step 1: "):
            made.advance(state, 3, 1)


def test_many_steps_a_dispatch_do_as_many_as_asked_for(data):
    """Of 4 rows of examples only the first is used, so the overflow at step 1 has not come yet."""
    task, opened = make(data, TOO_FAST | {"train.steps_per_dispatch": 4, "data.feed": "resident"})
    with trainer.Trainer(task, opened) as made:
        assert made.most == 4
        state, sums = made.advance(task.initial_state(), 0, 1)
        made.settle()
        assert int(state.step) == 1
        assert np.asarray(sums["loss"][1]).tolist() == [8, 0, 0, 0]
        state, _ = made.advance(state, 1, 3)
        with pytest.raises(UserError, match="step 1: "):
            made.settle()
        assert int(state.step) == 4


@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_either_feed_does_one_step_a_dispatch_on_a_cpu(data, feed):
    task, opened = make(data, {"data.feed": feed})
    with trainer.Trainer(task, opened) as made:
        assert made.most == 1
        state, sums = made.advance(task.initial_state(), 0, 1)
        made.settle()
        assert int(state.step) == 1
        assert int(sums["loss"][1]) == 8


def test_skipping_without_end_stops(data):
    # The first update ruins the weights, so every later one is skipped: 1 to 20 are, 21 is not.
    task, opened = make(data, TOO_FAST | {"train.on_nonfinite": "skip"})
    with trainer.Trainer(task, opened) as made:
        state = task.initial_state()
        for step in range(trainer.MOST_SKIPPED + 1):
            state, _ = made.advance(state, step, 1)
        made.settle()
        made.advance(state, trainer.MOST_SKIPPED + 1, 1)
        with pytest.raises(UserError, match=rf"^step {trainer.MOST_SKIPPED + 1}: the loss"):
            made.settle()


@pytest.mark.parametrize("changes", [
    {"data.feed": "stream"},
    {"data.feed": "resident"},
    {"data.feed": "resident", "train.steps_per_dispatch": 4},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("busy", [False, True])
def test_the_wait_is_time_in_the_feed_while_the_device_is_idle(data, monkeypatch, changes, busy):
    """By a clock that only these move: 3 s for a batch, 1 s for a dispatch."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(trainer, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))

    def slow(seconds, function):
        def call(*args):
            clock.now += seconds
            return function(*args)

        return call

    class Verdict:
        """Of a step that is still being computed when asked, or is not."""

        def __init__(self, finite):
            self._finite = finite

        def is_ready(self):
            return not busy

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self._finite)

    task, opened = make(data, changes)
    with trainer.Trainer(task, opened) as made:
        name = "indices" if made.most > 1 else "batch"
        monkeypatch.setattr(made._feed, name, slow(3.0, getattr(made._feed, name)))
        step_of = made._step

        def dispatched(*args):
            clock.now += 1.0
            state, out = step_of(*args)
            return state, out | {"finite": Verdict(out["finite"])}

        made._step = dispatched
        state = task.initial_state()
        for step in range(4):
            state, _ = made.advance(state, step, 1)
        made.settle()
        assert made.wait_seconds == (1 if busy else 4) * 3.0
        made.advance(state, 4, 1)  # nothing is being computed after `settle`
    assert made.wait_seconds == (2 if busy else 5) * 3.0
    assert clock.now == 100.0 + 5 * (3.0 + 1.0)


@pytest.mark.parametrize("most", [1, 4])
def test_loading_is_given_up_when_asked_to_stop(data, monkeypatch, most):
    """A signal comes while the set is being loaded, and the loading does not end by itself."""
    begun, closed = threading.Event(), threading.Event()
    examples = load.examples

    def held(*args):
        begun.set()
        closed.wait(60)
        return examples(*args)

    monkeypatch.setattr(load, "examples", held)
    task, opened = make(data, {"data.feed": "resident", "train.steps_per_dispatch": most})
    with signals.catch_stop() as stop:
        made = trainer.Trainer(task, opened, stop)
        assert begun.wait(60)
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(signals.Interrupted):
            made.load(lambda: None)
        with pytest.raises(signals.Interrupted):
            made.advance(task.initial_state(), 0, 1)
        closed.set()
        made.__exit__()


@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_several_devices_and_one_do_the_same(data, feed):
    found = []
    for devices in (1, 4):
        config = tiny.config(data, {"data.feed": feed, "augment.flip": True})
        opened = dataset.open_dataset(config)
        mesh = parallel.make_mesh(devices, config.train.batch_size)
        task = build.make(config, opened.source.class_names, opened.prepare, mesh, 6, 0)
        with trainer.Trainer(task, opened) as made:
            made.load(lambda: None)
            state, losses = task.initial_state(), []
            for step in range(3):
                state, sums = made.advance(state, step, 1)
                losses.append(float(sums["loss"][0]))
            made.settle()
        found.append(losses)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_a_trainer_that_cannot_be_made_leaves_no_thread(data, monkeypatch):
    def fails(*args):
        raise RuntimeError("no memory")

    task, opened = make(data, {"data.feed": "resident"})
    monkeypatch.setattr(feed.ResidentFeed, "compile", fails)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="no memory"):
        trainer.Trainer(task, opened)
    assert set(threading.enumerate()) <= before


def test_a_wait_that_is_given_up_counts(data, monkeypatch):
    task, opened = make(data)
    clock = types.SimpleNamespace(now=0.0)
    with trainer.Trainer(task, opened) as made:
        monkeypatch.setattr(trainer, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
        made.wait_seconds = 0.0

        def interrupted(step):
            clock.now += 2.0
            raise trainer.signals.Interrupted

        monkeypatch.setattr(made._feed, "batch", interrupted)
        with pytest.raises(trainer.signals.Interrupted):
            made.advance(task.initial_state(), 0, 1)
    assert made.wait_seconds == 2.0


@pytest.mark.parametrize("sleep", [0.0, 0.15])
def test_a_slow_feed_shows_in_the_records_and_the_result(data, tmp_path, monkeypatch, sleep):
    """One thread that takes 0.15 s a batch: a step of 8 tiny pictures is a small part of that.

    The bounds are wide because the rest of the time is the machine's, which tests share.
    """
    load = feed.StreamFeed._load

    def slow(self, step):
        time.sleep(sleep)
        return load(self, step)

    monkeypatch.setattr(feed.StreamFeed, "_load", slow)
    changes = {"data.feed": "stream", "data.threads": 1, "data.prefetch": 1,
               "train.total_steps": 12, "log.every_steps": 6}  # fmt: skip
    train.train_and_evaluate(tiny.config(data, changes), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shares = [line["data_wait"] for line in lines if line["split"] == "train"]
    whole = json.loads((tmp_path / "result.json").read_text())["data_wait"]
    assert all(0.0 <= share <= 1.0 for share in [*shares, whole])
    assert min(shares) <= whole <= max(shares)  # a mean of them, weighted by their time
    if sleep:
        assert shares[1] > 0.6  # the first holds the compilation
