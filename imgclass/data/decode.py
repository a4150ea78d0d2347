"""Encoded bytes to uint8 pixels, and pixels to one fixed size.

Pillow decodes, and says what is wrong with a file. Plain JPEG and PNG files may be decoded by
faster libraries to the same bits (`fast_decode`).

Promises: a picture comes back whole or `BadImage` is raised; no picture's pixels are decoded
before its header is checked against `max_pixels`; nothing is warned; any number of
threads may call it at once. The file's name plays no part: formats are known by their first bytes.

Two things Pillow would do are done here instead. Metadata (EXIF, text, profiles, animation) is
cut out of JPEG and PNG files before a decoder sees them, because Pillow's readers call
`warnings.warn` on odd files, and Python's warning filters cannot be changed safely while other
threads run. And the EXIF orientation, the one tag that moves pixels, is read by
`headers.orientation`.

Not here: colour management (profiles and gamma are ignored), any frame after the first, reading
files. A JPEG whose bytes were altered, not cut, decodes to wrong colours; JPEG has no checksum.
"""

import io
from collections.abc import Callable

import numpy as np

# Imported for their effect: each registers a format. Image.open would do it on its first call,
# which may be two calls at once.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from imgclass.data import aliased, fast_decode
from imgclass.data.headers import (
    BadImage,
    bare_jpeg,
    bare_png,
    image_format,
    orientation,
    upright_jpeg_size,
    webp_size,
)

__all__ = ["BadImage", "Box", "cut", "decode", "decode_boxes", "image_format", "resize"]

Box = tuple[int, int, int, int]  # top, left, height, width, in pixels

# Set once for the process. Pillow's own limit warns above one fixed size and raises above twice
# it, inside Image.open; `max_pixels` is checked here in its place.
Image.MAX_IMAGE_PIXELS = None

_TURNS = {  # EXIF orientation -> what undoes it; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ALIASED = "bilinear_aliased"


def decode(data: bytes, channels: int = 3, max_pixels: int = 89_478_485) -> np.ndarray:
    """Decodes one picture, upright and opaque.

    Args:
      data: a whole JPEG, PNG, WebP, BMP or GIF file. Of an animation, the first frame.
      channels: 3 for RGB, or 1 for luma, (299 R + 587 G + 114 B) / 1000 (ITU-R BT.601).
      max_pixels: the largest width x height that is decoded. The default is Pillow's, 256 MiB
        of RGB.

    Returns:
      uint8[height, width, channels], after the EXIF orientation is applied. 16-bit samples give
      their high byte. Transparency is laid over white: the colour stored under a transparent
      pixel is arbitrary (most editors leave black or the deleted background there), and dropping
      the alpha channel would show it to the model. CMYK becomes RGB as (1 - C)(1 - K).

    Raises:
      BadImage: where no whole picture can be had, with the reason.
      ValueError: if `channels` is neither 1 nor 3.
    """
    return _decoded(data, channels, max_pixels)


def decode_boxes(
    data: bytes,
    boxes: Callable[[int, int], list[Box]],
    channels: int = 3,
    max_pixels: int = 89_478_485,
) -> list[np.ndarray]:
    """Decodes parts of one picture: where simplejpeg does it, little below the lowest of them.

    Args:
      data: as for `decode`.
      boxes: (height, width) -> the parts, at least one, inside the picture.
      channels: as for `decode`.
      max_pixels: as for `decode`.

    Returns:
      uint8[height, width, channels] of each part: the pixels that `decode` gives.

    Raises:
      BadImage: as `decode`.
      ValueError: as `decode`.
    """
    size = upright_jpeg_size(data) if image_format(data) == "jpeg" else None
    if size is None:
        pixels = decode(data, channels, max_pixels)
        return cut(pixels, boxes(*pixels.shape[:2]))
    found = boxes(*size)
    rows = max(top + height for top, _, height, _ in found)
    return cut(_decoded(data, channels, max_pixels, rows), found)


def cut(pixels: np.ndarray, boxes: list[Box]) -> list[np.ndarray]:
    """Returns parts of [h, w, c], without copying."""
    return [pixels[top : top + h, left : left + w] for top, left, h, w in boxes]


def _decoded(data: bytes, channels: int, max_pixels: int, rows: int | None = None) -> np.ndarray:
    """Decodes as `decode` says; with `rows`, it may leave out what is below so many rows."""
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: expected 1 or 3")
    kind = image_format(data)
    try:
        data, exif = _bare(data, kind)
        pixels = fast_decode.decode(data, kind, channels, max_pixels, rows)
        if pixels is None:
            image = _open(data, kind, max_pixels)
            exif = image.info.get("exif", b"") if kind == "webp" else exif
        turn = _TURNS.get(orientation(exif))
        if pixels is not None:
            if turn is None and pixels.shape[2] == channels:
                return pixels
            image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        image = _plain(image, channels)
        pixels = np.array(image if turn is None else image.transpose(turn), np.uint8)
        return pixels.reshape(*pixels.shape[:2], channels)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage("not enough memory to decode it") from None
    except Exception as error:  # on hostile bytes Pillow raises nearly every built-in type
        raise BadImage(_reason(error, kind)) from error


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    how: str = "stretch",
    interpolation: str = "bilinear",
    crop_fraction: float = 1.0,
    pad_value: int = 0,
) -> np.ndarray:
    """Brings a picture to one size, antialiased when it shrinks.

    Not so 'nearest', which has nothing to filter, and 'bilinear_aliased'.

    Args:
      image: uint8[h, w, c].
      size: (H, W), both at least 1.
      how: 'stretch' ignores the aspect ratio. 'crop' keeps it and cuts the overhang: the picture
        is scaled to just cover round(size / crop_fraction), the longer way rounded down, and the
        centre is cut out at round(overhang / 2), halves to even, as torchvision's Resize and
        CenterCrop: size 224 and fraction 0.875 mean a short side of 256. 'pad' keeps the aspect
        ratio and everything: scaled to just fit (rounded, at least 1 pixel), centred, an odd
        pixel of padding going below or to the right.
      interpolation: 'nearest', 'bilinear', 'bicubic', 'lanczos' or 'bilinear_aliased'.
      crop_fraction: for 'crop', in (0, 1]: the share of the covering square that is kept.
      pad_value: for 'pad', 0 to 255, in every channel.

    Returns:
      uint8[H, W, c]; `image` itself where nothing changes. No intermediate is larger than the
      larger of source and result.

    Raises:
      ValueError: for an argument outside what is written above.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"image is {image.dtype}{list(image.shape)}: expected uint8[h, w, c]")
    if interpolation not in (known := [*_FILTERS, _ALIASED]):
        raise ValueError(f"interpolation={interpolation!r}: expected one of {known}")
    if min(size) < 1:
        raise ValueError(f"size={size}: both sides must be at least 1")
    (height, width), (out_height, out_width) = image.shape[:2], size
    whole = (0.0, 0.0, float(width), float(height))
    if how == "stretch":
        return _sample(image, size, whole, interpolation)
    if how == "crop":
        return _sample(image, size, _centre_box(height, width, size, crop_fraction), interpolation)
    if how != "pad":
        raise ValueError(f"resize={how!r}: expected 'stretch', 'crop' or 'pad'")
    if not 0 <= pad_value <= 255:
        raise ValueError(f"pad_value={pad_value}: expected 0 to 255")
    # In whole numbers, because 49 * (1 / 49) < 1. (2ab + c) // 2c is ab / c rounded, half up.
    if out_height * width <= out_width * height:
        fit = out_height, max(1, (2 * width * out_height + height) // (2 * height))
    else:
        fit = max(1, (2 * height * out_width + width) // (2 * width)), out_width
    inside = _sample(image, fit, whole, interpolation)
    if fit == tuple(size):
        return inside
    top, left = (out_height - fit[0]) // 2, (out_width - fit[1]) // 2
    out = np.full((*size, image.shape[2]), pad_value, np.uint8)
    out[top : top + fit[0], left : left + fit[1]] = inside
    return out


def _centre_box(
    height: int, width: int, size: tuple[int, int], crop_fraction: float
) -> aliased.Edges:
    """Returns what 'crop' keeps, in source pixels, fractional.

    Sampling the box gives what scaling everything and then cutting would, without the scaled
    picture: that of a 1 x 100,000 source at size 224 would have 25,600,000 columns.
    """
    if not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction={crop_fraction}: expected above 0, at most 1")
    cover_height, cover_width = (int(side / crop_fraction + 0.5) for side in size)
    if cover_height * width >= cover_width * height:
        scaled_height, scaled_width = cover_height, width * cover_height // height
    else:
        scaled_height, scaled_width = height * cover_width // width, cover_width
    top, left = round((scaled_height - size[0]) / 2), round((scaled_width - size[1]) / 2)
    return (
        left * width / scaled_width,
        top * height / scaled_height,
        min((left + size[1]) * width / scaled_width, width),
        min((top + size[0]) * height / scaled_height, height),
    )


def _sample(
    image: np.ndarray,
    size: tuple[int, int],
    box: aliased.Edges,
    interpolation: str,
) -> np.ndarray:
    """Resamples one box of uint8[h, w, c] to uint8[*size, c]."""
    (height, width, channels), (out_height, out_width) = image.shape, size
    if (height, width) == tuple(size) and box == (0, 0, width, height):
        return image
    if channels not in (1, 3):  # Pillow mixes no channels, so one by one is the same
        bands = [_sample(image[:, :, c : c + 1], size, box, interpolation) for c in range(channels)]
        return np.concatenate(bands, axis=2)
    if interpolation == _ALIASED:
        return aliased.sample(image, size, box)
    method = _FILTERS[interpolation]
    # Filter weights take about 16 bytes x radius a source row or column; past a million, average
    # whole groups of pixels first, to 16 times the final size.
    gap = 16.0 if max(height, width) > 1_000_000 else None
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    left, top, right, bottom = box
    if right - left < out_width and bottom - top > out_height:
        # Pillow widens before it shortens, except for the very tallest pictures, which would
        # make the intermediate larger than both ends. The passes are separable: shorten first.
        picture = picture.resize((width, out_height), method, (0, top, width, bottom), gap)
        top, bottom = 0, out_height
    picture = picture.resize((out_width, out_height), method, (left, top, right, bottom), gap)
    return np.array(picture, np.uint8).reshape(out_height, out_width, channels)


def _bare(data: bytes, kind: str) -> tuple[bytes, bytes]:
    """Returns a file without its metadata, and its EXIF block (b'' if none was cut out)."""
    if kind == "jpeg":
        return bare_jpeg(data)
    return bare_png(data) if kind == "png" else (data, b"")


def _open(data: bytes, kind: str, max_pixels: int) -> Image.Image:
    """Decodes with Pillow, after a look at the header."""
    if kind == "webp":
        # Before opening: Pillow's WebP reader allocates the canvas as it opens.
        _check_size(*webp_size(data), max_pixels)
    image: Image.Image = Image.open(io.BytesIO(data), formats=[kind.upper()])
    _check_size(*image.size, max_pixels)
    image.load()
    if kind == "png" and "transparency" in image.info:
        # The transparent colour is stored at the file's depth and Pillow leaves it so, while
        # samples come out in 8 bits. 16-bit colours are compared by their high bytes, all that
        # is left of them.
        key, depth = image.info["transparency"], data[24]
        if image.mode == "L":
            image.info["transparency"] = key * (255 // (2**depth - 1))
        elif image.mode == "RGB" and depth == 16:
            image.info["transparency"] = tuple(sample >> 8 for sample in key)
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage(
            f"{width}x{height} = {width * height:,} pixels, more than data.max_pixels={max_pixels}"
        )
    if width * height == 0:
        raise BadImage(f"{width}x{height}: no pixels")


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Converts any mode to 'RGB' or 'L', over white."""
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion clips at 255
        wide = np.asarray(image)
        key = image.info.get("transparency")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
        if key is not None:
            image.putalpha(Image.fromarray(np.where(wide == key, 0, 255).astype(np.uint8)))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, (255, 255, 255))
        image.paste(layer, (0, 0), layer)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def _reason(error: Exception, kind: str) -> str:
    """Turns what Pillow raised into one short line."""
    if isinstance(error, Image.UnidentifiedImageError):  # its text is the address of a BytesIO
        return f"truncated or corrupt {kind} header"
    text = " ".join(str(error).split())[:100]
    if isinstance(error, EOFError) or "truncated" in text.lower() or "not enough" in text:
        return "truncated"
    return f"corrupt {kind}: {text or type(error).__name__}"
