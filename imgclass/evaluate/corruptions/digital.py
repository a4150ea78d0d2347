"""Contrast, elastic, pixelate, JPEG and saturate. See `corruptions` for what all of them share."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from imgclass.evaluate.corruptions.pictures import Generators, Pictures

# What is left of the distance from the mean.
CONTRAST = {
    "cifar": (0.75, 0.5, 0.4, 0.3, 0.15),
    "tiny": (0.4, 0.3, 0.2, 0.1, 0.05),
    "imagenet": (0.4, 0.3, 0.2, 0.1, 0.05),
}
# Displacement and its smoothing, and how far three points are moved; all in shorter sides. The
# published constants of ImageNet take 244 pixels for a side, of pictures of 224.
_SIDE = 244 / 224
ELASTIC = {
    "cifar": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05),
              (0.1, 0.03, 0.03)),
    "tiny": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03),
             (0.16, 0.03, 0.02)),
    "imagenet": tuple(
        (alpha * _SIDE, sigma * _SIDE, move * _SIDE)
        # Of the first two the published displacement is 2 sides of 244, and is smoothed away.
        for alpha, sigma, move in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02),
                                   (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ),
}  # fmt: skip
# Share of the side that is left.
PIXELATE = {
    "cifar": (0.95, 0.9, 0.85, 0.75, 0.65),
    "tiny": (0.9, 0.8, 0.7, 0.6, 0.5),
    "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25),
}
# Pillow's quality.
JPEG = {
    "cifar": (80, 65, 58, 50, 40),
    "tiny": (65, 58, 50, 40, 25),
    "imagenet": (25, 18, 15, 10, 7),
}
# Saturation is multiplied by the first and gets the second added.
SATURATE = {
    "cifar": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "tiny": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    "imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}


def contrast(x: Pictures, kept: float, random: Generators) -> Pictures:
    """Draws every sample towards the mean of its channel in its picture."""
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * np.float32(kept) + mean


def elastic(x: Pictures, how: tuple[float, float, float], random: Generators) -> Pictures:
    """Moves three points at random, all others with them, and then each pixel a little by itself.

    Each pixel's displacement is uniform in -1 to 1 both ways, smoothed by a Gaussian cut off at 3
    deviations, and multiplied. Both steps sample linearly and mirror the borders.
    """
    h, w, c = x.shape[1:]
    alpha, sigma, move = (part * min(h, w) for part in how)
    out = np.empty_like(x)
    pixels = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij")).astype(np.float32)
    for row, r in enumerate(random):
        matrix = _affine(h, w, r.uniform(-move, move, (3, 2)))
        shifts = alpha * smoothed(r.uniform(-1, 1, (2, h, w)).astype(np.float32), sigma)
        for channel in range(c):
            turned = ndimage.affine_transform(x[row, :, :, channel], matrix, order=1, mode="mirror")
            out[row, :, :, channel] = ndimage.map_coordinates(
                turned, pixels + shifts, order=1, mode="reflect"
            )
    return out


def _affine(h: int, w: int, moves: np.ndarray) -> np.ndarray:
    """Returns float64[2, 3]: from a place (row, column, 1) after the change to that before it.

    Args:
      h: height.
      w: width.
      moves: float[3, 2], pixels down and right, of three points that are a third of the shorter
        side below and right, below and left, and above and left of the middle.
    """
    third = min(h, w) // 3
    corners = np.array([(third, third), (third, -third), (-third, -third)])
    before = corners + np.array([h // 2, w // 2])
    if third == 0:  # three points in one place tell nothing but a shift
        shift = np.eye(2, 3)
        shift[:, 2] = -moves.mean(0)
        return shift
    ones = np.ones((3, 1))
    places = np.hstack([before, ones]), np.hstack([before + moves, ones])
    return np.linalg.lstsq(places[1], places[0], rcond=None)[0].T[:2]


def smoothed(fields: np.ndarray, sigma: float) -> np.ndarray:
    """Convolves f32[k, h, w] with a Gaussian cut off at 3 deviations, borders mirrored.

    As `scipy.ndimage.gaussian_filter(truncate=3)`. A mirrored field's convolution is a product of
    cosine transforms, which costs the same however wide the Gaussian is: some are wider than the
    picture.
    """
    reach = int(3 * sigma + 0.5)
    if reach == 0:
        return fields
    distance = np.arange(1, reach + 1)
    weights = np.exp(-(distance**2) / (2.0 * sigma**2))
    whole = 1 + 2 * weights.sum()
    spectrum = fft.dctn(fields, axes=(1, 2))
    for axis in (1, 2):
        side = fields.shape[axis]
        waves = np.cos(np.pi * np.arange(side)[:, None] * distance / side)
        gain = ((1 + 2 * waves @ weights) / whole).astype(np.float32)
        spectrum *= gain.reshape((-1,) + (1,) * (2 - axis))
    return fft.idctn(spectrum, axes=(1, 2))


def pixelate(x: Pictures, kept: float, random: Generators) -> Pictures:
    """Shrinks and widens again, both by averaging over boxes."""
    h, w = x.shape[1:3]
    small = max(1, int(w * kept)), max(1, int(h * kept))

    def change(picture: Image.Image) -> Image.Image:
        box = Image.Resampling.BOX
        return picture.resize(small, box).resize((w, h), box)

    return _by_pillow(x, change)


def jpeg(x: Pictures, quality: int, random: Generators) -> Pictures:
    """Stores as JPEG, and reads that."""

    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(x, change)


def _by_pillow(x: Pictures, change: Callable[[Image.Image], Image.Image]) -> Pictures:
    out = np.empty_like(x)
    for row, pixels in enumerate(np.round(x * 255).astype(np.uint8)):
        image = Image.fromarray(pixels[:, :, 0] if x.shape[3] == 1 else pixels)
        out[row] = np.asarray(change(image), np.float32).reshape(x.shape[1:]) / 255
    return out


def saturate(x: Pictures, how: tuple[float, float], random: Generators) -> Pictures:
    """Changes the saturation; hue and value stay. Grey has the hue of red, as in HSV it has.

    Pictures of one channel stay as they are.
    """
    if x.shape[3] == 1:
        return x
    factor, added = how
    value = x.max(3, keepdims=True)
    chroma = value - x.min(3, keepdims=True)
    lack = np.where(chroma == 0, np.array([0, 1, 1], np.float32), value - x)
    lack /= np.where(chroma == 0, np.float32(1), chroma)  # of each channel, at full saturation
    saturation = chroma / np.where(value == 0, np.float32(1), value)
    return value * (1 - np.clip(saturation * factor + added, 0, 1) * lack)
