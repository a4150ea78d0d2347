"""decode against pictures written out by hand: bytes in, known numbers out."""

import concurrent.futures
import io
import resource
import struct
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from imgclass.data import decode as d

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 13, 3), np.uint8)
# A gentle ramp: what a lossy codec keeps to within a few levels.
RAMP = np.stack(np.broadcast_arrays(*np.ogrid[40:200:32j, 60:220:24j], 128.0), axis=-1)
RAMP = RAMP.astype(np.uint8)
WHITE = [255, 255, 255]


def encoded(image, form, mode=None, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image, mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, depth, colour, rows, *extra, interlace=0):
    """A PNG from packed rows (bytes); colour is the IHDR type: 0 L, 2 RGB, 3 P, 4 LA, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, interlace)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    body = b"".join((chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(width, height, bits, pixels, palette=b"", core=False):
    if core:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        colours = len(palette) // 4
        header = struct.pack(
            "<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, colours, colours
        )
    start = 14 + len(header) + len(palette)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
        + header
        + palette
        + bytes(pixels)
    )


def exif(orientation, order="<", kind=3):
    """A TIFF block of one tag, 0x0112; kind 3 is a 16-bit value, 4 a 32-bit one."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *([orientation, 0][: 5 - kind]))
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return magic + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def with_segment(jpeg, marker, body):
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


FILES = {
    "jpeg": encoded(NOISE, "JPEG"),
    "progressive": encoded(NOISE, "JPEG", progressive=True),
    "cmyk": encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "png": encoded(NOISE, "PNG"),
    "png palette": encoded(Image.fromarray(NOISE).quantize(16), "PNG", transparency=b"\0\x80"),
    "webp": encoded(NOISE, "WEBP"),
    "webp lossless": encoded(NOISE, "WEBP", lossless=True),
    "webp alpha": encoded(Image.fromarray(NOISE).convert("RGBA"), "WEBP", exif=exif(6)),
    "bmp": encoded(NOISE, "BMP"),
    "bmp palette": encoded(Image.fromarray(NOISE).quantize(16), "BMP"),
    "gif": encoded(Image.fromarray(NOISE).quantize(16), "GIF"),
}


def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# --- PNG: every depth and colour type -------------------------------------------------------------

GRAY_3 = chunk(b"tRNS", struct.pack(">H", 3))
PALETTE = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
PNGS = {
    # name: (bytes, expected [h][w] gray levels or RGB triples)
    "1-bit": (png(3, 1, 0, [[0b10100000]]), [[255, 0, 255]]),
    "2-bit gray": (png(4, 2, 0, [[0b00011011]]), [[0, 85, 170, 255]]),
    "4-bit gray": (png(2, 4, 0, [[0x0F], [0x19]]), [[0, 255], [17, 153]]),
    "8-bit gray": (png(3, 8, 0, [[0, 7, 255]]), [[0, 7, 255]]),
    # 0x00FF is 0 and 0x0100 is 1: the high byte, neither rounded nor clipped at 255.
    "16-bit gray": (
        png(4, 16, 0, [struct.pack(">4H", 0x00FF, 0x0100, 0x7FFF, 0xFFFF)]),
        [[0, 1, 127, 255]],
    ),
    "8-bit RGB": (png(2, 8, 2, [[1, 2, 3, 250, 251, 252]]), [[[1, 2, 3], [250, 251, 252]]]),
    "16-bit RGB": (
        png(1, 16, 2, [struct.pack(">3H", 0x01FF, 0x80FF, 0xFEFF)]),
        [[[1, 128, 254]]],
    ),
    "palette": (png(3, 8, 3, [[2, 0, 1]], PALETTE), [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]),
    "2-bit palette": (png(2, 2, 3, [[0b01100000]], PALETTE), [[[40, 50, 60], [70, 80, 90]]]),
    # Over white, c a/255 + 255 (1 - a/255): 100 at 51 is 224; 0 at 128 is 127; any at 0 is 255.
    "gray+alpha": (png(3, 8, 4, [[100, 51, 0, 128, 9, 0]]), [[224, 127, 255]]),
    "16-bit gray+alpha": (
        png(2, 16, 4, [struct.pack(">4H", 0x64FF, 0x33FF, 0x12AB, 0xFFFF)]),
        [[224, 0x12]],
    ),
    "RGBA": (
        png(2, 8, 6, [[100, 0, 255, 51, 1, 2, 3, 0]]),
        [[[224, 204, 255], WHITE]],
    ),
    "16-bit RGBA": (
        png(1, 16, 6, [struct.pack(">4H", 0x6400, 0x0001, 0xFF00, 0x3300)]),
        [[[224, 204, 255]]],
    ),
    "1-bit tRNS": (png(3, 1, 0, [[0b10100000]], chunk(b"tRNS", b"\0\0")), [[255, 255, 255]]),
    "2-bit tRNS": (png(4, 2, 0, [[0b00011011]], chunk(b"tRNS", b"\0\1")), [[0, 255, 170, 255]]),
    "4-bit tRNS": (png(4, 4, 0, [[0x03, 0x45]], GRAY_3), [[0, 255, 68, 85]]),
    "8-bit tRNS": (png(3, 8, 0, [[2, 3, 4]], GRAY_3), [[2, 255, 4]]),
    "16-bit tRNS": (  # matched at 16 bits: 0x0301 has the same high byte and stays
        png(2, 16, 0, [b"\x03\x00\x03\x01"], chunk(b"tRNS", b"\3\0")),
        [[255, 3]],
    ),
    "RGB tRNS": (
        png(2, 8, 2, [[1, 2, 3, 1, 2, 4]], chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))),
        [[WHITE, [1, 2, 4]]],
    ),
    "16-bit RGB tRNS": (
        png(
            2, 16, 2, [struct.pack(">6H", 256, 512, 768, 0, 0, 0)], chunk(b"tRNS", b"\1\0\2\0\3\0")
        ),
        [[WHITE, [0, 0, 0]]],
    ),
    "palette tRNS, one clear": (
        png(3, 8, 3, [[2, 0, 1]], PALETTE, chunk(b"tRNS", b"\xff\0")),
        [[[70, 80, 90], [10, 20, 30], WHITE]],
    ),
    "palette tRNS, graded": (  # 10 at 51/255 is 206, 20 is 208, 30 is 210
        png(3, 8, 3, [[2, 0, 1]], PALETTE, chunk(b"tRNS", b"\x33\0")),
        [[[70, 80, 90], [206, 208, 210], WHITE]],
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_png_by_hand(name):
    data, expected = PNGS[name]
    expected = np.array(expected, np.uint8)
    if expected.ndim == 2:  # a gray picture is the same in all three channels, and is its own luma
        np.testing.assert_array_equal(d.decode(data, 1), expected[:, :, None])
        expected = np.stack([expected] * 3, axis=-1)
    got = d.decode(data)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_alpha_over_white_is_exact_for_every_pair():
    colour, alpha = np.mgrid[0:256, 0:256].astype(np.uint8)
    picture = np.stack([colour, colour, colour, alpha], axis=-1)
    got = d.decode(encoded(picture, "PNG"))
    wide = colour.astype(np.int64) * alpha + 255 * (255 - alpha.astype(np.int64))
    np.testing.assert_array_equal(got[:, :, 0], (2 * wide + 255) // 510)


def test_interlaced_png_is_put_in_order():
    # Adam7 of 2 x 2: pass 1 holds (0,0), pass 6 (0,1), pass 7 the second row.
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1))
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, 1, 0, 2, 0, 3, 4])))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    np.testing.assert_array_equal(d.decode(data, 1)[:, :, 0], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000))),  # 29 KB, 30 MB of text
        chunk(b"acTL", bytes(8)),  # an animation of no frames
        chunk(b"iCCP", b"broken"),
        chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        chunk(b"gAMA", struct.pack(">I", 45455)),
    ],
    ids=["text bomb", "acTL", "iCCP", "eXIf", "gAMA"],
)
def test_png_metadata_does_not_touch_pixels(extra):
    np.testing.assert_array_equal(d.decode(png(2, 8, 0, [[5, 6]], extra), 1)[:, :, 0], [[5, 6]])


def test_png_checksum_is_verified():
    data = png(2, 8, 0, [[5, 6]])
    at = data.index(b"IDAT") + 8
    with pytest.raises(d.BadImage, match=r"^corrupt png: wrong checksum in IDAT$"):
        d.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


# --- BMP and GIF by hand --------------------------------------------------------------------------

R, G, B, K = [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]
BGR_ROWS = bytes([255, 0, 0, 0, 0, 0, 0, 0]) + bytes([0, 0, 255, 0, 255, 0, 0, 0])  # B K / R G
BMPS = {  # rows are stored bottom up, in BGR, padded to 4 bytes
    "24-bit": (bmp(2, 2, 24, BGR_ROWS), [[R, G], [B, K]]),
    "24-bit top down": (bmp(2, -2, 24, BGR_ROWS), [[B, K], [R, G]]),
    "24-bit OS/2": (bmp(2, 2, 24, BGR_ROWS, core=True), [[R, G], [B, K]]),
    "32-bit, spare byte ignored": (bmp(2, 1, 32, [0, 0, 255, 0, 0, 255, 0, 99]), [[R, G]]),
    "16-bit 5-5-5": (bmp(2, 1, 16, struct.pack("<HH", 31 << 10, 31)), [[R, B]]),
    "8-bit": (bmp(3, 1, 8, [1, 0, 1, 0], bytes([255, 0, 0, 0, 0, 0, 255, 0])), [[R, B, R]]),
    "4-bit": (bmp(2, 1, 4, [0x10, 0, 0, 0], bytes([255, 0, 0, 0, 0, 0, 255, 0])), [[R, B]]),
    "1-bit": (bmp(2, 1, 1, [0x40, 0, 0, 0], bytes([0, 0, 0, 0, 255, 255, 255, 0])), [[K, WHITE]]),
}
# One pixel, palette (red, black); LZW codes of 3 bits: clear, 0, end.
TAIL = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
GIF_HEAD = b"GIF89a\1\0\1\0\x80\0\0\xff\0\0\0\0\0"


@pytest.mark.parametrize("name", BMPS)
def test_bmp_by_hand(name):
    data, expected = BMPS[name]
    np.testing.assert_array_equal(d.decode(data), np.array(expected, np.uint8))


def test_gif_by_hand():
    assert d.decode(GIF_HEAD + TAIL).tolist() == [[R]]
    assert d.decode(GIF_HEAD + b"!\xf9\4\1\0\0\0\0" + TAIL).tolist() == [[WHITE]]  # index 0 clear


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (4, 3), tuple(colour)) for colour in (R, B)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
    tolerance = 2 if form == "WEBP" else 0
    expected = np.broadcast_to(np.array(R, np.uint8), (3, 4, 3))
    np.testing.assert_allclose(d.decode(data).astype(int), expected.astype(int), atol=tolerance)


# --- JPEG, WebP -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "options", "levels"),
    [  # quantisation at quality 95; WebP also stores colour at half size, and the ramp climbs 7
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
        ("WEBP", {"quality": 95}, 10),
    ],
)
def test_lossy_is_close(form, options, levels):
    error = d.decode(encoded(RAMP, form, **options)).astype(int) - RAMP.astype(int)
    assert np.abs(error).max() <= levels
    assert np.abs(error.mean((0, 1))).max() < 1.5  # a wrong video range would be off by 10


def test_webp_lossless_and_alpha_are_exact():
    np.testing.assert_array_equal(d.decode(encoded(NOISE, "WEBP", lossless=True)), NOISE)
    picture = np.array([[[100, 0, 255, 51], [1, 2, 3, 0]]], np.uint8)
    data = encoded(picture, "WEBP", lossless=True, exact=True)
    assert d.decode(data).tolist() == [[[224, 204, 255], WHITE]]


def test_gray_jpeg():
    data = encoded(RAMP[:, :, 0], "JPEG", quality=95)
    got = d.decode(data)
    assert np.abs(got.astype(int) - RAMP[:, :, :1].astype(int)).max() <= 3
    np.testing.assert_array_equal(got, np.repeat(d.decode(data, 1), 3, axis=2))


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((51, 102, 0, 128), (102, 76, 127)),  # 255 x .8 x .498, 255 x .6 x .498, 255 x .498
    ],
)
def test_cmyk_jpeg(cmyk, rgb):
    got = d.decode(encoded(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=95))
    assert np.abs(got.astype(int) - np.array(rgb)).max() <= 3  # flat, so quantisation alone


def test_adobe_segment_is_heeded():
    # Its last byte, 0, says the samples are not YCbCr, so Y, Cb and Cr come out as they are:
    # .299 x 200 + .701 x 50 = 94.9; 128 + .564 (50 - 94.9) = 102.7; 128 + .713 (200 - 94.9) = 202.9
    jpeg = encoded(Image.new("RGB", (16, 16), (200, 50, 50)), "JPEG", quality=95)
    no_jfif = jpeg[:2] + jpeg[20:]  # the JFIF segment, 18 bytes, says YCbCr
    got = d.decode(with_segment(no_jfif, 0xEE, b"Adobe\0\x64" + bytes(5)))
    assert np.abs(got.astype(int) - np.array([95, 103, 203])).max() <= 2


def test_luma():
    # 255 x .299 = 76.2, x .587 = 149.7, x .114 = 29.1
    assert d.decode(png(3, 8, 2, [R + G + B]), 1)[0, :, 0].tolist() == [76, 150, 29]


# --- EXIF orientation -----------------------------------------------------------------------------

SIDES = {  # orientation: the upright picture's side that stored row 0, and column 0, lies on
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def upright(stored, orientation):
    """Undoes an orientation by the words of the EXIF standard: CIPA DC-008, 4.6.4."""
    row_side, column_side = SIDES[orientation]
    flip_rows, flip_columns = row_side in ("bottom", "right"), column_side in ("bottom", "right")
    stored = stored[::-1] if flip_rows else stored
    stored = stored[:, ::-1] if flip_columns else stored
    return stored.transpose(1, 0, 2) if row_side in ("left", "right") else stored


def test_upright_is_what_cameras_mean():
    # A camera held upright, grip down, writes 6: turn the file a quarter clockwise to view it.
    np.testing.assert_array_equal(upright(NOISE, 6), np.rot90(NOISE, -1))
    np.testing.assert_array_equal(upright(NOISE, 8), np.rot90(NOISE))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(form, orientation):
    plain = d.decode(encoded(NOISE, form, lossless=True))
    for order, kind in (("<", 3), (">", 3), ("<", 4), (">", 4)):
        # In a JPEG the block has a name before it; Pillow writes what it is given.
        block = (b"Exif\0\0" if form == "JPEG" else b"") + exif(orientation, order, kind)
        tagged = encoded(NOISE, form, lossless=True, exif=block)
        np.testing.assert_array_equal(d.decode(tagged), upright(plain, orientation))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        exif(6)[:12],
        exif(0),
        exif(9),
        b"II*\0\x08\0\0\0\xff\xff" + bytes(30),
        # A camera tag of 1000 bytes that are not there, then nothing.
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x010F, 2, 1000, 26) + bytes(4),
    ],
)
def test_damaged_exif_is_upright_and_silent(block):
    # Pillow's reader warns on several of these, and warnings are errors in this suite.
    jpeg, plain = FILES["jpeg"], d.decode(FILES["jpeg"])
    np.testing.assert_array_equal(d.decode(with_segment(jpeg, 0xE1, b"Exif\0\0" + block)), plain)
    tagged = png(1, 8, 0, [[5]], chunk(b"eXIf", block))
    assert d.decode(tagged, 1).tolist() == [[[5]]]


@pytest.mark.parametrize(
    ("marker", "body"), [(0xE2, b"MPF\0garbage"), (0xE2, b"ICC_PROFILE\0\1"), (0xFE, b"comment")]
)
def test_jpeg_metadata_does_not_touch_pixels(marker, body):
    data = with_segment(FILES["jpeg"], marker, body)
    np.testing.assert_array_equal(d.decode(data), d.decode(FILES["jpeg"]))


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_image_format(name):
    assert d.image_format(FILES[name]) == {"progressive": "jpeg", "cmyk": "jpeg"}.get(
        name, name.split()[0]
    )


@pytest.mark.parametrize(
    "data",
    [
        encoded(NOISE, "TIFF"),
        encoded(NOISE, "PPM"),
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"BM is how this plain text begins",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\xff\xd8",
        b"\0",
    ],
    ids=["tiff", "ppm", "html", "text", "wave", "two bytes", "zero"],
)
def test_other_formats_are_refused(data):
    with pytest.raises(d.BadImage, match=r"^not a JPEG, PNG, WebP, BMP or GIF file$"):
        d.decode(data)


def test_empty_file():
    with pytest.raises(d.BadImage, match=r"^empty file$"):
        d.decode(b"")


def test_channels_are_checked():
    with pytest.raises(ValueError, match="channels=4") as error:
        d.decode(FILES["png"], 4)
    assert not isinstance(error.value, d.BadImage)


def picture_or_reason(data):
    try:
        return d.decode(data, max_pixels=100_000)
    except d.BadImage as error:
        return str(error)


@pytest.mark.parametrize("name", FILES)
def test_cut_anywhere_a_file_gives_the_whole_picture_or_none(name):
    # Whole: a BMP without its last padding byte, a GIF without its end mark.
    data, whole, given = FILES[name], d.decode(FILES[name]), 0
    for length in range(18, len(data)):  # from 18 bytes on, every format is known
        got = picture_or_reason(data[:length])
        if isinstance(got, str):
            assert "truncated" in got
        else:
            given += 1
            np.testing.assert_array_equal(got, whole)
    assert given <= 3


@pytest.mark.parametrize("name", FILES)
def test_altered_bytes_raise_nothing_but_bad_image(name):
    rng, data = np.random.default_rng(1), FILES[name]
    for trial in range(150):
        bad = bytearray(data)
        end = len(data) if trial % 2 else 60  # half of them in the header
        for place in rng.integers(0, end, rng.integers(1, 5)):
            bad[place] = rng.integers(0, 256)
        got = picture_or_reason(bytes(bad))  # any other exception fails the test
        if isinstance(got, str):
            assert 0 < len(got) < 160
            assert "\n" not in got


def test_bomb_is_refused_by_its_header():
    # 20,000 rows of 1 + 2,500 bytes of zeros: 50 MB, 400 million pixels, in 48 KB.
    pixels = chunk(b"IDAT", zlib.compress(bytes(20_000 * 2_501), 9))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    assert len(bomb) < 50_000
    memory, start = peak_bytes(), time.perf_counter()
    message = r"^20000x20000 = 400,000,000 pixels, more than data.max_pixels=89478485$"
    with pytest.raises(d.BadImage, match=message):
        d.decode(bomb)
    assert time.perf_counter() - start < 1
    assert peak_bytes() - memory < 20_000_000


def patched(data, at, value):
    return data[:at] + value + data[at + len(value) :]


SOF = FILES["jpeg"].index(b"\xff\xc0") + 5
LARGE = {
    "jpeg": patched(FILES["jpeg"], SOF, struct.pack(">HH", 40_000, 40_000)),
    "bmp": patched(FILES["bmp"], 18, struct.pack("<ii", 40_000, 40_000)),
    "gif": patched(FILES["gif"], 6, struct.pack("<HH", 40_000, 40_000)),
    "webp": patched(
        FILES["webp alpha"], 24, (39_999).to_bytes(3, "little") + (39_999).to_bytes(3, "little")
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_every_format_is_refused_by_its_header(name):
    message = r"^40000x40000 = 1,600,000,000 pixels, more than data.max_pixels=89478485$"
    with pytest.raises(d.BadImage, match=message):
        d.decode(LARGE[name])


@pytest.mark.parametrize("name", FILES)
def test_max_pixels_is_inclusive(name):
    assert d.decode(FILES[name], max_pixels=9 * 13).size == 9 * 13 * 3
    with pytest.raises(d.BadImage, match=r" = 117 pixels, more than data.max_pixels=116$"):
        d.decode(FILES[name], max_pixels=9 * 13 - 1)


def test_threads_agree():
    names = list(FILES) * 20
    expected = {name: d.decode(FILES[name]) for name in FILES}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for name, got in zip(names, pool.map(lambda n: d.decode(FILES[n]), names), strict=True):
            np.testing.assert_array_equal(got, expected[name])
