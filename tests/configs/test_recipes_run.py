"""The recipes of ImageNet run from a folder of pictures to a result, small and for a few steps.

The pictures and the sizes are stand-ins; every method of a recipe is on, and by command-line keys
that any user may give, nothing else is changed.
"""

import json

import numpy as np
import pytest

from imgclass import config as config_lib
from imgclass.train import train_and_evaluate
from tests import tiny
from tests.configs.everything import experiment

SMALL = {
    "data.image_size": (40, 40), "data.load_size": (48, 48), "data.threads": 2,
    "data.bad_files": "error", "train.batch_size": 8, "train.total_steps": 3, "train.devices": 1,
    "optim.warmup_steps": 1, "eval.batch_size": 8, "log.every_steps": 1, "log.tensorboard": False,
    "log.progress": False,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    tiny.folder(root, "train", 24, size=48)
    return tiny.folder(root, "val", 6, size=48, seed=1)


def run(name, pictures, workdir, changes=None):
    config = experiment(name)
    changes = SMALL | {"data.name": str(pictures)} | (changes or {})
    if config.model.batch_norm_group:
        changes["model.batch_norm_group"] = 4
    if config.augment.sizes:
        changes["augment.sizes"] = (32,)  # the least of ConvNeXt
    config.unlock()
    for path, value in changes.items():
        section, _, key = path.partition(".")
        config[section][key] = value
    config = config_lib.resolve(config, changes)
    config_lib.check(config, changes)
    train_and_evaluate(config, workdir)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["split"] == "train"]
    result = json.loads((workdir / "result.json").read_text())
    return losses, result


def test_torchvisions_second_recipe_runs_with_a_small_net(pictures, tmp_path):
    net = {
        "model.name": "cnn", "model.filters": (4,), "model.batch_norm": True,
        "model.head": "average",  # trained on 32x32 pictures, evaluated on 40x40
    }  # fmt: skip
    losses, result = run("imagenet_resnet50:v2", pictures, tmp_path, net)
    assert len(losses) == result["steps"] == 3
    assert np.isfinite(losses).all()
    # 3x3x3x4 without a bias, scale and bias of the norm, 4 averages to 3 classes and 3 biases.
    assert result["parameters"] == 108 + 8 + 4 * 3 + 3
    assert round(6 * result["final"]["accuracy"], 6) in range(7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "imagenet_resnet50:v2",
        "imagenet_rsb:a1",
        "imagenet_mobilenet_v3:small",
        "imagenet_convnext:tiny",
    ],
)
def test_the_others_run(name, pictures, tmp_path):
    losses, result = run(name, pictures, tmp_path)
    assert len(losses) == result["steps"] == 3
    assert np.isfinite(losses).all()
