"""Pictures that attack, and pictures that lie on their side: memory bounded, one policy for all."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from imgclass import train
from imgclass.data import decode, load
from imgclass.data.dataset import open_dataset
from imgclass.evaluate import predict, restore
from tests import tiny
from tests.faults import attacks
from tests.faults.places import python

LIMIT = 6_000_000  # data.max_pixels of these tests

MEMORY = """
import json, resource, sys, time
from imgclass.data import decode
from imgclass.data.preprocess import Preprocess
from tests.faults import attacks

name, pixels, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = attacks.MAKERS[name](pixels)
prepare = Preprocess(image_size=(64, 64), max_pixels=limit)
small = attacks.png(8, 8)
prepare.load(small)

# The peak so far is that of making the file: forgotten, it starts anew from what is in use.
open("/proc/self/clear_refs", "w").write("5")
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

before, start = peak(), time.perf_counter()
try:
    outcome = list(prepare.load(data).shape)
except decode.BadImage as error:
    outcome = str(error)
print(json.dumps([outcome, peak() - before, time.perf_counter() - start, len(data)]))
"""

# What decoding may take for each pixel: 4 bytes as Pillow keeps RGB and RGBA, twice where
# transparency is laid over white, and 3 for the array that comes out; the most is that of a picture
# of one column, for Pillow keeps 8 bytes more a row. Measured: 10 to 12, and 21.
BYTES_A_PIXEL, BYTES = 24, 20_000_000


def measure(name, pixels):
    done = python(MEMORY, name, pixels, LIMIT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", attacks.MAKERS)
def test_memory_of_the_largest_picture_allowed(name):
    outcome, memory, seconds, size = measure(name, LIMIT)
    assert size < 400_000
    assert outcome == [64, 64, 3] or isinstance(outcome, str)
    assert memory < BYTES_A_PIXEL * LIMIT + BYTES, (outcome, memory)
    assert seconds < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", attacks.MAKERS)
def test_memory_of_a_picture_that_is_too_large(name):
    """Eleven times the limit; refused before there are pixels, so none of it counts."""
    outcome, memory, seconds, _ = measure(name, 11 * LIMIT)
    assert isinstance(outcome, str)
    assert memory < BYTES, (outcome, memory)
    assert seconds < 5


@pytest.mark.parametrize("name", attacks.MAKERS)
def test_no_picture_comes_out_larger_than_allowed(name):
    with pytest.raises(
        decode.BadImage, match=r"pixels, more than data\.max_pixels=300000$|corrupt|trunc"
    ):
        decode.decode(attacks.MAKERS[name](500_000), max_pixels=300_000)


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_of_a_hundred_thousand_pixels_is_a_picture(turned):
    sides = (1, 100_000) if turned else (100_000, 1)
    assert decode.decode(attacks.png(*sides, 8)).shape == (sides[1], sides[0], 3)


def turned(pixels, orientation):
    """Returns a PNG that stores `pixels` as a camera of that orientation would, and says so."""
    back = {
        1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud,
        5: lambda p: np.transpose(p, (1, 0, 2)), 6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(np.fliplr(p), -1), 8: lambda p: np.rot90(p, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(back(pixels))).save(file, "png", exif=exif.tobytes())
    return file.getvalue()


def test_every_orientation_is_one_picture_in_training_evaluation_and_prediction(tmp_path):
    root = tmp_path / "pictures"
    pixels = tiny.pictures(2, size=8, seed=3)[0]
    for split in ("train", "validation"):
        for label in (0, 1):
            for orientation in range(1, 9):
                path = root / split / f"class{label}" / f"{orientation}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(turned(pixels[label], orientation))
    config = tiny.config(
        root, {"data.test_split": "", "train.total_steps": 1, "data.feed": "stream"}
    )
    train.train_and_evaluate(config, tmp_path / "run")
    found = restore.restore(tmp_path / "run")
    data = open_dataset(found.task.config)
    for role in ("train", "validation"):
        got = load.examples(data.splits[role], range(16), data.prepare, (8, 8))
        for row, label in zip(got, data.splits[role].labels, strict=True):
            np.testing.assert_array_equal(row, pixels[label])
    paths = [str(root / f"train/class1/{orientation}.png") for orientation in range(1, 9)]
    outcomes = [p.probabilities for p in predict.predict(found, paths)]
    for outcome in outcomes[1:]:
        np.testing.assert_array_equal(outcome, outcomes[0])
