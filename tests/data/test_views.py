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
    assert sum(weight for weight, _ in views.views(jnp.asarray(IMAGE), how)) == 1.0


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
