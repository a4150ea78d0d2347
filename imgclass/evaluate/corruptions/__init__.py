"""The 19 corruptions of Hendrycks & Dietterich (2019), each at 5 severities, of uint8 pictures.

Fifteen make up the benchmark, and four were meant to tune on (`EXTRA`). Each is a pure function of
the picture, the severity and (seed, corruption, severity, example), so that a figure can be had
again, on any machine and in batches of any size. Nothing here knows a model.

The constants are the published ones. There are three sets, and a picture gets that of the set whose
pictures are most like it in size, by the shorter side:

- 'cifar', made for 32 pixels: up to 45;
- 'tiny', made for the 64 of Tiny ImageNet: up to 119;
- 'imagenet', made for 224: from 120 on.

Constants in pixels stay as they are between these sizes. What differs from the published code:
results are rounded to the nearest of 256 levels, not down; the chance is NumPy's of today; frost is
drawn and not photographed (`weather.frost`); motion blur, and the edges of water drops, follow the
description of ImageMagick's and OpenCV's methods. Pictures of one channel take a colour's luma, and
stay as they are under 'saturate'.

Source: Hendrycks and Dietterich (2019), Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, arXiv:1903.12261; constants from the code that made the sets,
github.com/hendrycks/robustness.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imgclass.evaluate.corruptions import blur, digital, noise, spatter, weather

SEVERITIES = (1, 2, 3, 4, 5)
_CHUNK = 1 << 22  # samples at a time: 16 MB an array, of which there are a few at once


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A way to spoil pictures.

    Attributes:
      apply: (f32[n, h, w, c] in [0, 1], constants, a generator a picture) -> the same shape, not
        yet clipped.
      constants: of the severities 1 to 5, by set.
      extra: not one of the benchmark's fifteen.
    """

    apply: Callable[[np.ndarray, Any, Sequence[np.random.Generator]], np.ndarray]
    constants: Mapping[str, Sequence[Any]]
    extra: bool = False


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian, noise.GAUSSIAN),
    "shot_noise": Corruption(noise.shot, noise.SHOT),
    "impulse_noise": Corruption(noise.impulse, noise.IMPULSE),
    "defocus_blur": Corruption(blur.defocus, blur.DEFOCUS),
    "glass_blur": Corruption(blur.glass, blur.GLASS),
    "motion_blur": Corruption(blur.motion_blur, blur.MOTION),
    "zoom_blur": Corruption(blur.zoom, blur.ZOOM),
    "snow": Corruption(weather.snow, weather.SNOW),
    "frost": Corruption(weather.frost, weather.FROST),
    "fog": Corruption(weather.fog, weather.FOG),
    "brightness": Corruption(weather.brightness, weather.BRIGHTNESS),
    "contrast": Corruption(digital.contrast, digital.CONTRAST),
    "elastic_transform": Corruption(digital.elastic, digital.ELASTIC),
    "pixelate": Corruption(digital.pixelate, digital.PIXELATE),
    "jpeg_compression": Corruption(digital.jpeg, digital.JPEG),
    "speckle_noise": Corruption(noise.speckle, noise.SPECKLE, extra=True),
    "gaussian_blur": Corruption(blur.gaussian, blur.GAUSSIAN, extra=True),
    "spatter": Corruption(spatter.spatter, spatter.SPATTER, extra=True),
    "saturate": Corruption(digital.saturate, digital.SATURATE, extra=True),
}
MAIN = tuple(name for name, corruption in CORRUPTIONS.items() if not corruption.extra)
EXTRA = tuple(name for name, corruption in CORRUPTIONS.items() if corruption.extra)


def constants_for(height: int, width: int) -> str:
    """Returns which set of constants pictures of a size get.

    >>> [constants_for(side, side) for side in (32, 64, 224)]
    ['cifar', 'tiny', 'imagenet']
    """
    side = min(height, width)
    # Between 32 and 64, and 64 and 224, at the geometric mean: 45.3 and 119.7.
    return "cifar" if side <= 45 else "tiny" if side <= 119 else "imagenet"


def corrupt(
    pictures: np.ndarray, name: str, severity: int, seed: int, examples: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Spoils pictures.

    Args:
      pictures: uint8[n, h, w, c], c being 1 or 3.
      name: one of `CORRUPTIONS`.
      severity: 1 to 5.
      seed: of the chance in it, not negative.
      examples: int[n], each picture's number in its split; what befalls it depends on that and not
        on its place in the batch.

    Returns:
      uint8[n, h, w, c].

    Raises:
      ValueError: `pictures` are not such pictures.
      KeyError: there is no such corruption.
      IndexError: there is no such severity.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or pictures.shape[3] not in (1, 3):
        raise ValueError(
            f"pictures are {pictures.dtype}{list(pictures.shape)}: expected uint8[n, h, w, 1 or 3]"
        )
    if severity not in SEVERITIES:
        raise IndexError(f"severity {severity}: expected 1 to 5")
    corruption = CORRUPTIONS[name]
    h, w, c = pictures.shape[1:]
    constants = corruption.constants[constants_for(h, w)][severity - 1]
    out = np.empty_like(pictures)
    step = max(1, _CHUNK // (h * w * c))
    for start in range(0, len(pictures), step):
        part = slice(start, start + step)
        random = [_generator(seed, name, severity, int(example)) for example in examples[part]]
        spoiled = corruption.apply(pictures[part].astype(np.float32) / 255, constants, random)
        out[part] = np.round(np.clip(spoiled, 0, 1) * 255)
    return out


def _generator(seed: int, name: str, severity: int, example: int) -> np.random.Generator:
    # crc32 and not hash(): Python salts the hash of a string anew in every process.
    return np.random.default_rng([seed, zlib.crc32(name.encode()), severity, example])
