"""The one road from a picture to what the model sees, for training, evaluation and prediction.

`load` runs on the host and ends in uint8; `to_unit` and `standardize` run on the device. A run
stores what it used (`to_json`), so a picture met years later is treated the same. No augmentation.

JAX is imported by the functions that use it: processes that only decode have no need of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_collections
import numpy as np
from PIL import Image

from imgclass.data import decode
from imgclass.data.decode import Box

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How pictures are prepared; fields are the config keys `data.*` of the same names."""

    image_size: tuple[int, int]
    channels: int = 3
    resize: str = "stretch"
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    pad_value: int = 0
    max_pixels: int = 89_478_485
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def load(self, image: bytes | np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Decodes and resizes one picture.

        Args:
          image: an encoded file, or uint8[h, w] or uint8[h, w, 1 or 3].
          size: height and width to make; `image_size` if None.

        Returns:
          uint8[H, W, channels].

        Raises:
          decode.BadImage: if the bytes are not a whole picture.
        """
        return decode.resize(
            self.decode(image),
            size or self.image_size,
            how=self.resize,
            interpolation=self.interpolation,
            crop_fraction=self.crop_fraction,
            pad_value=self.pad_value,
        )

    def decode(self, image: bytes | np.ndarray) -> np.ndarray:
        """Decodes one picture; as `load`, at the size it has."""
        if isinstance(image, np.ndarray):
            return _with_channels(image, self.channels)
        return decode.decode(image, self.channels, self.max_pixels)

    def decode_boxes(
        self, image: bytes | np.ndarray, boxes: Callable[[int, int], list[Box]]
    ) -> list[np.ndarray]:
        """Decodes parts of one picture, each at the size it has.

        Args:
          image: as for `load`.
          boxes: (height, width) -> the parts.

        Returns:
          uint8[height, width, channels] of each.

        Raises:
          decode.BadImage: if the bytes are not a whole picture.
        """
        if isinstance(image, np.ndarray):
            return decode.cut(_with_channels(image, self.channels), boxes(*image.shape[:2]))
        return decode.decode_boxes(image, boxes, self.channels, self.max_pixels)

    def standardize(self, images: jax.Array) -> jax.Array:
        """Subtracts the mean and divides by the deviation; f32[..., channels] in [0,1] in."""
        import jax.numpy as jnp

        if not self.mean:
            return images
        shape = (1,) * (images.ndim - 1) + (-1,)
        mean = jnp.asarray(self.mean, jnp.float32).reshape(shape)
        std = jnp.asarray(self.std, jnp.float32).reshape(shape)
        return (images - mean) / std

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Preprocess:
        """Returns what `to_json` stored."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()
        }
        return Preprocess(**plain)


def from_config(data: ml_collections.ConfigDict) -> Preprocess:
    """Returns the preprocessing a config asks for."""
    names = [f.name for f in dataclasses.fields(Preprocess)]
    values: dict[str, Any] = {
        name: tuple(data[name]) if isinstance(data[name], list | tuple) else data[name]
        for name in names
    }
    if data.standardize != "given":  # a file's own stay unused when the choice is changed
        values |= {"mean": (), "std": ()}
    return Preprocess(**values)


def to_unit(images: jax.Array) -> jax.Array:
    """Scales uint8 pixels to float32 in [0, 1]."""
    import jax.numpy as jnp

    return images.astype(jnp.float32) / jnp.float32(255)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
