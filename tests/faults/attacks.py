"""Pictures made to harm whoever decodes them: small files that claim, or are, enormous pictures.

Not a test. Every maker takes a number of pixels and returns a file whose header claims about so
many; none of them is larger than a few hundred KB.
"""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image


def chunk(kind: bytes, body: bytes) -> bytes:
    """Returns a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 1, colour: int = 0, body: bytes | None = None):
    """Returns a PNG of zeros; `body` instead of them if given."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    if body is None:
        pack = zlib.compressobj(9)
        row = bytes(1 + -(-width * depth * channels // 8))
        body = b"".join([*(pack.compress(row) for _ in range(height)), pack.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _saved(kind: str, **options) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def _claim(data: bytes, at: int, form: str, *sides: int) -> bytes:
    return data[:at] + struct.pack(form, *sides) + data[at + struct.calcsize(form) :]


def lying_jpeg(side: int, progressive: bool) -> bytes:
    """Returns a picture of 16x16 whose header says side x side."""
    data = _saved("JPEG", progressive=progressive)
    return _claim(
        data, data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5, ">HH", *[side] * 2
    )


def two_sizes_jpeg(side: int) -> bytes:
    """Returns a picture with two frame headers: a small one, then one of side x side."""
    data = _saved("JPEG")
    at = data.index(b"\xff\xc0")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:end] + _claim(data[at:end], 5, ">HH", side, side) + data[end:]


def gif_beyond_its_screen(side: int) -> bytes:
    """Returns a GIF of a 16x16 screen with a frame of side x side."""
    data = _saved("GIF")
    return _claim(data, data.index(b",\0\0\0\0") + 5, "<HH", side, side)


def webp_in_a_small_canvas(side: int) -> bytes:
    """Returns a lossless WebP of side x side in a canvas that says 16x16."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "WEBP", lossless=True)
    body = file.getvalue()[12:]
    canvas = struct.pack("<4sIIHBHB", b"VP8X", 10, 0, 15, 0, 15, 0)
    return b"RIFF" + struct.pack("<I", 4 + len(canvas + body)) + b"WEBP" + canvas + body


def rle_bmp(side: int) -> bytes:
    """Returns a run-length coded BMP of side x side in which one byte pair is 255 pixels."""
    pixels = b"\xff\x01" * (side * side // 255) + b"\0\x01"
    palette = bytes(1024)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    start = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    return start + header + palette + pixels


MAKERS: dict[str, Callable[[int], bytes]] = {
    "png, 1 bit": lambda n: png(int(n**0.5), int(n**0.5)),
    "png, colour and alpha, 16 bits": lambda n: png(int(n**0.5), int(n**0.5), 16, 6),
    "png, gray and alpha": lambda n: png(int(n**0.5), int(n**0.5), 8, 4),
    "png, one row": lambda n: png(n, 1, 8),
    "png, one column": lambda n: png(1, n, 8),
    "png without its pixels": lambda n: png(int(n**0.5), int(n**0.5), 8, 2, zlib.compress(b"")),
    "jpeg, 16x16 in truth": lambda n: lying_jpeg(int(n**0.5), False),
    "jpeg, progressive": lambda n: lying_jpeg(int(n**0.5), True),
    "jpeg of two sizes": lambda n: two_sizes_jpeg(int(n**0.5)),
    "gif beyond its screen": lambda n: gif_beyond_its_screen(int(n**0.5)),
    "webp beyond its canvas": lambda n: webp_in_a_small_canvas(int(n**0.5)),
    "bmp, run-length": lambda n: rle_bmp(int(n**0.5)),
}
