"""A run folder made of weights from elsewhere, so that evaluate, predict and export work on it.

What pictures go through comes from the config's data section; `defaults` fills it, and what of the
model no tensor shows, with what the weights were published with, where that is known. Nothing is
trained.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections

from imgclass import build, checkpoint, models, parallel, presets, pretrained, run
from imgclass import config as config_lib
from imgclass.data import dataset, preprocess
from imgclass.errors import UsageError
from imgclass.models import weight_files, weights
from imgclass.progress import Progress

logger = logging.getLogger(__name__)

# What data.name says where there are no data.
NO_DATA = "none"

_IMAGENET = {
    key: presets.IMAGENET[key] for key in ("resize", "crop_fraction", "standardize", "mean", "std")
}
# By the library that the tensors' names are of: what its weights mostly expect.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "torchvision": _IMAGENET | {"interpolation": "bilinear"},
    "timm": _IMAGENET | {"interpolation": "bicubic"},
    "efficientnet_lite_pytorch": _IMAGENET
    | {"interpolation": "bicubic", "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3},
}


def defaults(config: ml_collections.ConfigDict, source: pathlib.Path, library: str) -> dict:
    """Returns what published weights need, by 'section.key': how pictures are prepared, mostly.

    Args:
      config: gives the model's name.
      source: the file; our own have it in their header, timm keeps a config.json beside it.
      library: whose names the tensors have; one that is not known gives nothing.
    """
    own = weight_files.about(source).get("preprocess")
    if own is not None:  # `imgclass export` wrote it
        prepare = preprocess.Preprocess.from_json(json.loads(own))
        standardize = "given" if prepare.mean else "none"
        found = dataclasses.asdict(prepare) | {"standardize": standardize}
        return {f"data.{key}": value for key, value in found.items()}
    if library not in _PUBLISHED:
        return {}
    side = models.input_size(config.model.name)
    found = _PUBLISHED[library] | {"image_size": (side, side)}
    found |= _stored(source.with_name("config.json"))
    needed = {f"data.{key}": value for key, value in found.items()}
    epsilon = pretrained.epsilon_of(config.model.name, library)
    if epsilon is not None:
        needed["model.batch_norm_epsilon"] = epsilon
    return needed


def _stored(beside: pathlib.Path) -> dict[str, Any]:
    """Returns the keys of the data section that timm's config.json gives; {} if it is not there."""
    try:
        stored = json.loads(beside.read_text())["pretrained_cfg"]
        found = {
            "image_size": tuple(stored["input_size"][1:]),
            "crop_fraction": stored["crop_pct"],
            "interpolation": stored["interpolation"],
            "mean": tuple(stored["mean"]),
            "std": tuple(stored["std"]),
        }
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    logger.info("%s: says how pictures are prepared", beside)
    return found


def make_run(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    class_names: tuple[str, ...] | None,
    given: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Makes a run folder of the weights that model.pretrained means, as its checkpoint of step 0.

    Args:
      folder: must not hold a run.
      config: model.name and model.pretrained, and how pictures are prepared.
      class_names: by label; None where config.data is a data set that has them. Without a data
        set nothing can be evaluated, only predicted.
      given: keys, as 'data.mean', that are meant as they stand; the others are filled in by
        `defaults`.

    Returns:
      'library', 'sha256', 'classes', 'parameters', and 'preprocess' as in data.json.

    Raises:
      UsageError: the weights do not fit the model or the classes, or the folder is taken.
      UserError: a file cannot be read or written.
    """
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} holds a run already; give another --output")
    source = weight_files.read(pretrained.find(config.model.pretrained))
    config = _filled(config, source, given)
    data = dataset.open_dataset(config) if class_names is None else None
    names = data.source.class_names if data else class_names
    assert names is not None
    prepare = data.prepare if data else preprocess.from_config(config.data)
    mesh = parallel.make_mesh(1, config.train.batch_size)
    task = build.make(config, names, prepare, mesh, 1, 0)
    first = pretrained.load(config, task.model, names, prepare, source)
    assert first is not None
    if first.record["head"] == "new":
        raise UsageError(
            f"{config.model.pretrained}: its head is not one for {len(names)} classes. To train a "
            "new head begin a run with --config.model.pretrained"
        )
    state = task.initial_state(pretrained=first.arrays)
    described = dataset.describe(data) if data else _no_data(names, prepare)
    with run.locked(folder), checkpoint.Checkpoints(folder / "checkpoints") as saved:
        run.store(folder, config, described)
        run.record_start(folder, {"pretrained": first.record})
        saved.save(0, state, Progress().record(), None)
    return {
        "library": first.record["library"],
        "sha256": first.record["sha256"],
        "classes": len(names),
        "parameters": models.count_parameters(state.params),
        "preprocess": prepare.to_json(),
    }


def _filled(
    config: ml_collections.ConfigDict, source: weight_files.WeightFile, given: frozenset[str]
) -> ml_collections.ConfigDict:
    """Returns the checked config of a run that is not trained, filled in by `defaults`."""
    library = _library_of(config, source.tensors)
    filled = config.copy_and_resolve_references()
    for path, value in defaults(config, source.path, library).items():
        if path not in given:
            section, _, name = path.partition(".")
            filled[section][name] = value
    # One that keeps nothing beside the weights; a total that needs no examples.
    filled.optim.update(name="sgd", momentum=0.0)
    filled.train.total_steps = 1
    filled = config_lib.resolve(filled)
    config_lib.check(filled)
    return filled


def _library_of(config: ml_collections.ConfigDict, tensors: Iterable[str]) -> str:
    """Returns the library that most names of tensors are of."""
    side = models.input_size(config.model.name)
    model = models.create(config.model, 2, (side, side, config.data.channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return weights.library_of(config.model.name, shapes, tensors)


def _no_data(class_names: tuple[str, ...], prepare: preprocess.Preprocess) -> dict[str, Any]:
    """Returns what `dataset.describe` would of a data set without pictures."""
    empty = {
        "examples": 0,
        "class_counts": [0] * len(class_names),
        "fingerprint": "",
        "fingerprint_kind": "none",
        "bad_files": [],
    }
    return {
        "name": NO_DATA,
        "kind": NO_DATA,
        "class_names": list(class_names),
        "splits": {"train": empty},
        "preprocess": prepare.to_json(),
    }
