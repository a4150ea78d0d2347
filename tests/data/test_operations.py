"""Each operation of a policy against Pillow's, level by level."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from imgclass.data import operations

FILL = jnp.array([124.0, 116.0, 104.0], jnp.float32)


@functools.cache
def program(interpolation, channels):
    run = functools.partial(operations.operate, fill=FILL[:channels], interpolation=interpolation)
    return jax.jit(run)


def operated(pixels, name, amount=0.0, interpolation="nearest"):
    run = program(interpolation, pixels.shape[2])
    number = jnp.int32(operations.NUMBER[name])
    return np.asarray(run(jnp.asarray(pixels, jnp.float32), number, jnp.float32(amount)))


def noise(channels=3):
    return np.random.default_rng(0).integers(0, 256, (24, 30, channels), dtype=np.uint8)


def smooth():
    """Few levels, none below 20 or above 230, other ones in each channel."""
    y, x = np.mgrid[:24, :30]
    waves = [60 + 40 * np.sin(x / 4), 128 + 90 * np.sin((x + y) / 7), 90 + 3.5 * x]
    return np.clip(np.stack(waves, axis=2), 20, 230).astype(np.uint8)


def flat():
    return np.full((24, 30, 3), 77, np.uint8)


PICTURES = [noise, smooth, flat]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("picture", PICTURES)
def test_identity_changes_no_bit(picture, interpolation):
    for amount in (0.0, 5.0):
        got = operated(picture(), "identity", amount, interpolation)
        np.testing.assert_array_equal(got, picture())


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_blends_are_pillows(name, theirs, picture):
    for factor in (0.0, 0.1, 0.37, 1.0, 1.63, 1.99):
        expected = np.asarray(theirs(Image.fromarray(picture())).enhance(factor), np.int64)
        off = np.abs(operated(picture(), name, factor) - expected)
        # A value that is whole but for rounding may be cut to one level or the next.
        assert off.max() <= 1
        assert (off > 0).mean() < 0.001


@pytest.mark.parametrize("picture", PICTURES)
def test_tables_are_pillows(picture):
    image = Image.fromarray(picture())
    cases = [
        *(("posterize", bits, ImageOps.posterize(image, bits)) for bits in (8, 7, 4, 1)),
        *(("solarize", t, ImageOps.solarize(image, t)) for t in (256, 255, 128, 43.5, 0)),
        ("invert", 0, ImageOps.invert(image)),
        ("equalize", 0, ImageOps.equalize(image)),
    ]
    for name, amount, expected in cases:
        np.testing.assert_array_equal(operated(picture(), name, amount), expected, str(name))


def test_no_bits_are_black_and_solarize_add_raises_the_dark_half():
    # As timm's: min(255, level + amount) below 128.
    assert (operated(noise(), "posterize", 0.0) == 0).all()
    levels = noise().astype(np.int64)
    expected = np.where(levels < 128, np.minimum(255, levels + 110), levels)
    np.testing.assert_array_equal(operated(noise(), "solarize_add", 110.0), expected)


@pytest.mark.parametrize("picture", PICTURES)
def test_autocontrast_is_pillows(picture):
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(picture())), np.int64)
    off = operated(picture(), "autocontrast") - expected
    # Pillow's scale is rounded, so that it is a level lower where the product is whole: 0.4% of
    # all (least, greatest, level).
    assert off.min() >= 0
    assert off.max() <= 1
    assert (off > 0).mean() < 0.1


def test_equalize_of_a_skewed_channel_is_cut_at_white():
    # 640 pixels at 5 and 80 at 200: a step is (720 - 80) // 255 = 2; level 200 becomes
    # (2 // 2 + 640) // 2 = 320, past white.
    pixels = np.full((24, 30, 1), 5, np.uint8)
    pixels.reshape(-1)[:80] = 200
    got = operated(pixels, "equalize")
    expected = np.asarray(ImageOps.equalize(Image.fromarray(pixels[..., 0])))
    np.testing.assert_array_equal(got[..., 0], expected)
    assert set(np.unique(got)) == {0.0, 255.0}


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_warps_are_reached_by_name(interpolation):
    # What a warp does is shown in test_warp.py; a whole shift is exact either way.
    for name, axis in (("shift_x", 1), ("shift_y", 0)):
        got = operated(noise(), name, 4.0, interpolation)
        expected = np.roll(noise(), 4, axis).astype(np.float32)
        expected[(slice(None),) * axis + (slice(4),)] = np.asarray(FILL)
        np.testing.assert_array_equal(got, expected)
    how = Image.Resampling[interpolation.upper()]
    image = Image.fromarray(noise())
    fill = tuple(int(v) for v in FILL)
    for name, matrix in (("shear_x", (1, 0.23, 0, 0, 1, 0)), ("shear_y", (1, 0, 0, 0.23, 1, 0))):
        expected = image.transform(image.size, Image.Transform.AFFINE, matrix, how, fillcolor=fill)
        off = np.abs(operated(noise(), name, 0.23, interpolation) - np.asarray(expected))
        assert (off > 1).mean() < 0.002
    turned = image.rotate(33, how, fillcolor=fill)
    off = np.abs(operated(noise(), "rotate", 33.0, interpolation) - np.asarray(turned))
    assert (off > 1).mean() < 0.002


@pytest.mark.parametrize("name", operations.NAMES)
def test_grey_pictures_are_pillows_mode_l(name):
    got = operated(noise(1), name, 0.0)
    assert got.shape == (24, 30, 1)
    image = Image.fromarray(noise(1)[..., 0])
    theirs = {
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(0.0),
        "saturation": lambda: ImageEnhance.Color(image).enhance(0.0),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(0.0),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }
    if name in theirs:
        np.testing.assert_array_equal(got[..., 0], np.asarray(theirs[name]()))


def test_every_operation_gives_whole_levels_and_a_row_depends_on_itself():
    names = list(itertools.islice(itertools.cycle(operations.NAMES), 32))
    numbers = jnp.array([operations.NUMBER[name] for name in names], jnp.int32)
    amounts = jnp.asarray(np.arange(32) % 3, jnp.float32)
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (32, 24, 30, 3)), jnp.float32)
    got = jax.jit(jax.vmap(lambda i, n, a: operations.operate(i, n, a, FILL, "bilinear")))(
        images, numbers, amounts
    )
    assert (got == jnp.round(got)).all()
    assert float(got.min()) >= 0
    assert float(got.max()) <= 255
    for row in (1, 8, 14):
        alone = operated(np.asarray(images[row]), names[row], amounts[row], "bilinear")
        # Another program rounds before it cuts to whole levels: few values differ, by one.
        off = np.abs(got[row] - alone)
        assert off.max() <= 1
        assert (off > 0).mean() < 0.01
