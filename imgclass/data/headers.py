"""What the first bytes of a picture file say: format, size, orientation, and which parts matter.

Plain byte walking, no decoder: these run before Pillow sees a file, so that a file is refused by
its header, and so that Pillow sees only the parts that decide pixels. Not here: pixels.
"""

import re
import struct
import zlib
from collections.abc import Iterator

_UNKNOWN = "not a JPEG, PNG, WebP, BMP or GIF file"
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)  # every BITMAP*HEADER there has been
# Start of frame: 0xC4 is Huffman tables, 0xC8 reserved, 0xCC arithmetic coding's conditions.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NOT_OF_A_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # a marker that is no restart
_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))  # APP1 to APP13, APP15, comments
_LEAST = {0xE0: 18, 0xEE: 16}  # bytes; libjpeg passes over a shorter one, and Pillow stumbles
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # those that decide pixels


class BadImage(ValueError):
    """These bytes hold no picture we can use. `str` gives the reason alone, without a path."""


def image_format(data: bytes) -> str:
    """Names a picture's format from its first bytes: 'jpeg', 'png', 'webp', 'bmp' or 'gif'.

    Args:
      data: the file's bytes; the first 18 are enough.

    Raises:
      BadImage: for no bytes at all, and for any other format.

    >>> image_format(b'GIF89a')
    'gif'
    """
    if not data:
        raise BadImage("empty file")
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    # 'BM' alone would take in any text that starts so.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "bmp"
    raise BadImage(_UNKNOWN)


def bare_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Returns a JPEG without metadata segments, and its EXIF block (b'' if none).

    APP0 (JFIF) and APP14 (Adobe) stay, if they are whole: they tell the decoder the colour space.
    Source: ITU-T T.81, annex B.
    """
    view, exif = memoryview(data), b""
    kept: list[memoryview] = [view[:2]]
    for marker, at, end in _segments(data):
        if found := _exif(data, marker, at, end):
            exif = exif or found
        elif end - at >= _LEAST.get(marker, 0) and marker not in _METADATA:
            kept.append(view[at:end])
    return b"".join(kept), exif


def upright_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns height and width of a JPEG, None where EXIF turns it or the header has none."""
    size, exif = None, b""
    for marker, at, end in _segments(data):
        exif = exif or _exif(data, marker, at, end)
        if marker in _FRAMES and end >= at + 9:
            size = struct.unpack_from(">HH", data, at + 5)
    return None if size is None or 0 in size or orientation(exif) != 1 else size


def upper_jpeg(data: bytes, rows: int) -> bytes | None:
    """Returns a JPEG whose header makes it end early; None where that is not safe.

    A decoder stops at the end of a row of blocks and warns of the data that are left. After a
    warning simplejpeg no longer tells an error. So this is for files in which none can follow: of
    one scan, interleaved and not progressive, with no marker in it but restarts, up to the end of
    the file. What may be wrong there is a code, which every libjpeg mends.

    Args:
      data: a whole file, as `bare_jpeg` returns it.
      rows: how many rows from the top have to be as they were, at least 1.
    """
    place = components = 0
    for marker, at, _ in _segments(data):
        if marker in (0xC0, 0xC1) and not place:
            place, components = at + 5, data[at + 9]
        elif marker in _FRAMES:
            return None
        elif marker == 0xDA:
            body = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            next_marker = _NOT_OF_A_SCAN.search(data, body)
            one = data[at + 4] == components and data[body - 3 : body] == b"\0\x3f\0"
            whole = next_marker and next_marker.span() == (len(data) - 2, len(data))
            if not (place and one and whole and data.endswith(b"\xd9")):
                return None
    kept = rows + 1  # colour of half the height is interpolated from the row below
    if kept >= int.from_bytes(data[place : place + 2], "big"):
        return None
    return b"".join((data[:place], kept.to_bytes(2, "big"), data[place + 2 :]))


def _exif(data: bytes, marker: int, at: int, end: int) -> bytes:
    """Returns a segment's EXIF block; b'' if it is no such segment."""
    body = data[at + 4 : end] if marker == 0xE1 else b""
    return body if body.startswith(b"Exif\0\0") else b""


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and end of a JPEG's segments; the last is from the scan to the end."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise BadImage("truncated")
        marker = data[at + 1]
        if marker == 0xDA:  # start of scan: pixels from here on
            yield marker, at, len(data)
            return
        if marker in (0x00, 0xFF):  # stuffing, padding
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # markers without a body
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data):
            raise BadImage("truncated")
        if end < at + 4:
            raise BadImage("corrupt jpeg: a segment shorter than its own header")
        yield marker, at, end
        at = end


def bare_png(data: bytes) -> tuple[bytes, bytes]:
    """Returns a PNG of its pixel chunks alone, checksums verified, and its EXIF block."""
    view, exif, at, kind = memoryview(data), b"", 8, b""
    kept: list[memoryview] = [view[:8]]
    while kind != b"IEND":
        if at + 12 > len(data):
            raise BadImage("truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise BadImage("truncated")
        if kind == b"eXIf":
            exif = data[at + 8 : end - 4]
        elif kind in _PNG_CHUNKS:
            # Pillow leaves the checksums of the pixels themselves unread.
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise BadImage(f"corrupt png: wrong checksum in {kind.decode()}")
            kept.append(view[at:end])
        at = end
    return b"".join(kept), exif


def webp_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) from a WebP header. Source: RFC 9649 (container), RFC 6386 (VP8)."""
    if len(data) < 30 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise BadImage("truncated")
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise BadImage("corrupt webp: no picture in it")


def orientation(exif: bytes) -> int:
    """Returns the orientation tag of an EXIF block, 1 to 8; 1 where it cannot be read.

    A picture with damaged metadata is still a picture. Source: CIPA DC-008 (EXIF 2.32), 4.6.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
