"""The whole of augmentation: what is compiled, who draws from what, what stays with an example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass.data import mix, policies
from imgclass.schema.methods import AUGMENT
from tests.data.pictures import compiled, function, one_hot, pictures, row_keys, run, section

POLICIES = AUGMENT["policy"].rule.words.removeprefix("one of none, ").split(", ")
QUICK = ("rand_increasing", "auto_cifar10")

EVERYTHING = {
    "flip": True,
    "random_resized_crop": True,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "cutout": 5,
    "erase": 0.5,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
}


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
        return mix.cutmix(*chosen(*arguments), share, centre)

    one, eight = on_one_and_on_eight_devices(jax.jit(pasted))
    np.testing.assert_array_equal(one[0], eight[0])
    np.testing.assert_array_equal(one[1], eight[1])


@pytest.mark.slow
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


def test_flip_mirrors_exactly_and_half_of_the_time():
    images = jnp.broadcast_to(pictures(1), (2000, 8, 8, 3))
    got, _ = run(images, {"flip": True})
    mirrored = (got == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored ^ (got == images).all(axis=(1, 2, 3))).all()
    assert 910 < mirrored.sum() < 1090  # 1000, 4 standard deviations of 22.4


def flipped(index, epoch, **changes):
    """Which rows of one and the same picture were mirrored."""
    images = jnp.broadcast_to(pictures(1), (len(index), 8, 8, 3))
    got, _ = run(
        images,
        {"flip_alternate": True} | changes,
        example_key=jax.random.key(5),
        index=jnp.asarray(index, jnp.int32),
        epoch=jnp.asarray(epoch, jnp.int32),
    )
    mirrored = (got == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored ^ (got == images).all(axis=(1, 2, 3))).all()
    return np.asarray(mirrored)


def test_alternating_flip_shows_both_sides_in_turn():
    index = np.repeat(np.arange(400), 4)
    sides = flipped(index, np.tile(np.arange(4), 400)).reshape(400, 4)
    np.testing.assert_array_equal(sides, sides[:, :1] ^ np.array([[False, True, False, True]]))
    # 200 start mirrored, standard deviation 10.
    assert 160 < sides[:, 0].sum() < 240


def test_alternating_flip_belongs_to_the_example_not_to_the_row_or_step():
    index = np.random.default_rng(0).permutation(64)
    sides = flipped(index, np.zeros(64), flip=True)  # which it stands in for
    np.testing.assert_array_equal(sides[np.argsort(index)], flipped(np.arange(64), np.full(64, 2)))
    assert (flipped(np.arange(64), np.zeros(64)) != flipped(np.arange(64) + 64, np.zeros(64))).any()


def test_alternating_flip_without_the_examples_is_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="needs example_key, index and epoch"):
        run(pictures(2), {"flip_alternate": True})


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def test_a_batch_is_cropped_by_one_gather():
    rows = jnp.arange(64, dtype=jnp.int32)
    program = function({"flip_alternate": True, "pad_crop": 2, "pad_mode": "reflect"})
    names = list(
        primitives(
            jax.make_jaxpr(program)(
                pictures(64), one_hot(64), row_keys(64), jax.random.key(2),
                example_key=jax.random.key(3), index=rows, epoch=rows,
            ).jaxpr
        )
    )  # fmt: skip
    assert names.count("gather") == 1
    assert not {"while", "scan", "dynamic_slice", "sort"} & set(names)


def test_a_policy_is_applied_after_the_flip_and_before_what_is_blanked():
    images = pictures(16)
    plain, _ = run(images, {"flip": True})
    cut, _ = run(images, {"flip": True, "policy": "rand", "cutout": 3})
    key = functools.partial(jax.random.fold_in, data=7)  # the branch is part of a seed's meaning
    fill = jnp.asarray(np.linspace(0.25, 0.75, 3), jnp.float32)
    cfg = section(policy="rand")
    one = jax.vmap(lambda image, row: policies.apply(image, key(row), cfg, fill))
    expected = jax.jit(one)(plain, row_keys(16))
    kept = (cut != fill[None, None, None, :]).any(axis=-1)
    assert 0 < (~kept).sum() <= 16 * 9 + 16
    # Whole levels, cut to by another program: few differ, by one.
    off = np.abs(cut - expected)[np.asarray(kept)]
    assert off.max() <= 1.01 / 255
    assert (off > 1e-6).mean() < 0.01


def test_views_are_the_plain_picture_and_others_of_the_same_crop():
    changes = {"pad_crop": 2, "flip": True, "policy": "trivial_wide", "erase": 0.5}
    images = pictures(32)
    got, targets = run(images, changes, views=3)
    assert got.shape == (32, 3, 8, 8, 3)
    np.testing.assert_array_equal(targets, one_hot(32))
    plain, _ = run(images, {"pad_crop": 2, "flip": True})
    np.testing.assert_array_equal(got[:, 0], plain)
    # Each view has draws of its own.
    assert (got[:, 1] != got[:, 2]).any(axis=(1, 2, 3)).mean() > 0.9
    # Without anything to draw all views are the plain one.
    same, _ = run(images, {"pad_crop": 2, "flip": True}, views=2)
    np.testing.assert_array_equal(same, jnp.stack([plain, plain], axis=1))


def test_views_are_not_mixed():
    with pytest.raises(ValueError, match="cannot be mixed"):
        run(pictures(2), {"mixup_alpha": 1.0}, views=3)


def test_a_size_is_made_of_the_whole_crop():
    images = pictures(4, 12, 12)
    got, _ = run(images, {}, out_size=(8, 8), size=(4, 4))
    # The middle 8 x 8 at half the size: a triangle of width 4 over pixels 1/2 and 3/2 from its
    # middle, 3/8 and 1/8 of the weight a side; at the border the part inside, scaled up.
    weights = np.zeros((4, 8))
    for i in range(4):
        for j in range(8):
            weights[i, j] = max(0.0, 1 - abs((j + 0.5) - (2 * i + 1)) / 2)
    weights /= weights.sum(axis=1, keepdims=True)
    middle = np.asarray(images)[:, 2:10, 2:10]
    expected = np.einsum("ih,jw,bhwc->bijc", weights, weights, middle)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    crops, _ = run(images, {"random_resized_crop": True}, out_size=(8, 8), size=(4, 6))
    assert crops.shape == (4, 4, 6, 3)


@pytest.mark.parametrize(
    "policy",
    [
        *QUICK,
        *(pytest.param(name, marks=pytest.mark.slow) for name in POLICIES if name not in QUICK),
    ],
)
def test_every_policy_stays_in_range_and_keeps_to_its_row(policy):
    images, keys = pictures(8), row_keys(8)
    got, _ = run(images, {"policy": policy}, keys=keys)
    assert float(got.min()) >= 0.0
    assert float(got.max()) <= 1.0
    broken = jnp.where(jnp.arange(8)[:, None, None, None] < 4, images, 0.5)
    other, _ = run(broken, {"policy": policy}, keys=keys)
    np.testing.assert_array_equal(got[:4], other[:4])
