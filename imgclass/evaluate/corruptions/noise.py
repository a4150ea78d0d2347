"""Noise: Gaussian, shot, impulse and speckle. See `corruptions` for what all of them share."""

import numpy as np

from imgclass.evaluate.corruptions.pictures import Generators, Pictures

# Standard deviation, in units of [0, 1].
GAUSSIAN = {
    "cifar": (0.04, 0.06, 0.08, 0.09, 0.10),
    "tiny": (0.04, 0.08, 0.12, 0.15, 0.18),
    "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38),
}
# Photons that a white pixel stands for.
SHOT = {
    "cifar": (500, 250, 100, 75, 50),
    "tiny": (250, 100, 50, 30, 15),
    "imagenet": (60, 25, 12, 5, 3),
}
# Share of the samples that are lost.
IMPULSE = {
    "cifar": (0.01, 0.02, 0.03, 0.05, 0.07),
    "tiny": (0.01, 0.02, 0.05, 0.08, 0.14),
    "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27),
}
# Standard deviation, as a share of the sample.
SPECKLE = {
    "cifar": (0.06, 0.1, 0.12, 0.16, 0.2),
    "tiny": (0.15, 0.2, 0.25, 0.3, 0.35),
    "imagenet": (0.15, 0.2, 0.35, 0.45, 0.6),
}


def gaussian(x: Pictures, deviation: float, random: Generators) -> Pictures:
    """Adds normal noise of one deviation to every sample."""
    return x + deviation * _normal(x, random)


def shot(x: Pictures, photons: float, random: Generators) -> Pictures:
    """Counts photons: a sample v becomes Poisson(v * photons) / photons."""
    counts = [r.poisson(photons * picture) for r, picture in zip(random, x, strict=True)]
    return np.stack(counts).astype(np.float32) / np.float32(photons)


def impulse(x: Pictures, share: float, random: Generators) -> Pictures:
    """Sets a share of the samples to 0 or 1, either as likely; each channel by itself."""
    drawn = np.stack([r.random(x.shape[1:], np.float32) for r in random])
    out = np.where(drawn < share / 2, np.float32(0), x)
    return np.where(drawn > 1 - share / 2, np.float32(1), out)


def speckle(x: Pictures, deviation: float, random: Generators) -> Pictures:
    """Adds normal noise in proportion to the sample."""
    return x + x * deviation * _normal(x, random)


def _normal(x: Pictures, random: Generators) -> Pictures:
    return np.stack([r.standard_normal(x.shape[1:], np.float32) for r in random])
