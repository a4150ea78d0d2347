"""Weather: snow, frost, fog and brightness. See `corruptions` for what all of them share.

Frost is not the published one, which lays photographs over the picture: see `frost`.
"""

import numpy as np

from imgclass.evaluate.corruptions.movement import motion, zoomed
from imgclass.evaluate.corruptions.pictures import Generators, Pictures, grey, in_channels

# Flakes: mean, deviation, magnification and threshold; radius and deviation of their motion; how
# much of the picture stays as it is.
SNOW = {
    "cifar": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "tiny": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    "imagenet": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}
# Weights of the picture and of the frost.
FROST = {
    "cifar": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "tiny": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    "imagenet": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
}
# Mean and deviation of red, green and blue, of 255, of the five photographs that the published
# code draws from: measured on the copies that come with imagecorruptions 1.1.2.
_FROSTS = np.array(
    [
        ((77.7, 149.1, 165.7), (26.9, 16.5, 15.3)),
        ((200.8, 205.4, 214.5), (21.4, 22.1, 22.6)),
        ((200.8, 205.4, 214.5), (21.4, 22.1, 22.6)),
        ((137.6, 152.8, 165.2), (28.5, 28.5, 29.9)),
        ((112.4, 123.4, 134.8), (44.4, 43.3, 41.7)),
    ],
    np.float32,
)
# How much fog, and by what its structure falls off from one scale to the next.
FOG = {
    "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "tiny": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}
# Added to the value of hue, saturation and value.
BRIGHTNESS = {
    "cifar": (0.05, 0.1, 0.15, 0.2, 0.3),
    "tiny": (0.1, 0.2, 0.3, 0.4, 0.5),
    "imagenet": (0.1, 0.2, 0.3, 0.4, 0.5),
}


def snow(x: Pictures, how: tuple[float, ...], random: Generators) -> Pictures:
    """Whitens the picture, adds flakes that fall one way, and the same turned by 180 degrees."""
    mean, deviation, zoom, threshold, radius, sigma, kept = how
    h, w = x.shape[1:3]
    flakes = np.stack([r.standard_normal((h, w, 1), np.float32) for r in random])
    flakes = zoomed(mean + deviation * flakes, zoom)
    flakes = np.clip(np.where(flakes < threshold, np.float32(0), flakes), 0, 1)
    flakes = motion(flakes, radius, sigma, [r.uniform(-135, -45) for r in random])
    white = np.maximum(x, grey(x) * np.float32(1.5) + np.float32(0.5))
    return kept * x + (1 - kept) * white + flakes + flakes[:, ::-1, ::-1]


def frost(x: Pictures, weights: tuple[float, float], random: Generators) -> Pictures:
    """Adds a drawn pattern of frost.

    The published code adds a piece of one of five photographs. Here it is noise whose amplitude
    falls with the frequency, as theirs does (their power falls as its square), with the mean and
    deviation of one of those photographs. It has no needles and no edges, so that figures on frost
    are like those published, and not to be compared with them closely.
    """
    n, h, w, c = x.shape
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
    frequency[0, 0] = np.inf  # the mean is set below
    drawn = np.stack([r.standard_normal((h, w), np.float32) for r in random])
    pattern = np.fft.irfft2(np.fft.rfft2(drawn) / frequency, (h, w)).astype(np.float32)
    pattern /= np.maximum(pattern.std((1, 2), keepdims=True), np.float32(1e-12))
    means, deviations = (in_channels(_FROSTS[:, i] / 255, c) for i in (0, 1))
    which = np.array([r.integers(len(_FROSTS)) for r in random])
    shape = (n, 1, 1, c)
    photo = means[which].reshape(shape) + deviations[which].reshape(shape) * pattern[..., None]
    return weights[0] * x + weights[1] * np.clip(photo, 0, 1)


def plasma(side: int, decay: float, random: np.random.Generator) -> np.ndarray:
    """Draws a landscape by the diamond-square method.

    The corner is 0. From the whole square down to pixels, a square's middle gets the mean of its
    corners, then an edge's middle that of its four neighbours, all with the borders joined, and
    each a uniform draw from -a to a, where a falls by decay^2 from one size of square to the next.

    Args:
      side: a power of 2.
      decay: above 1.
      random: the generator.

    Returns:
      f32[side, side], moved and scaled to [0, 1].

    Source: Fournier, Fussell and Carpenter (1982), Computer Rendering of Stochastic Models.
    """
    heights = np.zeros((side, side))
    amplitude, step = 1.0, side
    while step > 1:
        half = step // 2

        def around(sums: np.ndarray, amplitude: float = amplitude) -> np.ndarray:
            return sums / 4 + random.uniform(-amplitude, amplitude, sums.shape)

        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        middles = around(pairs + np.roll(pairs, -1, 1))
        heights[half::step, half::step] = middles
        beside = corners + np.roll(corners, -1, 1)
        heights[::step, half::step] = around(beside + middles + np.roll(middles, 1, 0))
        heights[half::step, ::step] = around(pairs + middles + np.roll(middles, 1, 1))
        amplitude, step = amplitude / decay**2, half
    heights -= heights.min()
    return (heights / max(heights.max(), 1e-12)).astype(np.float32)


def fog(x: Pictures, how: tuple[float, float], random: Generators) -> Pictures:
    """Adds a landscape of fog, and scales down so that the brightest sample can stay what it is."""
    amount, decay = how
    h, w = x.shape[1:3]
    side = 1 << (max(h, w) - 1).bit_length()
    layer = np.stack([plasma(side, decay, r)[:h, :w, None] for r in random])
    brightest = x.max((1, 2, 3), keepdims=True)
    return (x + amount * layer) * brightest / (brightest + amount)


def brightness(x: Pictures, added: float, random: Generators) -> Pictures:
    """Raises the value; hue and saturation stay, and black becomes grey."""
    value = x.max(3, keepdims=True)
    raised = np.minimum(value + np.float32(added), np.float32(1))
    safe = np.where(value == 0, np.float32(1), value)
    return np.where(value == 0, raised, x * (raised / safe))
