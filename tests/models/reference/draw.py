"""Weights and pictures that PyTorch and JAX can draw alike: NumPy only, by a tensor's name.

From a bit generator's raw output, which NumPy keeps the same for ever; how it makes normals of them
it may change. So everything is uniform.
"""

import hashlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Returns f32[shape] in [low, high], the same for the same name."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    size = int(np.prod(shape))
    words = np.random.Philox(key=key).random_raw((size + 1) // 2).view("<u4")[:size]
    unit = (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return (np.float32(low) + unit * np.float32(high - low)).reshape(shape)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns f32[shape] for one tensor of a `state_dict`, such as 'layer1.0.conv1.weight'.

    Matrices and kernels keep the size of what passes (variance 2 / fan_in, He et al., 2015); no
    scale or shift is 1 or 0, so that none can be forgotten.
    """
    if len(shape) > 1 and name.endswith("weight"):
        bound = (6 / np.prod(shape[1:])) ** 0.5
        return uniform(name, shape, -bound, bound)
    if name.endswith("weight"):
        return uniform(name, shape, 0.5, 1.5)
    return uniform(name, shape, -0.2, 0.2)


def statistics(name: str, channels: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the running mean and variance, f32[channels], of a batch norm in inference.

    Args:
      name: the module's, 'layer1.0.bn1'.
      channels: how many.
      spread: root mean square of what the norm takes, so that what it gives is about 1: otherwise
        activations grow by a factor at every block, and the first biases are lost beside them.
    """
    mean = uniform(f"{name}.running_mean", (channels,), -0.2, 0.2) * np.float32(spread)
    variance = uniform(f"{name}.running_var", (channels,), 0.8, 1.25) * np.float32(spread) ** 2
    return mean, variance


def pictures(name: str, batch: int, side: int) -> np.ndarray:
    """Returns f32[batch, 3, side, side] in [-2, 2], channels first."""
    return uniform(f"pictures:{name}", (batch, 3, side, side), -2.0, 2.0)


def checksum(name: str, values: np.ndarray) -> float:
    """Returns a weighted mean of a vector in float64; no two elements weigh the same."""
    weights = uniform(f"checksum:{name}", values.shape, 0.5, 1.5).astype(np.float64)
    return float(np.mean(weights * values.astype(np.float64)))
