"""Whole runs with optimizers that keep more than a velocity: saved, gone on from, and evaluated."""

import pathlib
import shutil

import numpy as np
import pytest

from imgclass import train
from tests import tiny

RUNS = {
    "muon": {
        "optim.name": "muon",
        "optim.nesterov": True,
        "optim.muon_normalize": True,
        "optim.weight_decay": 0.01,
        "optim.lr_factors": ("bn[0-9]+/bias=0",),
        "optim.freeze": "bn[0-9]+/scale",
        "optim.lookahead_steps": 2,
        "optim.schedule": "linear",
    },
    "lars": {
        "optim.name": "lars",
        "optim.swa_start": 0.5,
        "optim.average_every": 2,
        "optim.layer_decay": 0.5,
        "optim.sam_rho": 0.1,
    },
    "schedule_free": {"optim.name": "sgd", "optim.lr": 0.1, "optim.schedule_free": True},
}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_from_a_checkpoint_to_the_same_bits(name, tmp_path):
    data = tiny.archive(tmp_path)
    changes = {"model.batch_norm": True, "checkpoint.every_steps": 3, "checkpoint.keep": 9}
    config = tiny.config(data, changes | RUNS[name])
    whole, again = tmp_path / "whole", tmp_path / "again"
    state = train.train_and_evaluate(config, whole)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / f"{6:010d}")
    pathlib.Path(again / "result.json").unlink()
    train.train_and_evaluate(config, again)
    tiny.assert_same_bits(tiny.arrays(again), tiny.arrays(whole))

    stored = {key.split(".")[0] for key in tiny.arrays(whole)}
    kept = {"muon": {"slow"}, "lars": {"ema"}, "schedule_free": {"slow", "ema"}}[name]
    assert stored & {"slow", "ema"} == kept
    norm = state.params["block1_bn1"]
    unmoved = bool(np.all(norm["scale"] == 1.0)) and not np.any(norm["bias"])
    assert unmoved == (name == "muon")
    moved = state.params["head"]["kernel"]
    if name == "muon":  # it ends on the slow weights
        np.testing.assert_array_equal(moved, state.slow["params"]["head"]["kernel"])
    else:  # what is evaluated is not what was trained
        assert np.any(moved != state.ema["params"]["head"]["kernel"])
