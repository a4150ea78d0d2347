"""Weights to begin with: where `model.pretrained` points, what fits of it, and what to record.

A file, a run folder or a name on the Hugging Face Hub becomes arrays by our names, which take the
place of those just drawn (`build.Task.initial_state`). Read once, before the first step: a run
that goes on has them in its checkpoint.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import logging
import pathlib
import re
from typing import Any

import jax
import ml_collections
import numpy as np

from imgclass import models, parallel
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError, UserError, first_line
from imgclass.evaluate import restore
from imgclass.models import weight_files, weights

logger = logging.getLogger(__name__)

_HUB = re.compile(r"hf[-_]hub:(?P<repository>.+)|(?P<timm>timm/.+)")
_TENSORFLOW = re.compile(r"(hf[-_]hub:)?timm/tf_")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights to begin with.

    Attributes:
      arrays: f32 by name, 'params.conv1.kernel'; without the head's where the head is new.
      record: for environment.json: 'source', 'sha256', 'library', 'head' ('kept' or 'new').
    """

    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


def load(
    config: ml_collections.ConfigDict,
    model: models.Model,
    class_names: tuple[str, ...],
    prepare: Preprocess,
    file: weight_files.WeightFile | None = None,
) -> Pretrained | None:
    """Returns the weights that model.pretrained means, None if it is ''.

    Args:
      config: resolved and checked.
      model: what takes them.
      class_names: by label; a run's head is kept only where its classes are the same.
      prepare: the preprocessing, compared with a run's own.
      file: what model.pretrained means, where it is a file that has been read already.

    Raises:
      UsageError: they are of another architecture, or shapes do not fit; a list.
      UserError: there is no such file or run, or it is damaged or refused.
    """
    source = config.model.pretrained
    if not source:
        return None
    try:
        if file is not None:
            found = file
        elif (pathlib.Path(source).expanduser() / "config.json").is_file():
            found = _from_run(
                pathlib.Path(source).expanduser(), config.model.name, class_names, prepare
            )
        else:
            found = weight_files.read(find(source))
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        matched = weights.match(
            *(config.model.name, shapes, found.tensors, str(source)),
            square=model.input_shape[0] == model.input_shape[1],
        )
    except UserError as error:
        raise type(error)(f"model.pretrained: {error}") from None
    _check_constants(config.model, matched.library, source)
    head = matched.new_head
    logger.info(
        "%s: %d tensors by the names of %s, sha256 %s; the head is %s",
        *(source, len(matched.arrays), matched.library, found.sha256[:12]),
        f"new, for {head}" if head else "kept",
    )
    for name in matched.resampled:
        logger.info("%s: %s is resampled for data.image_size", source, name)
    record = {
        "source": str(source),
        "sha256": found.sha256,
        "library": matched.library,
        "head": "new" if head else "kept",
    }
    return Pretrained(matched.arrays, record)


def find(source: str) -> pathlib.Path:
    """Returns the file that a path or a name on the Hub means, fetched if need be.

    Raises:
      UsageError: there is none.
      UserError: it is on the Hub, and cannot be had.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_file():
        return path
    hub = _HUB.fullmatch(source)
    if hub and not path.exists():
        return _fetch(hub["repository"] or hub["timm"], _HUB_FILES)
    if (path / "config.json").is_file():
        raise UsageError(f"{source} is a run already; its weights can be used as they are")
    words = "a folder, but no run: it has no config.json" if path.is_dir() else "no such file"
    raise UsageError(
        f"{source}: {words}. Give a {', '.join(weight_files.SUFFIXES)} file, a run folder, or "
        "'timm/NAME' or 'hf-hub:OWNER/NAME' for the Hugging Face Hub"
    )


def _fetch(repository: str, names: tuple[str, ...]) -> pathlib.Path:
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            f"{repository} is on the Hugging Face Hub: pip install 'imgclass[weights]' to fetch it"
        ) from None

    # It would tell of every attempt to reach the Hub.
    importlib.import_module("huggingface_hub.utils.logging").set_verbosity_error()

    def have(name: str, cached: bool) -> pathlib.Path:
        return pathlib.Path(hub.hf_hub_download(repository, name, local_files_only=cached))

    for name in names:
        with contextlib.suppress(Exception):
            return have(name, cached=True)  # no network, and the same file each time
    reasons = []
    for name in ("config.json", *names):  # it says how pictures are prepared; not all have it
        try:
            found = have(name, cached=False)
        except Exception as error:  # of the network's, the Hub's and the disk's many
            reasons.append(first_line(error))
            if isinstance(error, hub.errors.LocalEntryNotFoundError):
                break  # the Hub was not reached, for which the client has tried half a minute
            continue
        if name in names:
            return found
    raise UserError(f"{repository}: not to be had from the Hugging Face Hub ({reasons[-1]})")


def _from_run(
    folder: pathlib.Path, name: str, class_names: tuple[str, ...], prepare: Preprocess
) -> weight_files.WeightFile:
    """Reads the best weights of a run, without its head where its classes are others."""
    found = restore.restore(folder)
    theirs = found.task
    if theirs.config.model.name != name:
        raise UsageError(f"{folder} is a {theirs.config.model.name}, and model.name={name!r}")
    for what in ("mean", "std"):
        then, now = getattr(theirs.prepare, what), getattr(prepare, what)
        if not np.allclose(then or (0.0,), now or (0.0,), atol=0.02):
            logger.warning("%s was trained with data.%s=%s, here it is %s", folder, what, then, now)
    named = jax.tree_util.tree_flatten_with_path(parallel.fetch(found.variables))[0]
    tensors = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in named
    }
    if theirs.class_names != class_names:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("params.head.")}
    manifest = folder / "checkpoints" / f"{found.step:010d}" / "manifest.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return weight_files.WeightFile(folder, digest, tensors)


def epsilon_of(name: str, library: str) -> float | None:
    """Returns the batch norm epsilon of a library's weights, None where it is this model's own."""
    return 1e-5 if library == "timm" and name.startswith("mobilenet_v3") else None


def _check_constants(section: ml_collections.ConfigDict, library: str, source: str) -> None:
    """Says where a library's model differs in a way that no tensor shows."""
    if _TENSORFLOW.match(source) and not section.name.startswith("efficientnet_lite"):
        raise UsageError(
            f"model.pretrained={source!r}: timm's tf_* models pad as TensorFlow does, and "
            f"{section.name} as PyTorch; take the one without tf_"
        )
    wanted = epsilon_of(section.name, library)
    if wanted is not None and section.batch_norm_epsilon != wanted:
        logger.warning(
            "%s's weights of %s need another batch norm epsilon than this model's: give "
            "--config.model.batch_norm_epsilon=%g",
            *(library, section.name, wanted),
        )
