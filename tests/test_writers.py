"""Everything reaches every writer, and one that fails costs a warning and itself."""

import threading
import time

import numpy as np
import pytest

from imgclass import histograms, train, writers
from imgclass.watch import look
from tests import tiny
from tests.test_curves import events


class Listener:
    """Remembers what it was told; fails at the call named."""

    def __init__(self, name, fails=""):
        self.name, self.heard, self._fails = name, [], fails

    def __getattr__(self, call):
        def hear(*_):
            self.heard.append(call)
            if call == self._fails:
                raise RuntimeError("no route to host\nmore of it")

        return hear


def made(folder, *listeners):
    opened = writers.Writers(folder, tiny.config("unused"), 0)
    opened._writers = list(listeners)
    return opened


def tell(opened):
    opened.figures({"train/loss": 1.0}, 1)
    opened.picture("sheet", np.zeros((2, 2, 3), np.uint8), 1)
    opened.histograms({}, 1)
    opened.text("result", "good", 1)
    opened.close("finished")


@pytest.mark.parametrize("call", ["figures", "picture", "histograms", "text", "close"])
def test_one_that_fails_is_said_once_and_left_out(tmp_path, caplog, call):
    good, bad = Listener("good"), Listener("Bad", call)
    tell(made(tmp_path, bad, good))
    order = ["figures", "picture", "histograms", "text", "close"]
    assert good.heard == order
    assert bad.heard == [*order[: order.index(call) + 1], "close"]
    assert caplog.messages == ["Bad cannot be written (no route to host); going on without"]


def test_tensorboard_holds_pictures_histograms_and_text(tmp_path):
    opened = writers.Writers(tmp_path, tiny.config("unused", {"log.tensorboard": True}), 0)
    assert opened
    opened.picture("sheet", np.full((4, 6, 3), 7, np.uint8), 0)
    opened.histograms(histograms.of_tree({"kernel": np.arange(64.0)}), 3)
    opened.text("result", "two\nlines", 5)
    opened.close("finished")
    _, _, picture, histogram, text = events(tmp_path / "tensorboard")
    (value,) = picture.summary.value
    assert (value.tag, value.image.height, value.image.width) == ("sheet", 4, 6)
    assert value.image.encoded_image_string.startswith(b"\x89PNG")
    (value,) = histogram.summary.value
    assert (histogram.step, value.tag) == (3, "kernel")
    assert (value.histo.min, value.histo.max, value.histo.num) == (0.0, 63.0, 64.0)
    assert (value.histo.sum, value.histo.sum_squares) == (2016.0, 85344.0)
    assert list(value.histo.bucket) == [1.0] * 64
    (value,) = text.summary.value
    assert (value.metadata.plugin_data.plugin_name, value.tensor.string_val[0]) == (
        "text", b"    two\n    lines",
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


EVERY = tiny.FULL | {"eval.every_steps": 2, "eval.final_test": True}


@pytest.fixture(scope="module")
def unheard(data, tmp_path_factory):
    """A run of which nobody hears."""
    folder = tmp_path_factory.mktemp("unheard")
    train.train_and_evaluate(tiny.config(data, EVERY), folder)
    return folder


def assert_same_run(a, b):
    tiny.assert_same_bits(tiny.arrays(a), tiny.arrays(b))
    assert tiny.records(a) == tiny.records(b)


def test_tensorboard_with_everything_changes_no_bit_of_a_run(data, unheard, tmp_path):
    changes = {"log.tensorboard": True, "log.histograms": True}
    train.train_and_evaluate(tiny.config(data, EVERY | changes), tmp_path)
    assert_same_run(tmp_path, unheard)
    found = [(e.step, v.tag) for e in events(tmp_path / "tensorboard") for v in e.summary.value]
    tags = {tag for _, tag in found}
    assert {"train/augmented", "train/loss", "validation/loss", "test/loss"} <= tags
    assert any(tag.startswith("result") for tag in tags)
    assert [step for step, tag in found if tag == "parameters/head/kernel"] == [2, 4, 6]


def test_being_watched_changes_no_bit_of_a_run(data, unheard, tmp_path):
    """All the while, at every moment of it: before it is a run, and until it is finished."""
    seen, done = set(), threading.Event()

    def watching():
        watched = look.Watch(tmp_path)
        while not done.is_set():
            seen.add(watched.look().state)
            time.sleep(0.01)
        seen.add(watched.look().state)

    watcher = threading.Thread(target=watching)
    watcher.start()
    try:
        while not seen:
            time.sleep(0.001)
        train.train_and_evaluate(tiny.config(data, EVERY), tmp_path)
    finally:
        done.set()
        watcher.join()
    assert_same_run(tmp_path, unheard)
    assert {"waiting", "starting", "running", "finished"} <= seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of W&B's and MLflow's own
def test_wandb_and_mlflow_change_no_bit_of_a_run(data, unheard, tmp_path, monkeypatch, caplog):
    for package in ("wandb", "mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    changes = {"log.wandb": "pictures", "log.mlflow": "sqlite:///runs.db", "log.histograms": True}
    train.train_and_evaluate(tiny.config(data, EVERY | changes), tmp_path / "run")
    assert "going on without" not in caplog.text
    assert_same_run(tmp_path / "run", unheard)
