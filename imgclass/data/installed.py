"""The packages of the extra `fast` that deal with pictures, where they are there and fit.

Not here: what they are used for (`fast_decode`, `aliased`).
"""

import functools
from importlib import metadata
from typing import Any

from PIL import features

_SAME_JPEG = 3  # the major version of libjpeg-turbo on both sides: within it pixels are the same


def simplejpeg_version() -> str | None:
    """Returns 'simplejpeg 1.9.0'; None where it is not, or has another libjpeg than Pillow."""
    ours = features.version("libjpeg_turbo")
    if ours is None or int(ours.split(".")[0]) != _SAME_JPEG:
        return None
    return _found("simplejpeg", least=(1, 8))  # the first with libjpeg-turbo 3


def opencv_version() -> str | None:
    """Returns OpenCV's package and version, None where it is not installed or too old."""
    return _found("opencv-python-headless", "opencv-python", least=(4, 11))


# On first use, for not every process decodes, and OpenCV takes a sixth of a second to import.
@functools.cache
def simplejpeg() -> Any:
    """Returns the module, or None."""
    try:
        if simplejpeg_version():
            import simplejpeg

            return simplejpeg
    except ImportError:
        pass
    return None


@functools.cache
def opencv() -> Any:
    """Returns the module, or None. In this process OpenCV then starts no threads of its own."""
    try:
        if opencv_version():
            import cv2

            cv2.setNumThreads(1)  # each caller is one of as many threads as there are cores
            return cv2
    except ImportError:  # a library that it needs is not there
        pass
    return None


def _found(*names: str, least: tuple[int, int]) -> str | None:
    """Returns 'name version' of the first that is installed and not too old."""
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in version.split(".")[:2]) >= least:
            return f"{name} {version}"
    return None
