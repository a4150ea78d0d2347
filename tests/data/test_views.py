import jax.numpy as jnp
import numpy as np
import pytest

from imgclass.data import views
from imgclass.schema.running import VIEWS

IMAGE = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)


def moved(down, right):
    """The pictures moved by a pixel or none, borders reflected, by a loop."""
    out = np.empty_like(IMAGE)
    for i in range(4):
        for j in range(4):
            out[:, i, j] = IMAGE[:, reflected(i - down), reflected(j - right)]
    return out


def reflected(place):
    return {-1: 1, 4: 2}.get(place, place)


@pytest.mark.parametrize("how", VIEWS)
def test_weights_add_up_to_one(how):
    total = sum(weight for weight, _ in views.views(jnp.asarray(IMAGE), how))
    assert total == pytest.approx(1.0, rel=1e-12)  # ten tenths fall short by a bit


def test_none_is_the_picture_itself():
    [(weight, image)] = views.views(jnp.asarray(IMAGE), "none")
    assert weight == 1.0
    np.testing.assert_array_equal(image, IMAGE)


def test_flip_adds_the_mirror_image():
    (_, first), (_, second) = views.views(jnp.asarray(IMAGE), "flip")
    np.testing.assert_array_equal(first, IMAGE)
    np.testing.assert_array_equal(second, IMAGE[:, :, ::-1])


def test_flip_shift_weighs_six_views():
    found = views.views(jnp.asarray(IMAGE), "flip_shift")
    expected = []
    for weight, image in ((0.25, IMAGE), (0.125, moved(-1, -1)), (0.125, moved(1, 1))):
        expected += [(weight, image), (weight, image[:, :, ::-1])]
    for (weight, view), (its_weight, its_view) in zip(found, expected, strict=True):
        assert weight == its_weight
        np.testing.assert_array_equal(view, its_view)


def ramps(size=16):
    """A picture whose channels are its own row and column, from 0 to size - 1."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    return np.stack([rows, columns], axis=2)[None]


def test_five_crops_are_the_corners_and_the_middle_widened():
    # Of 16 pixels a crop keeps 14. Widened, pixel i shows place (i + 0.5) * 14 / 16 - 0.5 of it:
    # the middle two of a crop from 0 show 6.0625 and 6.9375.
    found = views.views(jnp.asarray(ramps()), "five_crop")
    assert [weight for weight, _ in found] == [0.2] * 5
    starts = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    for (_, view), (top, left) in zip(found, starts, strict=True):
        assert view.shape == (1, 16, 16, 2)
        np.testing.assert_allclose(view[0, 7:9, 5, 0], [top + 6.0625, top + 6.9375], rtol=1e-5)
        np.testing.assert_allclose(view[0, 3, 7:9, 1], [left + 6.0625, left + 6.9375], rtol=1e-5)


def test_ten_crops_are_the_five_and_their_mirror_images():
    picture = jnp.asarray(ramps())
    five, ten = views.views(picture, "five_crop"), views.views(picture, "ten_crop")
    assert [weight for weight, _ in ten] == [0.1] * 10
    for i, (_, crop) in enumerate(five):
        np.testing.assert_array_equal(ten[2 * i][1], crop)
        np.testing.assert_array_equal(ten[2 * i + 1][1], np.asarray(crop)[:, :, ::-1])


@pytest.mark.parametrize("how", ["five_crop", "ten_crop"])
def test_crops_of_a_series_keep_its_one_row(how):
    row = jnp.arange(8, dtype=jnp.float32)[None, None, :, None]
    for _, view in views.views(row, how):
        assert view.shape == (1, 1, 8, 1)
