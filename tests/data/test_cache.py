"""The decoded cache: the same batches, and never a file that is not whole."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from imgclass import parallel
from imgclass.data import cache, feed, folder, load
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UserError
from tests import tiny

SIZE = (12, 10)
PREPARE = Preprocess(image_size=(8, 8), resize="crop", crop_fraction=0.8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/imgclass/pictures"


def a_split(root, n=23):
    """Pictures of several shapes, PNG and JPEG, some of them gray."""
    tiny.folder(root, "train", n)
    ramp = np.linspace(0, 255, 40 * 31 * 3).reshape(31, 40, 3).astype(np.uint8)
    Image.fromarray(ramp).save(root / "train/class0/wide.jpg")
    Image.fromarray(ramp[:, :9, 0]).save(root / "train/class1/tall.jpg")
    return folder.open_folder(root).splits["train"]


def stream(split, prepare):
    return feed.StreamFeed(
        split, prepare, SIZE, seed=4, batch_size=7, rows=np.arange(7), put=dict, threads=2
    )


def resident(split, prepare):
    take = jax.jit(parallel.take_rows)
    return feed.ResidentFeed(
        split, prepare, SIZE, seed=4, batch_size=7, put_all=dict, take=take, threads=2
    )


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("make", [stream, resident])
def test_batches_from_a_raw_cache_are_those_without(tmp_path, make, channels):
    split = a_split(tmp_path)
    prepare = dataclasses.replace(PREPARE, channels=channels)
    plain, kept = (
        make(split, prepare),
        make(*cache.cached(split, prepare, SIZE, "raw", threads=2)),
    )
    for step in range(8):  # 56 of 25 examples: two epochs and some
        expected, found = plain.batch(step), kept.batch(step)
        for name, value in expected.items():
            np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value))
    plain.close()
    kept.close()


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_only_the_first_use_decodes(tmp_path, monkeypatch, kind):
    split = a_split(tmp_path)
    first = feed.load_all(*cache.cached(split, PREPARE, SIZE, kind), SIZE)
    monkeypatch.setattr(cache, "_fill", None)
    second = feed.load_all(*cache.cached(split, PREPARE, SIZE, kind), SIZE)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("channels", [3, 1])
def test_a_jpeg_cache_is_smaller_and_nearly_the_same(tmp_path, home, channels):
    ramp = np.linspace(0, 255, 128 * 128).reshape(128, 128)
    for name in "ab":
        path = tmp_path / f"train/{name}/0.png"
        path.parent.mkdir(parents=True)
        shades = [ramp, ramp.T, 255 - ramp] if name == "a" else [ramp, ramp, ramp]
        Image.fromarray(np.stack(shades, -1).astype(np.uint8)).save(path)
    split = folder.open_folder(tmp_path).splits["train"]
    prepare = Preprocess(image_size=(64, 64), channels=channels)
    exact = feed.load_all(split, prepare, (96, 96))
    found = feed.load_all(*cache.cached(split, prepare, (96, 96), "jpeg"), (96, 96))
    away = np.abs(found.astype(int) - exact)
    assert found.shape == (2, 96, 96, channels)
    assert 0 < away.mean() < 2
    assert away.max() < 24
    (file,) = home.iterdir()
    assert file.stat().st_size < exact.nbytes / 3


def test_a_cache_is_a_split_like_the_one_it_was_made_of(tmp_path):
    split = a_split(tmp_path)
    kept, _ = cache.cached(split, PREPARE, SIZE, "raw")
    assert (kept.name, kept.fingerprint, kept.fingerprint_kind, len(kept)) == (
        "train", split.fingerprint, "content", 25,
    )  # fmt: skip
    np.testing.assert_array_equal(kept.labels, split.labels)
    records = kept.read([24, 3])
    assert [(r.name, r.label) for r in records] == [
        (split.names[i], split.labels[i]) for i in (24, 3)
    ]
    with pytest.raises(IndexError):
        kept.read([25])


def test_what_changes_pixels_has_a_file_of_its_own(tmp_path, home):
    split = a_split(tmp_path, 3)
    made = 0
    for size, kind, changes in (
        (SIZE, "raw", {}),
        ((10, 12), "raw", {}),
        (SIZE, "jpeg", {}),
        (SIZE, "raw", {"channels": 1}),
        (SIZE, "raw", {"resize": "pad"}),
        (SIZE, "raw", {"resize": "pad", "pad_value": 9}),
        (SIZE, "raw", {"crop_fraction": 0.7}),
        (SIZE, "raw", {"interpolation": "bicubic"}),
    ):
        cache.cached(split, dataclasses.replace(PREPARE, **changes), size, kind)
        made += 1
        assert len(list(home.iterdir())) == made
    same = {"mean": (0.5,), "std": (0.2,), "max_pixels": 10**6, "image_size": (9, 9)}
    cache.cached(split, dataclasses.replace(PREPARE, **same), SIZE, "raw")
    assert len(list(home.iterdir())) == made
    (tmp_path / "train/class1/tall.jpg").unlink()
    cache.cached(folder.open_folder(tmp_path).splits["train"], PREPARE, SIZE, "raw")
    assert len(list(home.iterdir())) == made + 1


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_file_that_is_not_whole_is_made_anew(tmp_path, home, kind, caplog):
    split = a_split(tmp_path)
    expected = feed.load_all(*cache.cached(split, PREPARE, SIZE, kind), SIZE)
    (path,) = home.iterdir()
    whole = path.read_bytes()
    index = len(whole) - 60 - 12 * 25 - 8
    flipped = whole[: index + 40] + bytes([whole[index + 40] ^ 4]) + whole[index + 41 :]
    for damaged in (b"", whole[:-1], whole[:700], whole + b"\0", whole[1:], flipped):
        path.write_bytes(damaged)
        found = feed.load_all(*cache.cached(split, PREPARE, SIZE, kind), SIZE)
        np.testing.assert_array_equal(found, expected)
        assert path.read_bytes() == whole
        assert "made anew" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_flipped_bit_or_a_file_cut_short_while_it_is_read_is_an_error(tmp_path, home, kind):
    split = a_split(tmp_path)
    kept, _ = cache.cached(split, PREPARE, SIZE, kind)
    (path,) = home.iterdir()
    whole = path.read_bytes()
    for place in (0, 100, 700):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)  # the same file, open in `kept`
        with pytest.raises(UserError, match=r"pictures/\w+\.(raw|jpeg) is damaged: remove it"):
            kept.read(range(len(kept)))
    os.truncate(path, 50)
    with pytest.raises(UserError, match="is damaged: remove it"):
        kept.read([7])


def test_a_bad_picture_is_named_and_leaves_no_cache(tmp_path, home):
    split = a_split(tmp_path)
    bad = tmp_path / "train/class1/0004.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError, match=r"train/class1/0004\.png.*bad_files=skip"):
        cache.cached(split, PREPARE, SIZE, "raw")
    assert list(home.iterdir()) == []


def test_no_room_is_said_before_anything_is_decoded(tmp_path, home, monkeypatch):
    split = a_split(tmp_path)
    monkeypatch.setattr(load, "examples", None)
    with pytest.raises(UserError, match=r"bytes are needed.*XDG_CACHE_HOME.*data\.cache=''"):
        cache.cached(split, PREPARE, (10**6, 10**7), "raw")
    assert list(home.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path, home):
    home.parent.mkdir(parents=True)
    home.write_text("a file")
    with pytest.raises(UserError, match=r"the cache cannot be used \(Not a directory\)"):
        cache.cached(a_split(tmp_path), PREPARE, SIZE, "raw")


FILL = """
import pathlib, resource, signal, sys, time
import numpy as np
from imgclass.data import cache, feed, folder
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UserError

root, what = pathlib.Path(sys.argv[1]), sys.argv[2]
split = folder.open_folder(root).splits["train"]
prepare = Preprocess(image_size=(64, 64))
cache._CHUNK_BYTES = 64 * 64 * 3
if what == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
elif what == "slow":
    read = split.read
    split.read = lambda indices: print("reading", flush=True) or time.sleep(0.3) or read(indices)
try:
    kept = cache.cached(split, prepare, (64, 64), "raw", threads=2)
except UserError as error:
    print(error)
    sys.exit(1)
print(int(feed.load_all(*kept, (64, 64)).astype(np.int64).sum()))
"""


def fill(root, what):
    return subprocess.Popen(
        [sys.executable, "-c", FILL, str(root), what],
        stdout=subprocess.PIPE, env=tiny.environment(), text=True,
    )  # fmt: skip


def test_a_full_disk_leaves_nothing(tmp_path, home):
    tiny.folder(tmp_path, "train", 23)
    process = fill(tmp_path, "full")
    assert "the cache cannot be used (File too large)" in process.communicate()[0]
    assert process.returncode == 1
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_one_that_was_stopped_is_not_believed_and_its_rest_goes(tmp_path, home, how):
    tiny.folder(tmp_path, "train", 9)
    process = fill(tmp_path, "slow")
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(how)
    process.communicate()
    assert process.returncode != 0
    left = [path.suffix for path in home.iterdir()]
    assert left == ([".part"] if how == signal.SIGKILL else [])
    split = folder.open_folder(tmp_path).splits["train"]
    prepare = Preprocess(image_size=(64, 64))
    found = feed.load_all(*cache.cached(split, prepare, (64, 64), "raw"), (64, 64))
    np.testing.assert_array_equal(found, feed.load_all(split, prepare, (64, 64)))
    assert [path.suffix for path in home.iterdir()] == [".raw"]


def test_two_processes_at_once_write_one_file(tmp_path, home):
    tiny.folder(tmp_path, "train", 5)
    processes = [fill(tmp_path, "slow") for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    # Five parts by one of them, or in turn; and each looks at some pictures, to name the file.
    # Threads print: a line of one may end after that of another.
    assert sum("".join(output).count("reading") for output in outputs) == 5 + 3
    assert len({output[-1] for output in outputs}) == 1
    assert [path.suffix for path in home.iterdir()] == [".raw"]


PEAK = """
import json, pathlib, resource, sys, time
import numpy as np
from imgclass.data import cache
from imgclass.data.folder import FileSplit
from imgclass.data.preprocess import Preprocess

root, files = pathlib.Path(sys.argv[1]), int(sys.argv[2])
split = FileSplit("train", root, [f"{i}.jpg" for i in range(files)], np.zeros(files, np.int32))
kept, _ = cache.cached(split, Preprocess(image_size=(256, 256)), (256, 256), "raw", threads=2)
for start in range(0, files, 20):
    kept.read(range(start, start + 20))
print(json.dumps([kept.bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def test_memory_does_not_grow_with_the_cache(tmp_path):
    # 38 and 188 MiB decoded.
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise.repeat(8, 0).repeat(8, 1)).save(tmp_path / "0.jpg", quality=70)
    for i in range(1, 1000):
        os.link(tmp_path / "0.jpg", tmp_path / f"{i}.jpg")
    (small_size, small), (large_size, large) = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", PEAK, str(tmp_path), str(files)],
                stdout=subprocess.PIPE, env=tiny.environment(), check=True,
            ).stdout
        )
        for files in (200, 1000)
    )  # fmt: skip
    assert (small_size // 2**20, large_size // 2**20) == (37, 187)
    assert large - small < 20, f"peak {small:.0f} MiB for 200 pictures, {large:.0f} for 1,000"


def test_other_pictures_under_the_same_fingerprint_have_a_file_of_their_own(tmp_path, home):
    # As two picture features of one tfds set have.
    splits = [a_split(tmp_path / name) for name in ("left", "right")]
    Image.new("RGB", (30, 30), "red").save(tmp_path / "right/train/class1/tall.jpg")
    for split in splits:
        split.__dict__["fingerprint"] = "the same"
        expected = feed.load_all(split, PREPARE, SIZE)
        got = feed.load_all(*cache.cached(split, PREPARE, SIZE, "raw"), SIZE)
        np.testing.assert_array_equal(got, expected)
    assert len(list(home.iterdir())) == 2


def test_any_bit_of_the_footer_counts(tmp_path, home):
    split = a_split(tmp_path)
    expected = feed.load_all(*cache.cached(split, PREPARE, SIZE, "raw"), SIZE)
    (path,) = home.iterdir()
    whole = path.read_bytes()
    for place in range(1, cache._FOOTER.size + 1):
        spoiled = bytearray(whole)
        spoiled[-place] ^= 4
        path.write_bytes(spoiled)
        np.testing.assert_array_equal(
            feed.load_all(*cache.cached(split, PREPARE, SIZE, "raw"), SIZE), expected
        )
        assert path.read_bytes() == whole
