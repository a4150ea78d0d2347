"""Devices: one and eight give the same run; shards, grouped statistics, refusals."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from imgclass import build, feeds, parallel, train
from imgclass.data import dataset, order
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError
from imgclass.evaluate import score
from imgclass.plan import make_plan
from imgclass.state import eval_variables
from tests import tiny

# Wide enough that FSDP has something to split: 3*3*3*64 and 576*64 elements.
CHANGES = tiny.FULL | {
    "model.filters": (64,), "model.hidden": (64,), "train.total_steps": 22, "eval.every_steps": 11,
    "eval.batch_size": 5, "optim.lr": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


def make_task(data, changes):
    config = tiny.config(data, changes)
    opened = dataset.open_dataset(config)
    made = make_plan(config, len(opened.splits["train"]))
    mesh = parallel.make_mesh(config.train.devices, config.train.batch_size)
    names = opened.source.class_names
    return build.make(config, names, opened.prepare, mesh, made.total, made.warmup), opened


def run_steps(data, changes, steps):
    """Returns the losses and examples of each step, and the last state."""
    task, opened = make_task(data, changes)
    feed = feeds.train_feed(task, opened)
    run, state = task.jitted_train_step(), task.initial_state()
    losses, examples = [], []
    for k in range(steps):
        batch = feed.batch(k)
        examples.append(np.asarray(batch["index"]).tolist())
        state, out = run(state, batch)
        losses.append(float(out["sums"]["loss"][0]))
    feed.close()
    return losses, examples, state


@pytest.fixture(scope="module")
def one_device(data):
    losses, examples, state = run_steps(data, CHANGES, 22)
    return losses, examples, jax.tree.map(np.array, state)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.feed": "resident"},
        {"data.feed": "stream"},
        {"data.feed": "stream", "train.fsdp": True},
    ],
    ids=["resident", "stream", "fsdp"],
)
def test_eight_devices_train_as_one(data, one_device, changes):
    losses, examples, state = run_steps(data, CHANGES | {"train.devices": 8} | changes, 22)
    assert examples == one_device[1]
    assert examples == [order.batch_indices(0, 50, 8, k).tolist() for k in range(22)]
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), state, one_device[2]
    )
    wide = state.params["hidden1"]["kernel"]
    moment = jax.tree.leaves(state.opt_state)
    share = wide.addressable_shards[0].data.size / wide.size
    assert share == (1 / 8 if changes.get("train.fsdp") else 1)
    assert len(wide.addressable_shards) == 8
    small = state.params["head"]["bias"]
    assert small.addressable_shards[0].data.size == small.size
    if changes.get("train.fsdp"):  # the optimizer's moments are split as well
        split = [m for m in moment if m.shape == wide.shape]
        assert len(split) == 2
        assert all(m.addressable_shards[0].data.size == m.size // 8 for m in split)


def test_evaluation_counts_each_example_once_on_eight_devices(data):
    """13 pictures; eval.batch_size=5 becomes 8 on 8 devices: 16 places, 3 of them masked."""
    figures = []
    for devices in (1, 8):
        task, opened = make_task(data, CHANGES | {"train.devices": devices})
        feed = feeds.eval_feed(task, opened, "validation")
        variables = eval_variables(task.initial_state())
        figures.append(score.score(task.jitted_eval_step(), variables, feed, 3))
        seen = [np.asarray(b["index"])[np.asarray(b["mask"])] for b in feed]
        assert np.concatenate(seen).tolist() == list(range(13))
    assert figures[0]["examples"] == figures[1]["examples"] == 13
    assert figures[0]["accuracy"] == figures[1]["accuracy"]
    np.testing.assert_allclose(figures[0]["loss"], figures[1]["loss"], rtol=1e-6)


def test_grouped_statistics_are_each_devices_own_rows():
    """16 rows on 8 devices in groups of 2: the running mean takes the mean of 8 group means."""
    changes = {
        "model.batch_norm": True, "model.kernel_size": 1, "train.devices": 8,
        "train.batch_size": 16, "model.batch_norm_group": 2,
    }  # fmt: skip
    config = tiny.config("unused", changes)
    mesh = parallel.make_mesh(8, 16)
    task = build.make(config, ("a", "b", "c"), Preprocess(image_size=(8, 8)), mesh, 20, 0)
    state = task.initial_state()
    kernel = np.asarray(state.params["block1_conv1"]["kernel"], np.float64)[0, 0]
    images, labels = tiny.pictures(16)
    batch = {"image": images, "label": labels.astype(np.int32),
             "index": np.arange(16, dtype=np.int32), "mask": np.ones(16, bool)}  # fmt: skip
    state, _ = task.jitted_train_step()(state, parallel.put_rows(mesh)(batch))
    z = ((images / 255) @ kernel).reshape(8, 2 * 64, 4)
    stats = state.batch_stats["block1_bn1"]
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * z.var(1).mean(0), rtol=1e-5)
    assert not np.allclose(stats["var"], 0.9 + 0.1 * z.reshape(-1, 4).var(0), rtol=1e-5)


def test_a_run_goes_on_with_other_devices(data, tmp_path):
    changes = {"train.total_steps": 6, "model.filters": (64,), "checkpoint.every_steps": 3}
    train.train_and_evaluate(tiny.config(data, changes), tmp_path / "a")
    short = changes | {"train.total_steps": 3}
    train.train_and_evaluate(tiny.config(data, short), tmp_path / "b")
    other = changes | {"train.devices": 8, "train.fsdp": True}
    train.train_and_evaluate(tiny.config(data, other), tmp_path / "b", allow_change=True)
    a, b = tiny.arrays(tmp_path / "a"), tiny.arrays(tmp_path / "b")
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5, err_msg=name)
    losses = [
        [r["loss"] for r in tiny.records(tmp_path / run) if r["split"] == "train"] for run in "ab"
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_what_cannot_be_shared_is_refused_with_what_can():
    with pytest.raises(UsageError, match=r"batch_size=12 .* 8 devices: use 8 or 16.*devices=6"):
        parallel.make_mesh(8, 12)
    with pytest.raises(UsageError, match=r"batch_size=3 .* use 8, or .*devices=3"):
        parallel.make_mesh(0, 3)
    with pytest.raises(UsageError, match=r"train\.devices=9, but this machine shows 8"):
        parallel.make_mesh(9, 9)
    assert parallel.make_mesh(0, 16).devices.size == 8
    assert parallel.make_mesh(3, 9).devices.size == 3


def test_several_processes_are_not_advised_what_they_cannot_do(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match=r"train\.devices must be 0"):
        parallel.make_mesh(6, 12)
    with pytest.raises(UsageError, match=r"8 devices: use 8 or 16$"):
        parallel.make_mesh(0, 12)


def test_one_process_asks_nobody_and_changes_no_error():
    problem = ValueError("as it was")
    with pytest.raises(ValueError, match="as it was") as caught, parallel.together():
        raise problem
    assert caught.value is problem
    marker = object()  # not JSON: nothing is sent
    assert parallel.on_lead(lambda: marker) is marker
    parallel.check_same("config", "a")


def test_rows_of_this_process():
    mesh = parallel.make_mesh(4, 12)
    assert parallel.local_rows(mesh, 12).tolist() == list(range(12))


def test_fsdp_splits_the_longest_axis_that_divides():
    mesh = parallel.make_mesh(8, 8)
    shapes = {
        "wide": jax.ShapeDtypeStruct((16, 1024), np.float32),
        "odd": jax.ShapeDtypeStruct((1023, 16), np.float32),  # 1023 is not a multiple of 8
        "kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), np.float32),
        "never": jax.ShapeDtypeStruct((81, 81), np.float32),
        "small": jax.ShapeDtypeStruct((8, 8), np.float32),
        "count": jax.ShapeDtypeStruct((), np.int32),
    }
    placed = parallel.state_sharding(shapes, mesh, fsdp=True)
    assert {name: place.spec for name, place in placed.items()} == {
        "wide": PartitionSpec(None, "data"),
        "odd": PartitionSpec(None, "data"),
        "kernel": PartitionSpec(None, None, None, "data"),
        "never": PartitionSpec(),
        "small": PartitionSpec(),
        "count": PartitionSpec(),
    }
    whole = parallel.state_sharding(shapes, mesh, fsdp=False)
    assert {place.spec for place in whole.values()} == {PartitionSpec()}


def test_a_batch_is_taken_from_a_resident_set():
    images, labels = tiny.pictures(10)
    examples = {"image": images, "label": labels.astype(np.int32)}
    examples = jax.tree.map(jax.numpy.asarray, examples)
    batch = parallel.take_rows(examples, jax.numpy.asarray([7, 0, 7], np.int32))
    np.testing.assert_array_equal(batch["image"], images[[7, 0, 7]])
    assert batch["label"].tolist() == [1, 0, 1]
    assert batch["index"].tolist() == [7, 0, 7]
    assert batch["mask"].all()
