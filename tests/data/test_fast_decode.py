"""The faster decoders against Pillow: the same bits, or nothing."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from imgclass.data import decode as d
from imgclass.data import fast_decode, folder, headers, installed, load
from imgclass.data.host_crop import RandomCrop
from imgclass.data.preprocess import Preprocess
from tests.data import test_decode as made

SHARED = pathlib.Path(__file__).parents[3] / "shared"

needs_jpeg = pytest.mark.skipif(installed.simplejpeg() is None, reason="no simplejpeg")
needs_png = pytest.mark.skipif(installed.opencv() is None, reason="no OpenCV")


def by_pillow(monkeypatch, data, channels):
    with monkeypatch.context() as patch:
        patch.setattr(fast_decode, "decode", lambda *args: None)
        return verdict(data, channels)


def verdict(data, channels):
    """Returns pixels, or the reason why there are none."""
    try:
        return d.decode(data, channels)
    except d.BadImage as bad:
        return str(bad)


def assert_as_pillow(monkeypatch, data, what):
    for channels in (3, 1):
        found, expected = verdict(data, channels), by_pillow(monkeypatch, data, channels)
        assert type(found) is type(expected), (what, channels, found, expected)
        if isinstance(found, str):
            assert found == expected, (what, channels)
        else:
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape), (what, channels)
            assert found.tobytes() == expected.tobytes(), (what, channels)


def picture(height, width):
    random = np.random.default_rng(height * width)
    rough = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    smooth = rough.repeat(8, 0).repeat(8, 1)[:height, :width]
    return (smooth + random.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)


def adam7(pixels):
    """An interlaced PNG, from the seven passes of the standard."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1))  # fmt: skip
    parts = [pixels[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(made.chunk(*chunk) for chunk in chunks)


def jpegs():
    """Returns files by what is special about them."""
    files = {}
    for height, width in ((1, 1), (7, 9), (33, 50), (8, 200)):
        colour = picture(height, width)
        name = f"{height}x{width}"
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
            for progressive in (False, True):
                options = {"subsampling": sampling, "progressive": progressive}
                files[f"{name} {options}"] = made.encoded(colour, "JPEG", **options)
        files[f"{name} gray"] = made.encoded(colour[:, :, 0].copy(), "JPEG")
        files[f"{name} stored as RGB"] = made.encoded(colour, "JPEG", keep_rgb=True)
        files[f"{name} restarts"] = made.encoded(colour, "JPEG", restart_marker_blocks=1)
        files[f"{name} cmyk"] = made.encoded(Image.fromarray(colour).convert("CMYK"), "JPEG")
    return files


def pngs():
    files = {}
    for height, width in ((1, 1), (7, 9), (33, 50)):
        colour, name = Image.fromarray(picture(height, width)), f"{height}x{width}"
        for mode in ("RGB", "L", "1", "P", "LA", "RGBA"):
            files[f"{name} {mode}"] = made.encoded(colour.convert(mode), "PNG")
        wide = np.asarray(colour.convert("L")).astype(np.uint16) * 257
        files[f"{name} 16 bits"] = made.encoded(Image.fromarray(wide), "PNG")
        files[f"{name} one colour clear"] = made.encoded(
            colour, "PNG", transparency=colour.getpixel((0, 0))
        )
        files[f"{name} interlaced"] = adam7(np.asarray(colour))
    whole = files["33x50 RGB"]
    gamma = made.chunk(b"gAMA", struct.pack(">I", 100_000))
    palette = made.chunk(b"PLTE", bytes(range(30)))
    late = made.chunk(b"tRNS", bytes(6))
    files |= {
        "gamma": whole[:33] + gamma + whole[33:],
        "a palette that is not used": whole[:33] + palette + whole[33:],
        "tRNS after the pixels": whole[:-12] + late + whole[-12:],
        "more than the end": whole + b"more",
    }
    return files


@needs_jpeg
def test_jpegs_are_as_pillow_has_them(monkeypatch):
    for name, data in jpegs().items():
        assert_as_pillow(monkeypatch, data, name)
        fast = fast_decode.decode(d._bare(data, "jpeg")[0], "jpeg", 3, 10**6)
        assert (fast is None) == ("cmyk" in name), name


@needs_png
def test_pngs_are_as_pillow_has_them(monkeypatch):
    for name, data in pngs().items():
        assert_as_pillow(monkeypatch, data, name)
        fast = fast_decode.decode(d._bare(data, "png")[0], "png", 3, 10**6)
        odd = name.endswith((" 1", " P", " LA", " RGBA", "16 bits", "clear")) or "tRNS" in name
        assert (fast is None) == odd, name


def test_headers_that_are_too_short_are_passed_over(monkeypatch):
    plain = made.encoded(picture(33, 50), "JPEG")
    jfif, rest = plain[2:20], plain[20:]
    assert jfif.startswith(b"\xff\xe0\0\x10JFIF\0")
    short = b"\xff\xd8" + b"\xff\xe0\0\x06JFIF" + rest
    adobe = made.with_segment(plain, 0xEE, b"Adobe\0")
    for data in (short, adobe):
        assert_as_pillow(monkeypatch, data, "too short")
        np.testing.assert_array_equal(d.decode(data), d.decode(plain))


def test_a_png_larger_than_libpng_takes_is_pillows_without_a_word(capfd):
    data = made.encoded(np.full((1, 1_000_001), 7, np.uint8), "PNG")
    assert d.decode(data, 1).shape == (1, 1_000_001, 1)
    assert capfd.readouterr().err == ""


def scans_of_their_own(pictures):
    """A baseline JPEG with a scan a component, from gray files of the same size and quality."""
    parts = [made.encoded(picture, "JPEG") for picture in pictures]
    segments = {marker: parts[0][at:end] for marker, at, end in headers._segments(parts[0])}
    frame = segments[0xC0]
    frame = frame[:2] + struct.pack(">H", 17) + frame[4:9] + b"\x03"
    frame += b"".join(bytes((i, 0x11, 0)) for i in (1, 2, 3))
    found = headers._segments(parts[0])
    tables = b"".join(parts[0][at:end] for marker, at, end in found if marker in (0xDB, 0xC4))
    scans = [
        b"\xff\xda\0\x08\x01" + bytes((i, 0, 0, 63, 0)) + part[part.index(b"\xff\xda") + 10 : -2]
        for i, part in zip((1, 2, 3), parts, strict=True)
    ]
    return b"\xff\xd8" + tables + frame + b"".join(scans) + b"\xff\xd9"


def assert_parts_are_as_the_whole(data, boxes, what):
    for channels in (3, 1):
        whole = verdict(data, channels)
        if isinstance(whole, str):
            with pytest.raises(d.BadImage) as refused:
                d.decode_boxes(data, lambda height, width: boxes, channels)
            assert str(refused.value) == whole, what
            continue
        parts = d.decode_boxes(data, lambda height, width: boxes, channels)
        for part, (top, left, height, width) in zip(parts, boxes, strict=True):
            expected = whole[top : top + height, left : left + width]
            np.testing.assert_array_equal(part, expected, str(what), strict=True)


def test_boxes_are_parts_of_the_whole_picture():
    plain = made.encoded(picture(33, 50), "JPEG")
    files = jpegs() | {"png": made.encoded(picture(33, 50), "PNG"), "more": plain + b"\0"}
    grays = [picture(33, 50)[:, :, i].copy() for i in range(3)]
    files["three scans"] = scans_of_their_own(grays)
    for turn in range(1, 9):
        exif = made.exif(turn)
        files[f"turn {turn}"] = made.with_segment(plain, 0xE1, b"Exif\0\0" + exif)
    exif = b"Exif\0\0" + made.exif(6)
    empty = b"\xff\xd8" + b"\xff\xe1\0\x02" + b"Exif\0\0"  # which stands behind the segment
    files["an empty segment first"] = empty + made.with_segment(plain, 0xE1, exif)[2:]
    for name, data in files.items():
        height, width = d.decode(data).shape[:2]
        asked = []
        d.decode_boxes(data, lambda *size, to=asked: to.append(size) or [(0, 0, 1, 1)])
        assert asked == [(height, width)], name
        for bottom in range(1, height + 1):
            middle = bottom // 2
            boxes = [(0, 0, 1, 1), (middle, width // 2, bottom - middle, 1)]
            assert_parts_are_as_the_whole(data, boxes, (name, bottom))


def test_damage_is_judged_alike_in_a_part_and_in_the_whole(capfd):
    random = np.random.default_rng(5)
    boxes = [(0, 0, 40, 80), (30, 3, 20, 9)]
    image = picture(96, 80)
    for options in ({"subsampling": "4:2:0"}, {"restart_marker_blocks": 3}, {"progressive": True}):
        data = made.encoded(image, "JPEG", **options)
        scan = data.index(b"\xff\xda")
        for _ in range(300):
            at, value = int(random.integers(2, len(data))), int(random.integers(256))
            altered = data[:at] + bytes([value]) + data[at + 1 :]
            assert_parts_are_as_the_whole(altered, boxes, (options, at, value))
        # A marker where none should be, in and below the boxes.
        for marker in (0xC0, 0xC4, 0xD8, 0xD9, 0xDA, 0xE0, 0xFE):
            for share in (0.2, 0.9):
                at = scan + 20 + int(share * (len(data) - scan - 30))
                altered = data[:at] + bytes((0xFF, marker)) + data[at + 2 :]
                assert_parts_are_as_the_whole(altered, boxes, (options, marker, share))
        assert_parts_are_as_the_whole(data[: len(data) // 3] + data, boxes, "cut, and a whole one")
    grays = [picture(96, 80)[:, :, i].copy() for i in range(3)]
    scans = scans_of_their_own(grays)
    last = scans.rindex(b"\xff\xda")
    no_such_table = scans[: last + 6] + b"\x33" + scans[last + 7 :]
    assert_parts_are_as_the_whole(no_such_table, boxes, "a table that is not there")
    assert capfd.readouterr().err == ""


@needs_jpeg
def test_hardly_a_row_below_the_boxes_is_decoded():
    for options in ({"subsampling": "4:4:4"}, {"subsampling": "4:2:0"}, {"restart_marker_rows": 1}):
        data = made.encoded(picture(100, 40), "JPEG", **options)
        for rows in (1, 30, 64, 98):
            assert len(fast_decode.decode(data, "jpeg", 3, 10**6, rows)) == rows + 1
        assert len(fast_decode.decode(data, "jpeg", 3, 10**6, 99)) == 100
        assert fast_decode.decode(data, "jpeg", 3, 3999, 1) is None  # 40 x 100
    whole = made.encoded(picture(100, 40), "JPEG", progressive=True), data + b"\0"
    assert [headers.upper_jpeg(each, 50) for each in whole] == [None, None]


@needs_jpeg
def test_training_sees_the_crops_that_pillow_would_give(tmp_path, monkeypatch):
    for i in range(6):
        path = tmp_path / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(made.encoded(picture(70 + i, 90), "JPEG", subsampling="4:2:0"))
    split = folder.open_folder(tmp_path).splits["train"]
    crop = RandomCrop(1, 12, (0.08, 1.0), (0.75, 1.3333), (16, 16), "bilinear")
    loader = load.BatchLoader(split, Preprocess((16, 16)), (16, 16), crop)
    batch = 3, np.arange(12) // 2, np.arange(12)
    fast = loader(*batch)
    monkeypatch.setattr(fast_decode, "decode", lambda *args: None)
    np.testing.assert_array_equal(fast, loader(*batch), strict=True)


def test_the_exif_orientation_is_undone_all_the_same(monkeypatch):
    jpeg, png = (made.encoded(picture(33, 50), form) for form in ("JPEG", "PNG"))
    for turn in range(1, 9):
        turned = made.with_segment(jpeg, 0xE1, b"Exif\0\0" + made.exif(turn))
        assert_as_pillow(monkeypatch, turned, turn)
        block = made.chunk(b"eXIf", made.exif(turn))
        assert_as_pillow(monkeypatch, png[:33] + block + png[33:], turn)
        assert d.decode(turned).shape[:2] == ((50, 33) if turn > 4 else (33, 50))


def test_a_file_cut_short_anywhere_is_judged_by_pillow(monkeypatch):
    for form, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})):
        data = made.encoded(picture(20, 30), form, **options)
        for length in range(1, len(data), 7):
            assert_as_pillow(monkeypatch, data[:length], (form, length))
        assert d.decode(data).shape == (20, 30, 3)


def test_altered_bytes_are_judged_as_pillow_judges_them(monkeypatch):
    random = np.random.default_rng(0)
    files = [*jpegs().values(), *pngs().values()]
    for _ in range(1500):
        data = bytearray(files[random.integers(len(files))])
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        assert_as_pillow(monkeypatch, bytes(data), bytes(data))


@needs_png
def test_a_png_with_right_checksums_around_damaged_pixels_is_refused(monkeypatch, capfd):
    def png(stream):
        header = struct.pack(">IIBBBBB", 17, 20, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(made.chunk(*chunk) for chunk in chunks)

    rows = b"".join(b"\0" + row.tobytes() for row in picture(20, 17))
    whole = zlib.compress(rows)
    for name, stream in {
        "cut": whole[:-40],
        "empty": b"",
        "another sum": whole[:-4] + b"abcd",
        "a flipped bit": whole[:60] + bytes([whole[60] ^ 16]) + whole[61:],
        "a byte short": zlib.compress(rows[:-1]),
        "no such filter": zlib.compress(rows[:52] + b"\7" + rows[53:]),
    }.items():
        assert fast_decode.decode(png(stream), "png", 3, 10**6) is None, name
        assert isinstance(verdict(png(stream), 3), str), name
        assert_as_pillow(monkeypatch, png(stream), name)
    capfd.readouterr()  # libpng says a line about each


def test_a_picture_that_is_too_large_is_left_to_pillow(monkeypatch):
    for form in ("JPEG", "PNG"):
        data = made.encoded(picture(20, 30), form)
        assert fast_decode.decode(data, form.lower(), 3, 599) is None
        with pytest.raises(d.BadImage, match="30x20 = 600 pixels"):
            d.decode(data, 3, 599)
        assert d.decode(data, 3, 600).shape == (20, 30, 3)


def test_without_the_libraries_pillow_decodes(monkeypatch):
    monkeypatch.setattr(installed, "_found", lambda *names, least: None)
    installed.simplejpeg.cache_clear()
    installed.opencv.cache_clear()
    for form in ("JPEG", "PNG"):
        data = made.encoded(picture(20, 30), form)
        assert fast_decode.decode(data, form.lower(), 3, 600) is None
        np.testing.assert_array_equal(
            d.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        )
    assert {name.split()[0] for name in fast_decode.in_use().values()} == {"pillow"}
    installed.simplejpeg.cache_clear()
    installed.opencv.cache_clear()


def test_another_libjpeg_under_pillow_is_not_mixed_with_turbo(monkeypatch):
    for version in (None, "2.1.5"):
        monkeypatch.setattr(installed.features, "version", lambda name, v=version: v)
        assert installed.simplejpeg.__wrapped__() is None


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_real_pictures_are_as_pillow_has_them(monkeypatch):
    files = [
        *sorted((SHARED / "data/photos").glob("*.JPEG"))[::4],
        *sorted((SHARED / "data/chest_xray").glob("*/*/*"))[::80],
        *sorted((SHARED / "data/traffic_signs").glob("*/*/*"))[::80],
    ]
    assert len(files) > 100
    for path in files:
        assert_as_pillow(monkeypatch, path.read_bytes(), path)
