"""Plain JPEG and PNG files, decoded by libraries that are faster than Pillow where installed.

The extra `fast` brings them: simplejpeg (libjpeg-turbo, 1.3 times as fast on photographs) and
OpenCV (1.7 times on CIFAR-10's PNG files; half of that is Python). Both let other threads run.

A picture comes back only where it is the one that Pillow would give, bit for bit; for anything
else the answer is None, and `decode`, which asks, turns to Pillow: for what is unusual, for its
verdict on a damaged file and for its words. So what is installed changes the time and no pixel.

Not here: metadata and checksums, which `headers` has dealt with before.
"""

import functools
import struct
from importlib import metadata
from typing import Any

import numpy as np
from PIL import features

_SAME_JPEG = 3  # the major version of libjpeg-turbo on both sides: within it pixels are the same


def decode(data: bytes, kind: str, channels: int, max_pixels: int) -> np.ndarray | None:
    """Decodes a picture as it is stored.

    Args:
      data: a file without metadata; of a PNG, with its checksums verified.
      kind: as `headers.image_format` names it.
      channels: 3 or 1, wanted; a coloured picture has 3 all the same.
      max_pixels: the largest width x height that is decoded.

    Returns:
      uint8[height, width, 3], or uint8[height, width, 1] of a gray picture if `channels` is 1;
      None where Pillow is to be asked.
    """
    try:
        if kind == "jpeg" and (simplejpeg := _simplejpeg()):
            return _jpeg(simplejpeg, data, channels, max_pixels)
        if kind == "png" and (cv2 := _cv2()):
            return _png(cv2, data, channels, max_pixels)
    except Exception:  # each library has its own; Pillow finds the reason
        return None
    return None


def in_use() -> dict[str, str]:
    """Returns which package decodes plain files of each kind, with its version."""
    pillow = f"pillow {metadata.version('pillow')}"
    return {"jpeg": _package_for_jpeg() or pillow, "png": _package_for_png() or pillow}


def _jpeg(simplejpeg: Any, data: bytes, channels: int, max_pixels: int) -> np.ndarray | None:
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    if space not in ("YCbCr", "RGB", "Gray") or height * width > max_pixels:
        return None
    wanted = "GRAY" if space == "Gray" and channels == 1 else "RGB"
    # strict: what libjpeg would mend with a warning, such as an end that is missing, is an error.
    return simplejpeg.decode_jpeg(data, wanted, fastdct=False, fastupsample=False, strict=True)


def _png(cv2: Any, data: bytes, channels: int, max_pixels: int) -> np.ndarray | None:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    # Colour 0 is gray and 2 is RGB. A false tRNS among the pixels costs a little time.
    if depth != 8 or colour not in (0, 2) or height * width > max_pixels or b"tRNS" in data:
        return None
    if data[26:29] not in (b"\0\0\0", b"\0\0\1"):  # no PNG; libpng would say so on standard error
        return None
    gray = colour == 0 and channels == 1
    how = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR_RGB
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    return pixels[:, :, None] if gray and pixels is not None else pixels


def _installed(*names: str, least: tuple[int, int]) -> str | None:
    """Returns 'name version' of the first that is installed and not too old."""
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in version.split(".")[:2]) >= least:
            return f"{name} {version}"
    return None


def _package_for_jpeg() -> str | None:
    ours = features.version("libjpeg_turbo")
    if ours is None or int(ours.split(".")[0]) != _SAME_JPEG:
        return None
    return _installed("simplejpeg", least=(1, 8))  # the first with libjpeg-turbo 3


def _package_for_png() -> str | None:
    return _installed("opencv-python-headless", "opencv-python", least=(4, 11))


# On first use, for not every process decodes, and OpenCV takes a sixth of a second to import.
@functools.cache
def _simplejpeg() -> Any:
    try:
        if _package_for_jpeg():
            import simplejpeg

            return simplejpeg
    except ImportError:
        pass
    return None


@functools.cache
def _cv2() -> Any:
    try:
        if _package_for_png():
            import cv2

            return cv2
    except ImportError:  # a library that it needs is not there
        pass
    return None
