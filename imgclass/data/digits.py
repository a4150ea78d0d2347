"""The embedded data set: scikit-learn's 1,797 handwritten digits as a tfds builder of our own.

No network and no TensorFlow: the pictures come with scikit-learn, are encoded by Pillow, and are
prepared once into the user's cache. Reading them is `tfds_split`'s work.
"""

import contextlib
import functools
import hashlib
import io
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from imgclass import files
from imgclass.data import tfds_source, tfds_split
from imgclass.data.source import Native
from imgclass.errors import UserError

DIGEST_FILE = "files.blake2b"


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits, 8x8, gray: 1,442 to train and 355 to test.

    Intensities 0..16 become uint8 round(value * 255 / 16). scikit-learn has no split; in
    ours every fifth picture of each class is for test. The set is ordered by writer, so both
    splits hold every writer, and no seed was there to choose.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="8x8 gray pictures of handwritten digits, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing to download
        pictures, labels = digits_arrays()
        held = held_out(labels)
        return {
            "train": self._generate_examples(pictures, labels, np.flatnonzero(~held)),
            "test": self._generate_examples(pictures, labels, np.flatnonzero(held)),
        }

    def _generate_examples(
        self, pictures: np.ndarray, labels: np.ndarray, chosen: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in chosen.tolist():
            yield index, {"image": _png(pictures[index]), "label": int(labels[index])}


class _DigitsSplit(tfds_split.TfdsSplit):
    """A split whose fingerprint is that of the pixels.

    The PNG and ArrayRecord bytes depend on the versions of the compressors; a run has to resume on
    a machine with others.
    """

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(f"{self.identity} {self.name} ".encode(), digest_size=16)
        for record in self.read(range(len(self))):
            with PIL.Image.open(io.BytesIO(bytes(record.image))) as picture:
                digest.update(bytes([record.label]) + picture.tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self._read_labels()


def digits_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Returns scikit-learn's digits: uint8[1797, 8, 8] pictures in [0, 255], int64[1797] labels."""
    import sklearn.datasets

    pictures, labels = sklearn.datasets.load_digits(return_X_y=True)
    return np.round(pictures.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8), labels


def held_out(labels: np.ndarray) -> np.ndarray:
    """Returns bool[n]: true for the fifth, tenth, ... example of each class."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[4::5]] = True
    return held


def open_digits() -> Native:
    """Opens the digits, preparing them in the user's cache if they are not there intact.

    Raises:
      UserError: the cache folder cannot be written.
    """
    root = files.cache_folder() / "tfds"
    folder = root / "digits" / str(Digits.VERSION)
    if not _intact(folder):
        try:
            _prepare(root, folder)
        except OSError as error:
            raise UserError(
                f"cannot prepare digits in {root}: {error.strerror or error}. Set XDG_CACHE_HOME "
                "to a folder that can be written"
            ) from error
    with tfds_source.quiet():
        builder = tfds.builder_from_directory(folder)
    native = tfds_source.from_builder(builder, "", "")
    own = {
        name: _DigitsSplit(name, split.identity, split.shards, *split.keys)
        for name, split in native.splits.items()
        if isinstance(split, tfds_split.TfdsSplit)
    }
    return Native("digits", native.class_names, own)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _prepare(root: pathlib.Path, folder: pathlib.Path) -> None:
    """Prepares beside `folder` and renames into place, so that no process sees half a set."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="preparing-", dir=root) as temporary:
        with _silent():
            builder = Digits(data_dir=temporary, file_format="array_record")
            builder.download_and_prepare(download_dir=os.path.join(temporary, "downloads"))
        made = pathlib.Path(builder.data_dir)
        (made / DIGEST_FILE).write_text(_digest(made))
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not _intact(folder):
            # Moved aside in one step: a reader that has the damaged files open keeps them.
            with contextlib.suppress(FileNotFoundError):
                os.rename(folder, os.path.join(temporary, "damaged"))
        try:
            os.rename(made, folder)
        except OSError:
            # Another process was first; its work is as good as ours.
            if not _intact(folder):
                raise


def _intact(folder: pathlib.Path) -> bool:
    try:
        return (folder / DIGEST_FILE).read_text() == _digest(folder)
    except OSError:
        return False


def _digest(folder: pathlib.Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.name != DIGEST_FILE:
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Stops tfds from announcing a preparation that takes a second."""
    tfds.disable_progress_bar()
    try:
        with tfds_source.quiet(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
