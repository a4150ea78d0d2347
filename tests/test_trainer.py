"""Dispatching: which steps a dispatch does, and how a step that was not finite is made known."""

import logging

import jax
import numpy as np
import pytest

from imgclass import build, feeds, parallel, trainer
from imgclass.data import dataset
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
        assert made.wait_seconds >= 0.0


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
