"""Preprocessing: one road, the same after a round trip through JSON."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from imgclass import config
from imgclass.data import decode, preprocess
from imgclass.data.preprocess import Preprocess
from tests import tiny


def test_to_unit_divides_by_255():
    levels = np.arange(256, dtype=np.uint8)
    unit = np.asarray(jax.jit(preprocess.to_unit)(levels))
    # One unit in the last place of room: XLA may multiply by the reciprocal.
    np.testing.assert_allclose(unit, np.arange(256) / 255, rtol=1.2e-7)
    assert (unit.dtype, unit[0], unit[255]) == (np.float32, 0.0, 1.0)


def test_standardize_by_hand():
    prepare = Preprocess(image_size=(1, 2), mean=(0.5, 0.25, 0.0), std=(0.25, 0.5, 2.0))
    x = np.array([[[[1.0, 0.25, 0.5], [0.0, 1.0, 1.0]]]], np.float32)
    expected = [[[[2.0, 0.0, 0.25], [-2.0, 1.5, 0.5]]]]
    np.testing.assert_array_equal(prepare.standardize(x), np.array(expected, np.float32))


def test_one_mean_serves_all_channels_and_none_changes_nothing():
    x = np.ones((1, 1, 1, 3), np.float32)
    one = Preprocess(image_size=(1, 1), mean=(0.5,), std=(0.25,)).standardize(x)
    np.testing.assert_array_equal(one, 2 * x)
    assert Preprocess(image_size=(1, 1)).standardize(x) is x


def test_bytes_and_arrays_take_the_same_road():
    image, _ = tiny.pictures(1, 12)
    prepare = Preprocess(image_size=(5, 7), interpolation="bicubic")
    from_array = prepare.load(image[0])
    np.testing.assert_array_equal(from_array, prepare.load(tiny.png(image[0])))
    assert (from_array.shape, from_array.dtype) == ((5, 7, 3), np.uint8)
    expected = Image.fromarray(image[0]).resize((7, 5), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(from_array, np.asarray(expected))
    assert prepare.load(image[0], (3, 4)).shape == (3, 4, 3)


def test_gray_arrays_are_repeated_and_colour_arrays_weighed():
    gray = np.array([[0, 100], [200, 255]], np.uint8)
    three = Preprocess(image_size=(2, 2)).load(gray)
    assert three[0, 1].tolist() == [100, 100, 100]
    np.testing.assert_array_equal(three, Preprocess(image_size=(2, 2)).load(gray[:, :, None]))
    colour = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    one = Preprocess(image_size=(2, 2), channels=1).load(colour)
    # ITU-R 601: 0.299 * 255 = 76.2, 0.587 * 255 = 149.7, 0.114 * 255 = 29.1.
    assert one[:, :, 0].tolist() == [[76, 150], [29, 255]]


def test_what_is_no_picture_is_refused_in_one_way():
    with pytest.raises(decode.BadImage):
        Preprocess(image_size=(2, 2)).load(b"not a picture")
    big = tiny.png(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(decode.BadImage):
        Preprocess(image_size=(2, 2), max_pixels=1599).load(big)
    assert Preprocess(image_size=(2, 2), max_pixels=1600).load(big).shape == (2, 2, 3)


def test_json_round_trip_is_exact():
    prepare = Preprocess(
        image_size=(7, 5), channels=1, resize="crop", crop_fraction=0.875, interpolation="lanczos",
        pad_value=9, max_pixels=1000, mean=(0.1 + 0.2,), std=(1 / 3,),
    )  # fmt: skip
    assert Preprocess.from_json(json.loads(json.dumps(prepare.to_json()))) == prepare


def test_a_config_gives_every_field():
    data = config.defaults().data
    data.update(ConfigDict({"image_size": (9, 8), "resize": "pad", "pad_value": 3, "channels": 1}))
    data.update(ConfigDict({"mean": (0.5,), "std": (0.2,)}))
    assert preprocess.from_config(data).mean == ()
    data.standardize = "given"
    prepare = preprocess.from_config(data)
    assert prepare == Preprocess(
        image_size=(9, 8), channels=1, resize="pad", pad_value=3, mean=(0.5,), std=(0.2,)
    )
