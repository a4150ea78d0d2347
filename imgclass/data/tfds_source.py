"""TensorFlow Datasets sets by name: find, prepare if possible, describe.

TensorFlow is needed only to prepare a set that is not on disk yet. Reading is `tfds_split`'s work.
"""

import contextlib
import difflib
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np

from imgclass.data.source import Native, Split
from imgclass.data.tfds_split import TfdsSplit
from imgclass.errors import UsageError, UserError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps tfds's log lines below errors out of the user's terminal."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def open_tfds(data: ml_collections.ConfigDict) -> Native:
    """Opens a set by its tfds name, preparing it first where that is possible.

    Args:
      data: the config; reads `name`, `data_dir`, `image_key` and `label_key`.

    Returns:
      The data set.

    Raises:
      UsageError: no such set, config, version or feature.
      UserError: it is not prepared and cannot be, or its files are damaged.
    """
    builder = _builder(data.name, data.data_dir)
    with quiet():
        prepared = builder.is_prepared()
    if not prepared:
        builder = _prepare(data.name, data.data_dir)
    return from_builder(builder, data.image_key, data.label_key)


def open_directory(path: pathlib.Path, data: ml_collections.ConfigDict) -> Native:
    """Opens the folder of a prepared set, the one with dataset_info.json in it; see `open_tfds`."""
    import tensorflow_datasets as tfds

    try:
        with quiet():
            builder = tfds.builder_from_directory(path)
    except Exception as error:
        raise UserError(f"{path} is not a readable tfds set: {_first_line(error)}") from error
    return from_builder(builder, data.image_key, data.label_key)


def from_builder(builder: Any, image_key: str, label_key: str) -> Native:
    """Describes a prepared set.

    Args:
      builder: a prepared tfds builder.
      image_key: feature of the pictures; '' for the supervised one, else the first by name.
      label_key: feature of the labels; likewise.

    Raises:
      UsageError: a feature is not there or not of the right type.
      UserError: the set is not stored as ArrayRecord, or a file is missing.
    """
    info = builder.info
    if info.file_format is None or info.file_format.value != "array_record":
        stored = info.file_format.value if info.file_format else "an unknown format"
        raise UserError(
            f"{info.full_name} in {builder.data_dir} is stored as {stored}, and array_record is "
            "needed.\n"
            f"Prepare it again: tfds build {builder.name} --file_format=array_record "
            "--data_dir=OTHER_FOLDER, then set data.data_dir=OTHER_FOLDER"
        )
    image_key, label_key = _feature_keys(info, image_key, label_key)
    splits: dict[str, Split] = {}
    for name, split in info.splits.items():
        shards = [(pathlib.Path(piece.filename), piece.take) for piece in split.file_instructions]
        missing = [path for path, _ in shards if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing: prepare {info.full_name} again")
        splits[name] = TfdsSplit(name, info.full_name, shards, image_key, label_key)
    return Native("tfds", tuple(info.features[label_key].names), splits)


def _feature_keys(info: Any, image_key: str, label_key: str) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    # By name: tfds restores them in an order that differs from process to process.
    features = dict(sorted(info.features.items())) if hasattr(info.features, "items") else {}
    pair = info.supervised_keys
    supervised = pair if isinstance(pair, tuple) and len(pair) == 2 else ("", "")
    keys: list[str] = []
    for key, asked, usual, kind in (
        ("image_key", image_key, supervised[0], tfds.features.Image),
        ("label_key", label_key, supervised[1], tfds.features.ClassLabel),
    ):
        fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
        found = asked or (usual if usual in fitting else next(iter(fitting), ""))
        if found not in fitting:
            listed = ", ".join(f"{name} ({type(f).__name__})" for name, f in features.items())
            asked_for = f"data.{key}={asked!r}" if asked else f"data.{key}"
            raise UsageError(
                f"{info.full_name}: {asked_for} has to be a feature of type {kind.__name__}; "
                f"there are {listed}"
            )
        keys.append(found)
    if np.dtype(features[keys[0]].np_dtype) not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise UsageError(f"{info.full_name}: feature {keys[0]!r} is not a picture of whole numbers")
    return keys[0], keys[1]


def _builder(name: str, data_dir: str, **options: Any) -> Any:
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(data_dir) if data_dir else None
    if re.match(r"\w+:[A-Za-z]", name):
        raise UsageError(
            f"data.name={name!r}: only tfds's own sets are supported, such as 'cifar10' or "
            "'cifar10:3.0.2', and no folder of that name exists"
        )
    try:
        with quiet():
            return tfds.builder(name, data_dir=folder, **options)
    except tfds.core.DatasetNotFoundError as error:
        with quiet():
            known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name.split("/")[0].split(":")[0], known, n=3)
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise UsageError(
            f"data.name={name!r}: no tfds set of that name, and no folder of that name "
            f"either.{hint}"
        ) from error
    except Exception as error:
        raise UsageError(f"data.name={name!r}: {_first_line(error)}") from error


def _prepare(name: str, data_dir: str) -> Any:
    """Downloads and prepares a set, and returns its builder."""
    where = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    missing = [m for m in ("tensorflow", "importlib_resources") if not importlib.util.find_spec(m)]
    if missing:
        raise UserError(
            f"{name} is not prepared in {where}, and preparing it needs {' and '.join(missing)}.\n"
            "Run: pip install -e '.[prepare]' in imgclass's folder, then the same command again; "
            "or point data.data_dir or TFDS_DATA_DIR to a folder where it is prepared"
        )
    try:
        builder = _builder(name, data_dir, file_format="array_record")
        builder.download_and_prepare()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} is not prepared in {where}, and preparing it failed: {_first_line(error)}\n"
            "Run the same command again with a network, or point data.data_dir or TFDS_DATA_DIR "
            "to a folder where it is prepared"
        ) from error
    return builder


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    # tfds puts the call in front of the reason.
    text = re.sub(r"^Failed to construct dataset .*?\}\": ", "", text)
    return text.splitlines()[0][:300]
