"""Weights & Biases and MLflow, both without a network: what they hold, and that a run goes on."""

import importlib.machinery
import importlib.util
import json
import logging
import struct

import numpy as np
import pytest

from imgclass import config as config_lib
from imgclass import histograms, tracking, writers
from imgclass.errors import UsageError, UserError
from tests import tiny

# Their packages warn of their own and others' coming changes.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "cnn-1"
    made.mkdir()
    return made


@pytest.fixture
def wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb"))


@pytest.fixture
def uri(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    yield f"sqlite:///{tmp_path}/runs.db"
    logging.getLogger("alembic").handlers.clear()


def told(path):
    """Returns the records of a .wandb file: a LevelDB log, whose blocks are of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, found = path.read_bytes(), 7, b"", []  # after W&B's own header
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def points(path, tag):
    """Returns (step, value) of every point of a curve."""
    rows = []
    for record in told(path):
        if record.WhichOneof("record_type") == "history":
            row = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append(row)
    return [(row["step"], row[tag]) for row in rows if tag in row]


def every_kind(opened, step):
    """Gives each thing once."""
    opened.figures({"train/loss": 1 / step}, step)
    opened.figures({"test/loss": 0.125}, 1)  # of the best weights, which are of an earlier step
    opened.picture("train/augmented", np.zeros((8, 8, 3), np.uint8), 0)
    made = histograms.of_tree({"kernel": np.arange(64.0)})
    opened.histograms({f"parameters/{name}": value for name, value in made.items()}, step)
    opened.text("result", "two\nlines", step)


def test_wandb_holds_what_it_was_given_and_goes_on_under_the_same_id(wandb_offline, folder, caplog):
    config = tiny.config("unused", {"log.wandb": "pictures"})
    for step in (4, 8):
        opened = writers.Writers(folder, config, resume_step=step - 4)
        every_kind(opened, step)
        opened.close("stopped" if step == 4 else "finished")
    assert "going on without" not in caplog.text
    stored = json.loads((folder / "tracking.json").read_text())["wandb"]
    assert stored["where"] == "pictures"
    found = folder.glob(f"wandb/offline-run-*/run-{stored['id']}.wandb")
    files = sorted(found, key=lambda path: path.parent.name)
    assert len(files) == 2
    for path, step in zip(files, (4, 8), strict=True):
        assert points(path, "train/loss") == [(step, 1 / step)]
        assert points(path, "test/loss") == [(1, 0.125)]
        assert points(path, "parameters/kernel._type") == [(step, "histogram")]
        assert points(path, "parameters/kernel.values") == [(step, [1] * 64)]
        ((_, picture),) = points(path, "train/augmented.path")
        assert (path.parent / "files" / picture).exists()
        (start,) = [r.run for r in told(path) if r.WhichOneof("record_type") == "run"]
        assert (start.run_id, start.project, start.display_name) == (
            stored["id"], "pictures", "cnn-1",
        )  # fmt: skip


def test_mlflow_holds_what_it_was_given_and_goes_on_in_the_same_run(uri, folder, caplog):
    import mlflow

    config = tiny.config("unused", {"log.mlflow": uri})
    client, states = mlflow.MlflowClient(tracking_uri=uri), []
    for step, status in ((4, "failed"), (8, "stopped"), (12, "finished")):
        opened = writers.Writers(folder, config, resume_step=step - 4)
        name = json.loads((folder / "tracking.json").read_text())["mlflow"]["id"]
        states.append(client.get_run(name).info.status)
        every_kind(opened, step)
        opened.close(status)
        states.append(client.get_run(name).info.status)
    assert "going on without" not in caplog.text
    assert states == ["RUNNING", "FAILED", "RUNNING", "KILLED", "RUNNING", "FINISHED"]
    experiment = client.get_experiment_by_name("imgclass").experiment_id
    (found,) = client.search_runs([experiment])
    assert (found.info.run_id, found.info.run_name) == (name, "cnn-1")
    losses = client.get_metric_history(name, "train/loss")
    assert [(m.step, m.value) for m in losses] == [(4, 1 / 4), (8, 1 / 8), (12, 1 / 12)]
    flat = config_lib.flatten(config.to_dict())
    assert found.data.params == {k: str(v) for k, v in flat.items() if v is not None}
    files = {file.path for file in client.list_artifacts(name)}
    assert files == {"histograms", "result.txt", "train"}
    path = client.download_artifacts(name, "histograms/0000000008.json")
    with open(path) as file:
        assert json.load(file)["parameters/kernel"]["counts"] == [1] * 64


def test_another_project_is_another_run(wandb_offline, folder):
    names = []
    for project in ("one", "two", "one"):
        config = tiny.config("unused", {"log.wandb": project})
        writers.Writers(folder, config, 0).close("finished")
        names.append(json.loads((folder / "tracking.json").read_text())["wandb"]["id"])
    assert len(set(names)) == 3  # the last one asked for is the one that is kept


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_said_with_what_to_do(folder, monkeypatch, package):
    """Also where only a folder of that name lies about, as W&B leaves one."""
    config = tiny.config("unused", {f"log.{package}": "somewhere"})
    real = importlib.util.find_spec
    for found in (None, importlib.machinery.ModuleSpec(package, None)):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, f=found: f if n == package else real(n)
        )
        with pytest.raises(UsageError) as caught:
            tracking.check(config.log)
        assert str(caught.value) == (
            f"log.{package}='somewhere': the package {package} is not installed; "
            f"pip install 'imgclass[track]', or leave log.{package} empty"
        )
    with pytest.raises(UsageError):
        writers.Writers(folder, config, 0)


def test_a_server_that_is_not_there_ends_a_start_but_not_a_run(folder, monkeypatch, caplog):
    """A start has nothing to lose, and a mistyped address is better said at once."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    config = tiny.config("unused", {"log.mlflow": "http://127.0.0.1:9"})
    with pytest.raises(UserError, match="MLflow cannot be opened"):
        writers.Writers(folder, config, 0)
    opened = writers.Writers(folder, config, 5)
    assert not opened
    assert [m for m in caplog.messages if m.startswith("MLflow cannot be written")]


def test_nothing_is_imported_unless_asked_for(folder):
    tracking.check(tiny.config("unused").log)
    assert not writers.Writers(folder, tiny.config("unused"), 0)
    assert list(folder.iterdir()) == []
