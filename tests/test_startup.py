"""What a start must not wait for: modules that a command imports without need of them.

By name and not by seconds, which depend on the machine; `benchmarks/startup.py` measures those.
"""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import tiny

CLI = "from imgclass import cli; cli.console()"

# Drawing, tables, statistics, other frameworks: whoever needs one of them imports it when it does.
# tensorflow_datasets belongs to the sets that it reads, tensorboardX to runs that write for it.
NEVER = {
    "IPython",
    "cv2",
    "inside_torch",
    "keras",
    "matplotlib",
    "mlflow",
    "optuna",
    "pandas",
    "scipy",
    "simplejpeg",
    "sklearn",
    "tensorboard",
    "tensorflow",
    "tensorflow_datasets",
    "wandb",
}
# What the help does not need either.
HEAVY = NEVER | {"PIL", "flax", "jax", "jaxlib", "numpy", "optax", "orbax", "tensorstore"}


def imported(*words, path=""):
    """Returns the packages that a Python command imports, or tries to, from start to end."""
    env = tiny.environment()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, words)],
        env=env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{path}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps with all its writers, and the packages that its process imported."""
    root = tmp_path_factory.mktemp("trained")
    (root / "others").mkdir()
    # As if it were installed. An attempt that fails is listed too, so the module inside tells.
    (root / "others" / "torch.py").write_text("import inside_torch")
    (root / "others" / "inside_torch.py").touch()
    command = tiny.command(tiny.archive(root), root / "run", {"log.tensorboard": True})
    return root / "run", imported(*command[1:], path=root / "others")


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_imports_nothing_heavy(word):
    assert imported("-c", CLI, word) & HEAVY == set()


def test_help_of_a_verb_imports_nothing_heavy():
    assert imported("-c", CLI, "predict", "--help") & HEAVY == set()


def test_training_imports_only_what_it_uses(trained):
    packages = trained[1]
    assert {"jax", "flax", "orbax"} <= packages
    assert packages & NEVER == set()


def test_predicting_imports_only_what_it_uses(trained, tmp_path):
    picture = tmp_path / "one.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    packages = imported("-c", CLI, "predict", trained[0], picture)
    assert {"jax", "flax", "orbax", "PIL"} <= packages
    # The picture is a PNG, so its decoder is used, and no other.
    assert packages & (NEVER - {"cv2"} | {"tensorboardX", "tqdm"}) == set()
