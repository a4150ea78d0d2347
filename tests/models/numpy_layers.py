"""What the forward passes in NumPy float64 share: a convolution, and variables drawn at random."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def draw(shapes: Any) -> Any:
    """Random variables of those shapes: quicker than compiling init, and no statistic is 0 or 1."""
    random = np.random.default_rng(0)

    def leaf(path, shape):
        last = path[-1].key
        if last == "kernel":  # keeps the size of what passes, so no layer is lost in rounding
            values = random.normal(0, np.sqrt(2 / np.prod(shape.shape[:-1])), shape.shape)
        else:
            low, high = (0.5, 1.5) if last in ("var", "scale") else (-0.2, 0.2)
            values = random.uniform(low, high, shape.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Symmetric padding of (size - 1) / 2, as PyTorch's padding= has it."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("bijcmn,mnco->bijo", patches[:, ::stride, ::stride], kernel, optimize=True)
