"""A finished run whose class and file names are hostile, and its report. Not a test."""

import pathlib
import shutil

import numpy as np

from imgclass import looks, report, train
from imgclass.evaluate import outcomes, restore
from tests import tiny

CLASSES = ('<script>alert("x")', "b & 'c' $x$" + 180 * "y")
FILE = '"><img src=x onerror=alert(1)>'  # of one test picture


def trained(root: pathlib.Path) -> pathlib.Path:
    """Trains on 2 classes; a test picture is also a training picture, under the other label."""
    data, rng = root / "data", np.random.default_rng(0)
    for split, count in (("train", 10), ("validation", 6), ("test", 5)):
        for label, name in enumerate(CLASSES):
            folder = data / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120 + 60 * label, (8, 8, 3)).astype(np.uint8)
                (folder / f"{number}.png").write_bytes(tiny.png(pixels))
    shutil.copy(data / "train" / CLASSES[0] / "0.png", data / "test" / CLASSES[1] / f"{FILE}.png")
    changes = {"eval.every_steps": 2, "augment.brightness": 0.5, "optim.lr": 1e-6}
    train.train_and_evaluate(tiny.config(data, changes), root / "run")
    return root / "run"


def reported(folder: pathlib.Path, split: str = "test"):
    """Writes the report as the verb does; returns (content, found, data, outcomes by split)."""
    found = restore.restore(folder)
    data = outcomes.open_data(found)
    scored = {role: outcomes.of_split(found, data, role) for role in report.needed(data, split)}
    assert looks.count(folder) == (split == "test")
    return report.write(found, data, scored, split), found, data, scored
