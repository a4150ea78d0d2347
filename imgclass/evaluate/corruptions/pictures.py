"""Pictures as the corruptions take them, and their luma."""

from collections.abc import Sequence

import numpy as np

# f32[n, h, w, c] in [0, 1], n pictures of one size.
Pictures = np.ndarray
# One a picture.
Generators = Sequence[np.random.Generator]
# ITU-R BT.601, as in Pillow's mode 'L'.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def in_channels(colour: Sequence[float] | np.ndarray, channels: int) -> np.ndarray:
    """Returns a colour f32[..., 3] as it is, or its luma f32[..., 1] where pictures are grey."""
    rgb = np.asarray(colour, np.float32)
    return rgb if channels == 3 else (rgb * LUMA).sum(-1, keepdims=True)


def grey(x: Pictures) -> np.ndarray:
    """Returns the luma, f32[n, h, w, 1]."""
    return x if x.shape[3] == 1 else (x * LUMA).sum(-1, keepdims=True)
