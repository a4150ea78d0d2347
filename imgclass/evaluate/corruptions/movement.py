"""Zooming, and blurring along a line."""

from collections.abc import Sequence

import numpy as np

from imgclass.evaluate.corruptions.pictures import Pictures


def zoomed(x: Pictures, factor: float) -> Pictures:
    """Magnifies about the middle and cuts to the size that it was.

    Each axis by itself, linearly. Of a side n, ceil(n / factor) pixels are kept and spread, the
    first on the first and the last on the last, over round(ceil(n / factor) * factor) places, of
    which the middle n are taken: `scipy.ndimage.zoom` of the published code, on pictures that need
    not be square.
    """
    for axis in (1, 2):
        side = x.shape[axis]
        kept = int(np.ceil(side / factor))
        spread = round(kept * factor)
        first, trim = (side - kept) // 2, (spread - side) // 2
        at = (np.arange(side) + trim) * ((kept - 1) / max(spread - 1, 1))
        low = np.minimum(at.astype(int), kept - 1)
        high = np.minimum(low + 1, kept - 1)
        share = (at - low).astype(np.float32).reshape((-1,) + (1,) * (3 - axis))
        x = (1 - share) * x.take(first + low, axis) + share * x.take(first + high, axis)
    return x


def motion_kernel(radius: float, sigma: float, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns a motion blur's taps.

    One half of a Gaussian, laid along a line from the pixel itself, as ImageMagick's motion blur
    has it.

    Args:
      radius: the taps are 2 * ceil(radius) + 1.
      sigma: of the Gaussian, in pixels.
      degrees: of the line; 0 runs along the rows, to the right.

    Returns:
      f32[taps] weights, which add up to 1, and int64[taps, 2], how far down and right of a pixel
      each tap looks.
    """
    distance = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(distance**2) / (2.0 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    angle = np.deg2rad(degrees)
    line = np.stack([np.sin(angle), np.cos(angle)])
    return weights, np.ceil(distance[:, None] * line - 0.5).astype(int)


def motion(x: Pictures, radius: float, sigma: float, degrees: Sequence[float]) -> Pictures:
    """Blurs each picture along a line of its own; beyond the border the border goes on."""
    h, w = x.shape[1:3]
    pad = 2 * int(np.ceil(radius)) + 1
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "edge")
    out = np.zeros_like(x)
    for row, angle in enumerate(degrees):
        weights, places = motion_kernel(radius, sigma, angle)
        for weight, (down, right) in zip(weights, places + pad, strict=True):
            out[row] += weight * padded[row, down : down + h, right : right + w]
    return out
