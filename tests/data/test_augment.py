"""Augmentation against hand numbers, NumPy loops, Pillow and colorsys."""

import colorsys
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance

from imgclass import config
from imgclass.data import augment, colour
from imgclass.errors import UsageError

EVERYTHING = {
    "flip": True,
    "random_resized_crop": True,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "cutout": 5,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
}


def section(**changes):
    cfg = config.defaults().augment
    cfg.update(changes)
    return cfg


def pictures(n, h=8, w=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=(n, h, w, channels)), jnp.float32)


def one_hot(n, classes=4):
    return jax.nn.one_hot(jnp.arange(n) % classes, classes, dtype=jnp.float32)


def row_keys(n, seed=1):
    return jax.random.split(jax.random.key(seed), n)


def function(changes, out_size=(8, 8), channels=3):
    fill = jnp.asarray(np.linspace(0.25, 0.75, channels), jnp.float32)
    return functools.partial(augment.augment, cfg=section(**changes), out_size=out_size, fill=fill)


@functools.cache
def compiled(changes, out_size, channels):
    return jax.jit(function(dict(changes), out_size, channels))


def run(images, changes, out_size=(8, 8), targets=None, keys=None):
    n = images.shape[0]
    targets = one_hot(n) if targets is None else targets
    keys = row_keys(n) if keys is None else keys
    program = compiled(tuple(changes.items()), out_size, images.shape[3])
    return program(images, targets, keys, jax.random.key(2))


# --- The whole ---


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_off_changes_no_bit(channels):
    images, targets = pictures(4, channels=channels), one_hot(4)
    got, got_targets = run(images, {}, targets=targets)
    np.testing.assert_array_equal(got, images)
    np.testing.assert_array_equal(got_targets, targets)


def test_what_is_off_is_not_compiled():
    arguments = (pictures(2), one_hot(2), row_keys(2), jax.random.key(2))

    def program(changes):
        return str(jax.make_jaxpr(function(changes))(*arguments))

    assert "random" not in program({})
    assert "random" in program({"flip": True})
    assert "dot_general" in program({"random_resized_crop": True})
    assert "dot_general" not in program({"flip": True, "brightness": 0.1, "cutmix_alpha": 1.0})


def test_everything_on_stays_in_range_and_treats_rows_differently():
    images = jnp.round(pictures(16)[:1]) * jnp.ones((16, 1, 1, 1))  # the extremes, 0 and 1
    got, targets = run(images, EVERYTHING)
    assert got.shape == (16, 8, 8, 3)
    assert float(got.min()) >= 0.0
    assert float(got.max()) <= 1.0
    assert len({row.tobytes() for row in np.asarray(got)}) == 16
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)


def on_one_and_on_eight_devices(program, n=16):
    arguments = (pictures(n), one_hot(n), row_keys(n), jax.random.key(2))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    spread = [jax.device_put(x, s) for x, s in zip(arguments, (rows,) * 3 + (whole,), strict=True)]
    return program(*arguments), program(*spread)


def test_eight_devices_choose_the_same_pixels_bit_for_bit():
    chosen = function({"pad_crop": 2, "flip": True, "cutout": 5})

    def pasted(*arguments):
        share, centre = jnp.float32(0.6), jnp.array([3, 6], jnp.int32)
        return augment.cutmix(*chosen(*arguments), share, centre)

    one, eight = on_one_and_on_eight_devices(jax.jit(pasted))
    np.testing.assert_array_equal(one[0], eight[0])
    np.testing.assert_array_equal(one[1], eight[1])


def test_eight_devices_agree_to_rounding_on_blended_values():
    # The two programs are fused differently: 7e-7 was seen, and another draw is off by 0.1.
    one, eight = on_one_and_on_eight_devices(compiled(tuple(EVERYTHING.items()), (8, 8), 3))
    np.testing.assert_allclose(one[0], eight[0], rtol=0, atol=3e-6)
    np.testing.assert_allclose(one[1], eight[1], rtol=0, atol=1e-6)


def test_a_row_does_not_depend_on_the_others():
    changes = EVERYTHING | {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    images, keys, chosen = pictures(16), row_keys(16), jnp.array([11, 3, 0])
    whole, _ = run(images, changes, keys=keys)
    # Other neighbours, even broken ones, in the same program: not a bit changes.
    keep = jnp.zeros(16, bool).at[chosen].set(True)
    others = jnp.where(keep[:, None, None, None], images, jnp.nan)
    got, _ = run(others, changes, keys=jnp.where(keep, keys, row_keys(16, seed=9)))
    np.testing.assert_array_equal(got[chosen], whole[chosen])


def test_switching_one_operation_on_leaves_the_draws_of_another():
    images = pictures(32)
    plain, _ = run(images, {"pad_crop": 2})
    flipped, _ = run(images, {"pad_crop": 2, "flip": True})
    same = (flipped == plain).all(axis=(1, 2, 3))
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_grey_pictures_work_and_have_no_hue_or_saturation():
    got, _ = run(pictures(4, channels=1), {"pad_crop": 1, "contrast": 0.5, "cutout": 3})
    assert got.shape == (4, 8, 8, 1)
    assert jnp.isfinite(got).all()
    images = pictures(4, channels=1)
    only_colour, _ = run(images, {"hue": 0.5, "saturation": 1.0})
    np.testing.assert_array_equal(only_colour, images)


# --- Crops and flips ---


def test_center_crop_by_hand():
    image = jnp.arange(30.0).reshape(5, 6, 1)
    np.testing.assert_array_equal(
        augment.center_crop(image, (3, 2))[..., 0], [[8, 9], [14, 15], [20, 21]]
    )
    # An odd spare row stays below: rows 0 to 3 of 5.
    np.testing.assert_array_equal(augment.center_crop(image, (4, 6)), image[:4])


def test_a_larger_load_size_is_cropped_to_its_centre():
    images = pictures(2, 10, 12)
    got, _ = run(images, {}, out_size=(8, 8))
    np.testing.assert_array_equal(got, images[:, 1:9, 2:10])


@functools.cache
def many_keys():
    return row_keys(2000, seed=3)


def every(function):
    """Applies a function of a key to 2000 keys, as one array."""
    return np.asarray(jax.jit(jax.vmap(function))(many_keys()))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_pad_crop_gives_every_window_and_no_other(mode):
    image = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3, 1) / 10
    if mode == "constant":
        padded = np.zeros((5, 5, 1), np.float32)
        padded[1:4, 1:4] = image
    else:
        # Row 0 is the picture's second row, and so on: 5 4 5 6 5 / 2 1 2 3 2 / ...
        padded = image[[1, 0, 1, 2, 1]][:, [1, 0, 1, 2, 1]]
    windows = [padded[t : t + 3, x : x + 3] for t, x in itertools.product(range(3), range(3))]
    got = every(lambda k: augment.pad_crop(jnp.asarray(image), k, 1, mode, (3, 3)))
    counts = [int((got == window).all(axis=(1, 2, 3)).sum()) for window in windows]
    assert sum(counts) == 2000
    # 222 expected, standard deviation 14: within 4 of them.
    assert min(counts) > 166
    assert max(counts) < 278


def test_pad_crop_pads_with_black():
    image = jnp.ones((1, 1, 3), jnp.float32)
    got = augment.pad_crop(image, jax.random.key(0), 1, "constant", (3, 3))
    expected = np.zeros((3, 3, 3), np.float32)
    expected[1, 1] = 1.0
    np.testing.assert_array_equal(got, expected)


def test_flip_mirrors_exactly_and_half_of_the_time():
    image = pictures(1)[0]
    got = every(lambda key: augment.random_flip(image, key))
    same = (got == np.asarray(image)).all(axis=(1, 2, 3))
    mirrored = (got == np.asarray(image)[:, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 910 < mirrored.sum() < 1090  # 1000, 4 standard deviations of 22.4


@pytest.mark.parametrize(
    ("changes", "out_size", "message"),
    [
        ({}, (9, 8), r"data\.image_size is 9x8 but the picture to crop it from is 8x8"),
        ({"pad_crop": 1}, (8, 11), r"data\.image_size is 8x11 .* is 10x10"),
    ],
)
def test_impossible_crops_are_refused(changes, out_size, message):
    with pytest.raises(UsageError, match=message):
        run(pictures(2), changes, out_size=out_size)


# --- Random resized crop ---


def test_resized_crop_of_the_whole_picture_is_the_picture():
    images = pictures(4, 9, 9)
    changes = {"random_resized_crop": True, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    got, _ = run(images, changes, out_size=(9, 9))
    np.testing.assert_allclose(got, images, atol=1e-6)


def boxes(size, scale, ratio):
    got = every(lambda key: augment.draw_box(key, size, scale, ratio))
    top, left, height, width = got.T.astype(np.float64)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size[0] * (1 + 1e-6)).all()
    assert (left + width <= size[1] * (1 + 1e-6)).all()
    return top, left, height, width


def test_box_area_is_uniform_and_ratio_log_uniform():
    # At most 0.3 of the area and twice as wide as high, a box always fits in 40 x 40.
    top, left, height, width = boxes((40, 40), (0.1, 0.3), (0.5, 2.0))
    share = height * width / 1600
    place = np.log(width / height) / math.log(2)
    for values, low, high in ((share, 0.1, 0.3), (place, -1, 1), (top / (40 - height), 0, 1)):
        assert values.min() >= low - 1e-5
        assert values.max() <= high + 1e-5
        quarters, _ = np.histogram(values, bins=4, range=(low - 1e-5, high + 1e-5))
        # 500 each, standard deviation 19.4.
        assert np.abs(quarters - 500).max() < 80
    assert abs(np.corrcoef(top / (40 - height), left / (40 - width))[0, 1]) < 0.09


def test_a_box_that_does_not_fit_is_shrunk_at_its_ratio():
    # The whole area of 10 x 40 as a square would be 20 x 20: it becomes 10 x 10.
    top, left, height, width = boxes((10, 40), (1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(height, 10, rtol=1e-6)
    np.testing.assert_allclose(width, 10, rtol=1e-6)
    assert np.abs(top).max() < 1e-5
    assert left.min() < 3
    assert left.max() > 27


resample = jax.jit(augment.resample, static_argnums=2)


def bilinear_loop(image, box, out_size):
    """Triangle filter, widened where it shrinks; each output pixel's weights add to 1."""
    (top, left, height, width), (h, w) = box, image.shape[:2]
    out = np.zeros((*out_size, image.shape[2]))
    step_y, step_x = height / out_size[0], width / out_size[1]
    for i, j in np.ndindex(*out_size):
        centre_y, centre_x = top + (i + 0.5) * step_y, left + (j + 0.5) * step_x
        total = 0.0
        for y, x in np.ndindex(h, w):
            weight = max(0.0, 1 - abs(y + 0.5 - centre_y) / max(step_y, 1.0))
            weight *= max(0.0, 1 - abs(x + 0.5 - centre_x) / max(step_x, 1.0))
            out[i, j] += weight * image[y, x]
            total += weight
        out[i, j] /= total
    return out


@pytest.mark.parametrize(
    "box",
    [(0, 0, 7, 9), (1, 2, 4, 4), (0.3, 1.7, 2.5, 6.2), (4.5, 6, 2.5, 3)],
    ids=["whole", "equal size", "up and down", "corner"],
)
def test_resample_is_a_bilinear_loop(box):
    image = pictures(1, 7, 9)[0]
    got = resample(image, jnp.array(box, jnp.float32), (4, 4))
    np.testing.assert_allclose(got, bilinear_loop(np.asarray(image), box, (4, 4)), atol=2e-6)


def test_resample_of_a_whole_pixel_box_of_equal_size_is_a_slice():
    image = pictures(1, 7, 9)[0]
    got = resample(image, jnp.array([1.0, 2.0, 4.0, 4.0], jnp.float32), (4, 4))
    np.testing.assert_allclose(got, image[1:5, 2:6], atol=1e-6)


# --- Colour ---

FACTORS = [0.0, 0.4, 1.0, 1.7]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (colour.adjust_brightness, ImageEnhance.Brightness),
        (colour.adjust_contrast, ImageEnhance.Contrast),
        (colour.adjust_saturation, ImageEnhance.Color),
    ],
)
def test_colour_is_pillows(ours, theirs, factor):
    pixels = np.random.default_rng(4).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = np.asarray(theirs(Image.fromarray(pixels)).enhance(factor), np.float64)
    got = ours(jnp.asarray(pixels, jnp.float32) / 255.0, jnp.float32(factor))
    # Pillow rounds the grey level (by 0.5, times |1 - factor| <= 1) and cuts the result to whole
    # levels (by up to 1).
    assert np.abs(np.asarray(got) * 255 - expected).max() <= 1.5 + 1e-3


def test_colour_by_hand():
    # Luma of (1, 0, 0) is 0.299 and of (0, 1, 0) is 0.587; their mean is 0.443.
    image = jnp.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], jnp.float32)
    half = jnp.float32(0.5)
    np.testing.assert_allclose(colour.adjust_brightness(image, half), image / 2, rtol=1e-6)
    np.testing.assert_allclose(
        colour.adjust_contrast(image, half),
        [[[0.7215, 0.2215, 0.2215], [0.2215, 0.7215, 0.2215]]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        colour.adjust_saturation(image, half),
        [[[0.6495, 0.1495, 0.1495], [0.2935, 0.7935, 0.2935]]],
        rtol=1e-6,
    )
    grey = jnp.array([[[0.2], [0.6]]], jnp.float32)
    np.testing.assert_allclose(colour.adjust_contrast(grey, half)[0, :, 0], [0.3, 0.5], rtol=1e-6)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 1 / 3, 0.5])
def test_hue_is_colorsys(turn):
    corners = np.array(list(itertools.product([0, 0.5, 1], repeat=3)))  # greys and ties too
    random = np.random.default_rng(5).uniform(size=(100, 3))
    colours = np.concatenate([corners, random])
    expected = []
    for rgb in colours:
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        expected.append(colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value))
    got = colour.adjust_hue(jnp.asarray(colours[None], jnp.float32), jnp.float32(turn))
    np.testing.assert_allclose(got[0], expected, atol=2e-6)


@pytest.mark.parametrize(("amount", "low", "high"), [(0.3, 0.7, 1.3), (1.0, 0.0, 2.0)])
def test_factors_are_uniform_about_one(amount, low, high):
    got = every(lambda key: colour.draw_factor(key, amount))
    assert low <= got.min() < low + 0.02
    assert high - 0.02 < got.max() <= high
    assert abs(got.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * 2000)


# --- Cutout and mixing ---


@functools.cache
def cutouts():
    """Cuts a side out of a 4 x 5 picture, for 2000 keys; one program for every side."""
    image, fill = jnp.zeros((4, 5, 1), jnp.float32), jnp.ones(1, jnp.float32)
    one = jax.vmap(lambda key, side: augment.cutout(image, key, side, fill), (0, None))
    return jax.jit(functools.partial(one, many_keys()))


@pytest.mark.parametrize("side", [1, 2, 3, 20])
def test_cutout_is_a_clipped_square_about_any_pixel(side):
    h, w = 4, 5
    got = np.asarray(cutouts()(jnp.int32(side)))[..., 0]
    expected = set()
    for y, x in np.ndindex(h, w):
        square = np.zeros((h, w), np.float32)
        top, left = y - side // 2, x - side // 2
        square[max(top, 0) : top + side, max(left, 0) : left + side] = 1
        expected.add(square.tobytes())
    assert {one.tobytes() for one in got} == expected


def test_cutout_fills_with_the_colour_given():
    fill = jnp.array([0.1, 0.2, 0.3], jnp.float32)
    got = augment.cutout(jnp.ones((4, 4, 3), jnp.float32), jax.random.key(0), 9, fill)
    np.testing.assert_array_equal(got, np.broadcast_to(np.asarray(fill), (4, 4, 3)))


def test_mixup_by_hand():
    images = jnp.array([0.0, 0.4, 1.0], jnp.float32)[:, None, None, None]
    targets = one_hot(3, 3)
    mixed, soft = augment.mixup(images, targets, jnp.float32(0.75))
    np.testing.assert_allclose(mixed[:, 0, 0, 0], [0.25, 0.4, 0.75], rtol=1e-6)
    np.testing.assert_array_equal(soft, [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]])


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [((4, 4), (2, 6), (2, 6)), ((0, 0), (0, 2), (0, 2)), ((7, 3), (5, 8), (1, 5))],
)
def test_cutmix_by_hand(centre, rows, columns):
    # sqrt(1 - 0.75) of 8 is 4: a window of 4 x 4 from centre - 2, clipped.
    images = pictures(4)
    targets = one_hot(4)
    mixed, soft = augment.cutmix(images, targets, jnp.float32(0.75), jnp.array(centre, jnp.int32))
    expected = np.array(images)
    expected[:, slice(*rows), slice(*columns)] = np.asarray(images)[
        ::-1, slice(*rows), slice(*columns)
    ]
    np.testing.assert_array_equal(mixed, expected)
    pasted = (rows[1] - rows[0]) * (columns[1] - columns[0]) / 64
    np.testing.assert_array_equal(soft[0], [1 - pasted, 0, 0, pasted])
    np.testing.assert_array_equal(soft[2], [0, pasted, 1 - pasted, 0])


@functools.cache
def mixes(mixup_alpha, cutmix_alpha):
    """The pixels and the target that a black row gets from a white partner, for 2000 keys."""
    images = jnp.array([0.0, 1.0], jnp.float32)[:, None, None, None] * jnp.ones((1, 16, 16, 1))
    targets = one_hot(2, 2)

    def one(key):
        mixed, soft = augment.mix(images, targets, key, mixup_alpha, cutmix_alpha)
        return jnp.concatenate([mixed[0].reshape(-1), soft[0]])

    got = every(one)
    return got[:, :-2], got[:, -2:]


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (1.0, 1.0)])
def test_targets_are_the_share_of_the_pixels(alphas):
    # The partner is white, so the mean pixel is its share.
    pixels, soft = mixes(*alphas)
    np.testing.assert_allclose(pixels.mean(axis=1), soft[:, 1], atol=2e-6)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, rtol=1e-6)


def test_cutmix_shares_are_exact():
    pixels, soft = mixes(1.0, 1.0)
    pasted = ((pixels == 0) | (pixels == 1)).all(axis=1)
    shares = (pixels[pasted] == 1.0).sum(axis=1) / 256
    np.testing.assert_array_equal(soft[pasted, 1], shares)
    assert len(np.unique(shares)) > 50


def test_both_kinds_are_chosen_equally_often():
    pixels, _ = mixes(1.0, 1.0)
    blended = ((pixels > 0) & (pixels < 1)).any(axis=1).sum()
    assert 910 < blended < 1090  # 1000, 4 standard deviations of 22.4


def test_mixup_shares_follow_beta():
    # Beta(a, a) has mean 1/2 and variance 1 / (4 * (2a + 1)), 0.17857 for a = 0.2.
    _, soft = mixes(0.2, 0.0)
    assert abs(soft[:, 0].mean() - 0.5) < 4 * math.sqrt(0.17857 / 2000)
    assert abs(soft[:, 0].var() - 0.17857) < 0.008
