"""Colours over pictures, and where a map lies on a picture that was cropped or padded."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from imgclass.data.preprocess import Preprocess
from imgclass.explain import overlay
from imgclass.explain.faithful import Deletion


def test_blend_leaves_what_has_no_evidence_and_colours_what_has():
    picture = np.full((2, 2, 3), 100, np.uint8)
    found = overlay.blend(picture, np.array([[0, 1], [0, 0.5]], np.float32))
    assert (found.shape, found.dtype) == ((2, 2, 3), np.uint8)
    np.testing.assert_array_equal(found[:, 0], 100)
    top = 255 * np.array(matplotlib.colormaps["inferno"](1.0)[:3])
    np.testing.assert_allclose(found[0, 1], 0.25 * 100 + 0.75 * top, atol=1)
    with pytest.raises(ValueError, match="not of one size"):
        overlay.blend(picture, np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (64, 64), (33, 200)])
@pytest.mark.parametrize(
    "how",
    [
        {"resize": "stretch"},
        {"resize": "crop"},
        {"resize": "crop", "crop_fraction": 0.75},
        {"resize": "pad"},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_what_lies_at_a_point_of_the_input_is_placed_there_on_the_picture(size, how):
    """A bright patch in the picture, found in the input, comes back to where it was."""
    prepare = Preprocess(image_size=(32, 48), channels=1, **how)
    height, width = size
    picture = np.zeros((height, width), np.uint8)
    top, left = height // 2 - height // 8, width // 2
    picture[top : top + height // 8, left : left + width // 8] = 255
    seen = prepare.load(picture)[:, :, 0].astype(np.float32) / 255
    back = overlay.place(seen, prepare, size)
    assert back.shape == size

    def centre(values):
        return np.array([(values * axis).sum() for axis in np.indices(size)]) / values.sum()

    step = max(height / 32, width / 48)  # a pixel of the input, at most
    np.testing.assert_allclose(centre(back), centre(picture.astype(float)), atol=0.75 * step)


def test_a_cropped_map_covers_the_middle_only():
    # 60x100 to a square: of 100 columns the middle 60 are seen.
    prepare = Preprocess(image_size=(30, 30), resize="crop")
    back = overlay.place(np.ones((30, 30), np.float32), prepare, (60, 100))
    np.testing.assert_array_equal(back[:, 20:80], 1)
    np.testing.assert_array_equal(back[:, :20], 0)
    np.testing.assert_array_equal(back[:, 80:], 0)
    # With a fraction of 0.5, the middle quarter of that square.
    half = Preprocess(image_size=(30, 30), resize="crop", crop_fraction=0.5)
    back = overlay.place(np.ones((30, 30), np.float32), half, (60, 100))
    assert back.sum() == 30 * 30
    np.testing.assert_array_equal(back[15:45, 35:65], 1)


def test_the_empty_border_of_a_padded_input_is_not_placed():
    # 20x40 in a square of 40: rows 10 to 29 of the input. Evidence above them is on no pixel.
    prepare = Preprocess(image_size=(40, 40), resize="pad")
    values = np.zeros((40, 40), np.float32)
    values[:10] = 1
    assert overlay.place(values, prepare, (20, 40)).max() == 0
    values[10:30] = 0.5
    np.testing.assert_allclose(overlay.place(values, prepare, (20, 40)), 0.5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (30, 50, 3), (1500, 900, 3), (1, 3000, 3)])
def test_figure_is_a_png_for_any_picture(shape):
    curve = np.linspace(1, 0, 5)
    prepare = Preprocess(image_size=(16, 16), resize="crop")
    png = overlay.figure(
        np.full(shape, 200, np.uint8),
        np.eye(16, dtype=np.float32),
        prepare,
        Deletion(np.linspace(0, 1, 5), curve, curve),
        "a class with $ and a stray \udcff byte 93%",
    )
    image = Image.open(io.BytesIO(png))
    image.load()
    assert (image.format, image.size) == ("PNG", (1200, 400))
