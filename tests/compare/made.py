"""Run folders written by hand: what comparing reads of a run, without training one. Not a test."""

import numpy as np

from imgclass import config as config_lib
from imgclass import run
from imgclass.data.preprocess import Preprocess
from imgclass.evaluate import outcomes

STEP, STEPS, CLASSES = 7, 10, ("cat", "dog")


def split(examples, fingerprint):
    """Returns what data.json says of a split."""
    return {
        "examples": examples,
        "class_counts": [examples, 0],
        "fingerprint": fingerprint,
        "fingerprint_kind": "content",
        "bad_files": [],
    }


def make(folder, right, seed=0, changes=None, test=None, store=True, **data):
    """Writes a finished run whose best checkpoint had `right` pictures right; returns the folder.

    Args:
      folder: of the run.
      right: bool[n], validation picture by picture. Loss is -ln 0.9 for a right one, -ln 0.1 else.
      seed: of the run.
      changes: of the config, as {'optim.lr': 0.1}.
      test: as `right`; None is a run that never scored its test split, of 20 pictures.
      store: whether to write predictions-*.npz.
      data: entries of data.json that are not as usual.
    """
    config = config_lib.defaults()
    config.train.total_steps = STEPS
    config.seed = seed
    for path, value in (changes or {}).items():
        section, name = path.split(".")
        config[section][name] = value
    config = config_lib.resolve(config)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_lib.to_json(config))
    splits = {"train": split(40, "t"), "validation": split(len(right), "v"), "test": split(20, "s")}
    described = {"name": "made", "kind": "arrays", "class_names": list(CLASSES), "splits": splits}
    described["preprocess"] = Preprocess((8, 8), 3, "stretch", 1.0, "bilinear", 0, 100).to_json()
    run.write_json(folder / "data.json", described | data)
    best = figures(right)
    result = {"steps": STEPS, "final": best | {"step": STEPS}, "best": best}
    if test is not None:
        result["test"] = figures(test)
    run.write_json(folder / "result.json", result)
    if store:
        write_outcomes(folder, "validation", right)
    return folder


def figures(right):
    """Returns what result.json says of a split."""
    loss = -np.mean(np.where(right, np.log(0.9), np.log(0.1)))
    about = {"step": STEP, "examples": len(right), "accuracy": float(np.mean(right))}
    return about | {"loss": float(loss), "top5": 1.0}


def write_outcomes(folder, name, right, step=STEP):
    """Writes predictions-<name>.npz: all labels are 0."""
    probabilities = np.where(np.asarray(right)[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
    n = len(right)
    made = outcomes.Outcomes(
        probabilities.astype(np.float32), np.zeros(n, np.int32), np.arange(n, dtype=np.int64)
    )
    outcomes.write(folder, name, step, made)


def first(k, n=20):
    """Returns bool[n]: the first k pictures are right."""
    return np.arange(n) < k
