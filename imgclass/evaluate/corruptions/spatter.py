"""Spatter: drops of water, or mud, on the lens. See `corruptions` for what is shared."""

import numpy as np
from scipy import ndimage

from imgclass.evaluate.corruptions.pictures import Generators, Pictures, in_channels

# Drops: mean, deviation, smoothing and threshold; strength of water or smoothing of mud; is it mud.
SPATTER = {
    "cifar": (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    "tiny": (
        (0.62, 0.1, 0.7, 0.7, 0.6, False),
        (0.65, 0.1, 0.8, 0.7, 0.6, False),
        (0.65, 0.3, 1, 0.69, 0.6, False),
        (0.65, 0.1, 0.7, 0.68, 0.6, True),
        (0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    "imagenet": (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
}
_WATER = (175 / 255, 238 / 255, 238 / 255)  # pale turquoise
_MUD = (63 / 255, 42 / 255, 20 / 255)
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def spatter(
    x: Pictures, how: tuple[float, float, float, float, float, bool], random: Generators
) -> Pictures:
    """Lays drops over the picture: noise, smoothed, where it is above a threshold.

    Mud covers; water adds light, most of it where a drop is thick, and shaded by how far from the
    drop's edge it is.
    """
    mean, deviation, sigma, threshold, last, is_mud = how
    h, w, c = x.shape[1:]
    drawn = np.stack([r.standard_normal((h, w), np.float32) for r in random])
    layer = mean + deviation * drawn
    layer = ndimage.gaussian_filter(layer, (0, sigma, sigma), mode="nearest", truncate=4.0)
    if is_mud:
        cover = (layer > threshold).astype(np.float32)
        cover = ndimage.gaussian_filter(cover, (0, last, last), mode="nearest", truncate=4.0)
        cover = np.where(cover < 0.8, np.float32(0), cover)[..., None]
        return x * (1 - cover) + in_channels(_MUD, c) * cover
    layer = np.where(layer < threshold, np.float32(0), layer)
    light = np.stack([_light(drops) for drops in layer])
    most = light.max((1, 2), keepdims=True)
    light = light / np.where(most == 0, np.float32(1), most) * np.float32(last)
    return x + light[..., None] * in_channels(_WATER, c)


def _light(drops: np.ndarray) -> np.ndarray:
    """Returns f32[h, w], the light that drops f32[h, w] add, in no unit."""
    levels = np.floor(np.clip(drops, 0, 1) * 255)
    away = ~edges(levels)
    distance = ndimage.distance_transform_edt(away) if not away.all() else np.full(away.shape, 20.0)
    distance = ndimage.uniform_filter(np.minimum(distance, 20), 3, mode="mirror")
    shade = ndimage.correlate(equalized(distance.astype(np.uint8)), _EMBOSS, mode="mirror")
    return levels * ndimage.uniform_filter(np.clip(shade, 0, 255), 3, mode="mirror")


def edges(levels: np.ndarray, low: float = 50, high: float = 150) -> np.ndarray:
    """Returns bool[h, w]: Canny's edges of f32[h, w].

    Pixels whose Sobel gradient (|down| + |right|) is above `low` and the largest across the edge,
    if they hang together with one that is above `high`. Source: Canny (1986), A Computational
    Approach to Edge Detection.
    """
    down = ndimage.sobel(levels, 0, mode="nearest")
    right = ndimage.sobel(levels, 1, mode="nearest")
    size = np.abs(down) + np.abs(right)
    padded = np.pad(size, 1)
    h, w = size.shape

    def beside(i: int, j: int) -> np.ndarray:
        return padded[1 + i : 1 + i + h, 1 + j : 1 + j + w]

    steep = np.abs(down) > np.tan(np.deg2rad(67.5)) * np.abs(right)
    flat = np.abs(down) < np.tan(np.deg2rad(22.5)) * np.abs(right)
    falling = down * right >= 0  # down and right change together
    cases = [flat, steep, falling]
    before = np.select(cases, [beside(0, -1), beside(-1, 0), beside(-1, -1)], beside(-1, 1))
    after = np.select(cases, [beside(0, 1), beside(1, 0), beside(1, 1)], beside(1, -1))
    ridge = (size > low) & (size > before) & (size >= after)
    groups, _ = ndimage.label(ridge, np.ones((3, 3)))
    strong = np.unique(groups[ridge & (size > high)])
    return np.isin(groups, strong[strong > 0])


def equalized(levels: np.ndarray) -> np.ndarray:
    """Returns f32[h, w] in [0, 255]: each level u8 as the share of pixels above the lowest level
    that are at it or below. One level alone stays.
    """
    counts = np.bincount(levels.reshape(-1), minlength=256)
    lowest = int(levels.min())
    rest = levels.size - counts[lowest]
    if rest == 0:
        return levels.astype(np.float32)
    shares = np.cumsum(counts) - counts[lowest]
    return np.round(shares * (255 / rest)).astype(np.float32)[levels]
