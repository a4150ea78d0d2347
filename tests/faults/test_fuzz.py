"""Random input for what reads strangers' bytes: decoders, headers, archives, and the command line.

Derandomized, so that every run tries the same; `IMGCLASS_FUZZ=50` looks fifty times further.
Whatever comes in, what comes out is an answer or the one error that is promised.
"""

import io
import json
import os
import pathlib
import sys
import warnings

import numpy as np
import pytest
from absl import flags
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags
from PIL import Image

from imgclass import arguments, run
from imgclass import config as config_lib
from imgclass.data import arrays, decode, headers, table
from imgclass.errors import UserError

PIXELS = 4_000  # data.max_pixels here


def bounded(examples):
    return settings(
        max_examples=examples * int(os.environ.get("IMGCLASS_FUZZ", "1")),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def outcome(error, function, *args):
    """Returns (answer, None), or (None, the error); any other error fails the test."""
    try:
        return function(*args), None
    except error as caught:
        return None, caught


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
SEEDS = [
    encoded("JPEG"), encoded("JPEG", "CMYK"), encoded("JPEG", progressive=True, exif=EXIF),
    encoded("PNG"), encoded("PNG", "P"), encoded("PNG", "LA", exif=EXIF), encoded("PNG", "1"),
    encoded("PNG", "I;16"), encoded("GIF"), encoded("BMP"), encoded("BMP", "P"),
    encoded("WEBP"), encoded("WEBP", "RGBA", lossless=True, exif=EXIF),
]  # fmt: skip

STARTS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\0\0\0WEBPVP8X",
          b"BM" + bytes(12) + b"\x28\0\0\0", b"Exif\0\0II*\0", b"MM\0*\0\0\0\x08"]  # fmt: skip


@st.composite
def mutated(draw, seeds):
    """A real file with a few parts overwritten, removed, repeated, or taken from another."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 24))
        how = draw(st.sampled_from(["write", "write", "remove", "repeat", "splice", "extreme"]))
        if how == "write":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif how == "remove":
            del data[at : at + length]
        elif how == "repeat":
            data[at:at] = bytes(data[at : at + length]) * draw(st.integers(1, 20))
        elif how == "splice":
            other = draw(st.sampled_from(seeds))
            start = draw(st.integers(0, len(other) - 1))
            data[at : at + length] = other[start : start + length]
        else:
            data[at : at + 4] = draw(
                st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f" + b"\xff" * 3])
            )
    return bytes(data)


anything = st.one_of(
    mutated(SEEDS), st.builds(bytes.__add__, st.sampled_from(STARTS), st.binary(max_size=200))
)


@bounded(600)
@given(data=anything, channels=st.sampled_from([1, 3]))
def test_decoding_gives_a_picture_or_a_reason(data, channels):
    pixels, error = outcome(decode.BadImage, decode.decode, data, channels, PIXELS)
    if error:
        assert 0 < len(str(error)) < 200
        assert "\n" not in str(error)
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == channels
    assert 0 < pixels.shape[0] * pixels.shape[1] <= PIXELS


@bounded(600)
@given(data=anything)
def test_headers_raise_nothing_but_bad_image(data):
    outcome(headers.BadImage, headers.image_format, data)
    for bare in (headers.bare_jpeg, headers.bare_png):
        found, _ = outcome(headers.BadImage, bare, data)
        # What is left out is metadata; nothing is made up, and EXIF is a part of the file.
        assert found is None or (len(found[0]) <= len(data) and found[1] in data)
    width, height = outcome(headers.BadImage, headers.webp_size, data)[0] or (0, 0)
    assert 0 <= width <= 1 << 24
    assert 0 <= height <= 1 << 24
    assert 1 <= headers.orientation(data) <= 8


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    file = io.BytesIO()
    np.savez(file, x=np.zeros((6, 4, 4), np.uint8), y=np.array([0, 1, 0, 1, 0, 1]))
    packed = io.BytesIO()
    np.savez_compressed(packed, x=np.zeros((6, 4, 4), np.uint8), y=np.array(list("ababab")))
    return tmp_path_factory.mktemp("fuzz") / "set.npz", [file.getvalue(), packed.getvalue()]


@bounded(300)
@given(choice=st.data())
def test_archives_are_read_or_refused(archive, choice):
    path, seeds = archive
    path.write_bytes(choice.draw(mutated(seeds)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about names that stand twice
        native, error = outcome(UserError, arrays.open_arrays, path)
    if error:
        assert str(path) in str(error)
    else:
        assert all(len(split) == 6 for split in native.splits.values())


cells = st.text(st.characters(codec="utf-8"), max_size=12)
rows = st.lists(st.lists(cells, max_size=4), max_size=5)


@bounded(200)
@given(rows=rows, start=st.sampled_from(["path,label\n", "path,label,split\n", ""]))
def test_tables_are_refused_in_a_line(tmp_path_factory, rows, start):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_text(start + "\n".join(",".join(row) for row in rows), encoding="utf-8", newline="")
    with pytest.raises(UserError, match=r"fuzz\.csv"):
        table.open_table(path)


KINDS = config_lib.kinds()
values = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["nan", "inf", "-1", "0", "1e999", "1e3", "True", "None", "()", "(,)", "{[]:1}",
                     "[[]]", "(" * 3000, "9" * 5000, "1_000", "\x00", "\udce9", "-" * 4000, "=",
                     "[1", "f'{x}'", "__import__('os')", "(1).real", "'a' 'b'", "lambda: 0"]),
    st.integers().map(str), st.floats().map(str),
)  # fmt: skip


@bounded(500)
@given(text=values, kind=st.sampled_from([str, bool, int, float, tuple]))
def test_a_value_is_parsed_or_refused(text, kind):
    value, error = outcome(ValueError, arguments.parse_value, text, kind)
    if error:
        assert str(error).startswith("must be ")
    else:
        assert type(value) is kind


words = st.one_of(
    st.builds("--config.{}={}".format, st.sampled_from(sorted(KINDS)), values),
    st.builds("--{}config.{}".format, st.sampled_from(["", "no"]), st.sampled_from(sorted(KINDS))),
    st.builds("--config.{}={}".format, values, values),
    st.builds("{}{}".format, st.sampled_from(["--", "-", "", "---", "--no"]), values),
    st.sampled_from(["--config", "--", "-", "--workdir", "--num_processes=x", "--debug=maybe"]),
)


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
@bounded(150)
@given(given_words=st.lists(words, max_size=4), first=st.booleans())
def test_a_command_line_is_a_config_or_lines_with_status_2(given_words, first):
    # absl ends the process to print these; they are no mistakes.
    assume(
        not any(
            word.lstrip("-").startswith(("help", "only_check", "flagfile")) for word in given_words
        )
    )
    named = f"--config={pathlib.Path(__file__).parents[2] / 'configs/cnn.py'}"
    argv = ["main.py", *([named] if first else []), *given_words]
    sys.modules.pop("config_config", None)
    known = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "", flag_values=known, lock_config=True, sys_argv=argv
    )
    flags.DEFINE_string("workdir", "", "", flag_values=known)
    flags.DEFINE_bool("debug", False, "", flag_values=known)
    flags.DEFINE_integer("num_processes", 0, "", flag_values=known)
    found, error = outcome(UserError, arguments.parse, argv, known)
    if error:
        assert error.exit_status == 2
        assert str(error).strip()
    else:
        assert config_lib.problems(found[0]) == []


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@bounded(300)
@given(key=st.sampled_from(sorted(KINDS)), value=plain, whole=st.booleans())
def test_a_stored_config_is_read_or_refused(run_folder, key, value, whole):
    tree = json.loads(config_lib.to_json(config_lib.resolve(config_lib.defaults())))
    if whole:
        tree = value
    else:
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree)[name] = value
    (run_folder / "config.json").write_text(json.dumps(tree))
    config, error = outcome(UserError, run.load_config, run_folder)
    if error:
        assert "config.json" in str(error)
    else:
        assert config_lib.problems(config) == []


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\x00", "\ufeff{}", "1e999"])
def test_json_that_is_no_config(run_folder, text):
    (run_folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        run.load_config(run_folder)
