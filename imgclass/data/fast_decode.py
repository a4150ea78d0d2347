"""Plain JPEG and PNG files, decoded by libraries that are faster than Pillow where installed.

The extra `fast` brings them: simplejpeg (libjpeg-turbo, 1.3 times as fast on photographs) and
OpenCV (1.7 times on CIFAR-10's PNG files; half of that is Python). Both let other threads run.

Pixels come back only where they are those that Pillow would give, bit for bit; for anything
else the answer is None, and `decode`, which asks, turns to Pillow: for what is unusual, for its
verdict on a damaged file and for its words. So what is installed changes the time and no pixel.

Not here: metadata and checksums, which `headers` has dealt with before.
"""

import struct
from importlib import metadata
from typing import Any

import numpy as np

from imgclass.data import headers, installed


def decode(
    data: bytes,
    kind: str,
    channels: int,
    max_pixels: int,
    rows: int | None = None,
) -> np.ndarray | None:
    """Decodes a picture as it is stored.

    Args:
      data: a file without metadata; of a PNG, with its checksums verified.
      kind: as `headers.image_format` names it.
      channels: 3 or 1, wanted; a coloured picture has 3 all the same.
      max_pixels: the largest width x height that is decoded.
      rows: how many from the top are needed; all of them if None.

    Returns:
      uint8[height, width, 3], or uint8[height, width, 1] of a gray picture if `channels` is 1, of
      the rows needed and perhaps others; None where Pillow is to be asked.
    """
    try:
        if kind == "jpeg" and (simplejpeg := installed.simplejpeg()):
            return _jpeg(simplejpeg, data, channels, max_pixels, rows)
        if kind == "png" and (cv2 := installed.opencv()):
            return _png(cv2, data, channels, max_pixels)
    except Exception:  # each library has its own; Pillow finds the reason
        return None
    return None


def in_use() -> dict[str, str]:
    """Returns which package decodes plain files of each kind, with its version."""
    pillow = f"pillow {metadata.version('pillow')}"
    return {
        "jpeg": installed.simplejpeg_version() or pillow,
        "png": installed.opencv_version() or pillow,
    }


def _jpeg(
    simplejpeg: Any, data: bytes, channels: int, max_pixels: int, rows: int | None
) -> np.ndarray | None:
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    if space not in ("YCbCr", "RGB", "Gray") or height * width > max_pixels:
        return None
    wanted = "GRAY" if space == "Gray" and channels == 1 else "RGB"
    upper = headers.upper_jpeg(data, rows) if rows else None
    # strict: what libjpeg would mend with a warning, such as an end that is missing, is an error.
    # The upper part always has a warning, of what is left; codes are mended as Pillow has them.
    return simplejpeg.decode_jpeg(
        upper or data, wanted, fastdct=False, fastupsample=False, strict=upper is None
    )


def _png(cv2: Any, data: bytes, channels: int, max_pixels: int) -> np.ndarray | None:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    # Colour 0 is gray and 2 is RGB. A false tRNS among the pixels costs a little time.
    if depth != 8 or colour not in (0, 2) or height * width > max_pixels or b"tRNS" in data:
        return None
    # libpng would say on standard error that this is no PNG, or larger than it takes.
    if data[26:29] not in (b"\0\0\0", b"\0\0\1") or max(width, height) > 1_000_000:
        return None
    gray = colour == 0 and channels == 1
    how = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR_RGB
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    return pixels[:, :, None] if gray and pixels is not None else pixels
