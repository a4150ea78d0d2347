"""Blurs: defocus, frosted glass, motion, zoom, Gaussian. See `corruptions` for all they share."""

import numpy as np
from scipy import ndimage, signal

from imgclass.evaluate.corruptions.movement import motion, zoomed
from imgclass.evaluate.corruptions.pictures import Generators, Pictures

# Radius of the disk, and deviation of the Gaussian that smooths its edge; pixels.
DEFOCUS = {
    "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "tiny": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}
# Deviation of the blur before and after, how far a pixel is fetched from, how often.
GLASS = {
    "cifar": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "tiny": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}
# Radius and deviation, see `motion_kernel`.
MOTION = {
    "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "tiny": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}
# Where the zoom factors end, and their step; they begin at 1.
ZOOM = {
    "cifar": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "tiny": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "imagenet": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
}
# Deviation, pixels.
GAUSSIAN = {
    "cifar": (0.4, 0.6, 0.7, 0.8, 1),
    "tiny": (0.5, 0.75, 1, 1.25, 1.5),
    "imagenet": (1, 2, 3, 4, 6),
}


def gaussian(x: Pictures, sigma: float, random: Generators) -> Pictures:
    """Convolves with a Gaussian, cut off at 4 deviations; beyond the border the border goes on."""
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)


def disk(radius: float, edge: float) -> np.ndarray:
    """Returns f32[k, k], a disk that adds up to 1: the pixels within `radius`, then smoothed.

    The Gaussian that smooths it has 3 taps, and 5 where the radius is above 8.
    """
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weights = np.exp(-(taps**2) / (2.0 * edge**2))
    reach = int(np.ceil(radius)) + 2
    side = np.arange(-reach, reach + 1)
    inside = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.float64)
    for axis in (0, 1):
        inside = ndimage.convolve1d(inside, weights / weights.sum(), axis)
    return (inside / inside.sum()).astype(np.float32)


def defocus(x: Pictures, disk_of: tuple[float, float], random: Generators) -> Pictures:
    """Convolves with a disk; borders are mirrored, the outermost pixels not repeated."""
    kernel = disk(*disk_of)
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "reflect")
    return signal.fftconvolve(padded, kernel[None, :, :, None], "valid", axes=(1, 2))


def glass(x: Pictures, how: tuple[float, int, int], random: Generators) -> Pictures:
    """Blurs, lets every pixel show one beside it, and blurs again.

    From the lower right to the upper left, each pixel but those at the border takes the value that
    a pixel up to `reach` away (to one side `reach` - 1) has at that time. The paper speaks of
    swapping the two. The published code, whose pictures everybody's figures are of, overwrites the
    first before it is read, so that the other stays as it was; so it is here.
    """
    sigma, reach, times = how
    x = gaussian(x, sigma, random)
    n, h, w, c = x.shape
    flat = x.reshape(n, h * w, c)
    for _ in range(times):
        for row, r in enumerate(random):
            flat[row] = flat[row, _fetched(h, w, reach, r)]
    return gaussian(flat.reshape(x.shape), sigma, random)


def _fetched(h: int, w: int, reach: int, random: np.random.Generator) -> np.ndarray:
    """Returns int64[h * w]: whose value each pixel has in the end, after one pass of `glass`.

    A pixel fetches from a place that was either still to come, and then had its first value, or
    had fetched already. So values come down chains, whose ends are found by following all chains
    at once, each time twice as far.
    """
    place = np.arange(h * w).reshape(h, w)
    moves = random.integers(-reach, reach, (2, h, w))
    source = place.ravel().copy()
    rows, columns = slice(reach + 1, h - reach + 1), slice(reach + 1, w - reach + 1)
    down = np.minimum(np.arange(h)[:, None] + moves[0], h - 1)
    right = np.minimum(np.arange(w) + moves[1], w - 1)
    source.reshape(h, w)[rows, columns] = (down * w + right)[rows, columns]
    # Later in the pass is earlier in the picture. A border pixel is its own source.
    ended = (source <= place.ravel()) | (source[source] == source)
    while not ended.all():
        source, ended = np.where(ended, source, source[source]), ended | ended[source]
    return source


def motion_blur(x: Pictures, how: tuple[float, float], random: Generators) -> Pictures:
    """Blurs along a line at -45 to 45 degrees."""
    return motion(x, *how, [r.uniform(-45, 45) for r in random])


def zoom(x: Pictures, how: tuple[float, float], random: Generators) -> Pictures:
    """Averages the picture with magnified ones; the picture itself counts twice."""
    stop, step = how
    factors = np.arange(1, stop, step)  # rounding decides whether the last is `stop` itself
    total = x + sum(zoomed(x, float(factor)) for factor in factors)
    return total / np.float32(len(factors) + 1)
