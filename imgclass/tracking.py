"""Weights & Biases and MLflow as writers of a run. Their packages are imported only when asked for.

Both may be without a network: WANDB_MODE=offline, and an SQLite file for MLflow. The id that each
gave the run is kept in the run folder, in tracking.json, so a run that goes on after a kill goes on
there as well. What was written after the last checkpoint is then written again, the same figures at
the same steps.
"""

import importlib.util
import os
import pathlib
import secrets
import time
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from imgclass import config as config_lib
from imgclass import run
from imgclass.errors import UsageError
from imgclass.histograms import Histogram

FILE = "tracking.json"
EXPERIMENT = "imgclass"  # of MLflow, unless MLFLOW_EXPERIMENT_NAME says another
_MOST = 100  # parameters a call of MLflow takes
# An MLflow server that is down is given up after about a minute; its own defaults take 15.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def check(log: ml_collections.ConfigDict) -> None:
    """Raises UsageError if a config's `log` section asks for a package that is not installed."""
    for package in ("wandb", "mlflow"):
        if not log[package]:
            continue
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:  # the folder wandb/ that W&B itself leaves
            raise UsageError(
                f"log.{package}={log[package]!r}: the package {package} is not installed; "
                f"pip install 'imgclass[track]', or leave log.{package} empty"
            )


def _known(folder: pathlib.Path, key: str, where: str) -> str | None:
    """Returns the id the run has at `where`, None if it has not been there."""
    entry = (run.load_json(folder / FILE) or {}).get(key, {})
    return entry["id"] if entry.get("where") == where else None


def _keep(folder: pathlib.Path, key: str, where: str, name: str) -> None:
    stored = run.load_json(folder / FILE) or {}
    run.write_json(folder / FILE, stored | {key: {"where": where, "id": name}})


class WandB:
    """A run of a Weights & Biases project, a `writers.Writer`. Its files are in <run>/wandb."""

    name = "Weights & Biases"

    def __init__(self, project: str, folder: pathlib.Path, config: ml_collections.ConfigDict):
        """Starts the run, or goes on with it."""
        import wandb

        self._wandb = wandb
        known = _known(folder, "wandb", project)
        name = known or secrets.token_hex(4)
        if not known:  # first, so that no kill leaves a run whose id nobody knows
            _keep(folder, "wandb", project, name)
        self._run: Any = wandb.init(
            project=project,
            id=name,
            resume="allow",
            name=folder.absolute().name,
            dir=str(folder),
            config=config.to_dict(),
            # Standard output stays as it is, and the last lines of a run are its result.
            settings=wandb.Settings(console="off", quiet=True),
        )
        # Not W&B's own counter, which cannot go back: the test figure is of an earlier step.
        self._run.define_metric("*", step_metric="step")

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve."""
        self._run.log({**values, "step": step})

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Adds u8[height, width, 3]."""
        self._run.log({tag: self._wandb.Image(pixels), "step": step})

    def histograms(self, values: Mapping[str, Histogram], step: int) -> None:
        """Adds a histogram to each tag."""
        made = {
            tag: self._wandb.Histogram(np_histogram=(h.counts, h.edges))
            for tag, h in values.items()
        }
        self._run.log({**made, "step": step})

    def text(self, tag: str, text: str, step: int) -> None:
        """Puts text into the run's summary."""
        del step
        self._run.summary[tag] = text

    def close(self, status: str) -> None:
        """Ends the run: 'finished', 'failed' or 'stopped'."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


class MLflow:
    """A run at an MLflow tracking URI, a `writers.Writer`."""

    name = "MLflow"

    def __init__(self, uri: str, folder: pathlib.Path, config: ml_collections.ConfigDict):
        """Starts the run, or goes on with it."""
        if uri.startswith("http"):
            for key, value in _PATIENCE.items():
                os.environ.setdefault(key, value)
        import mlflow
        from mlflow import entities

        self._entities = entities
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        known = _known(folder, "mlflow", uri)
        if known:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        made = self._client.create_run(number, run_name=folder.absolute().name)
        self._id = made.info.run_id
        _keep(folder, "mlflow", uri, self._id)
        flat = config_lib.flatten(config.to_dict())
        said = [entities.Param(k, str(v)) for k, v in flat.items() if v is not None]
        for first in range(0, len(said), _MOST):
            self._client.log_batch(self._id, params=said[first : first + _MOST])

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve."""
        now = int(time.time() * 1000)
        points = [self._entities.Metric(tag, value, now, step) for tag, value in values.items()]
        self._client.log_batch(self._id, metrics=points)

    def picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Adds u8[height, width, 3], as an artifact."""
        del step
        self._client.log_image(self._id, Image.fromarray(pixels), f"{tag}.png")

    def histograms(self, values: Mapping[str, Histogram], step: int) -> None:
        """Adds an artifact with all of them, as MLflow draws none."""
        plain = {
            tag: {"counts": h.counts.tolist(), "edges": h.edges.tolist()}
            for tag, h in values.items()
        }
        self._client.log_dict(self._id, plain, f"histograms/{step:010d}.json")

    def text(self, tag: str, text: str, step: int) -> None:
        """Adds an artifact."""
        del step
        self._client.log_text(self._id, text, f"{tag}.txt")

    def close(self, status: str) -> None:
        """Ends the run: 'finished', 'failed' or 'stopped'."""
        words = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
        self._client.set_terminated(self._id, words[status])
