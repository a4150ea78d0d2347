"""Names and layouts between our variables and a `state_dict`, worked out by hand."""

import numpy as np
import pytest

from imgclass.models.torch_names import Slot, fits, slots, to_ours, to_torch, torch_shape

RULES = (
    (r"stage(\d)_block(\d)/conv", lambda match: f"layer{match[1]}.{int(match[2]) - 1}.conv"),
    (r"attention/(qkv)", r"attention.in_proj_"),
    ("(bn|head)", r"\1"),
    ("class_token", "encoder.cls"),
)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_every_leaf_is_named_by_its_kind():
    variables = {
        "params": {
            "stage2_block1": {"conv": {"kernel": zeros(3, 3, 4, 8)}},
            "attention": {"qkv": {"kernel": zeros(8, 24), "bias": zeros(24)}},
            "bn": {"scale": zeros(8), "bias": zeros(8)},
            "head": {"kernel": zeros(8, 10), "bias": zeros(10)},
            "class_token": zeros(1, 1, 8),
        },
        "batch_stats": {"bn": {"mean": zeros(8), "var": zeros(8)}},
    }
    found = slots(variables, RULES)
    assert {name: "/".join(slot.path) for name, slot in found.items()} == {
        "layer2.0.conv.weight": "params/stage2_block1/conv/kernel",
        "attention.in_proj_weight": "params/attention/qkv/kernel",
        "attention.in_proj_bias": "params/attention/qkv/bias",
        "bn.weight": "params/bn/scale",
        "bn.bias": "params/bn/bias",
        "head.weight": "params/head/kernel",
        "head.bias": "params/head/bias",
        "encoder.cls": "params/class_token",
        "bn.running_mean": "batch_stats/bn/mean",
        "bn.running_var": "batch_stats/bn/var",
    }
    assert torch_shape(found["layer2.0.conv.weight"]) == (8, 4, 3, 3)
    assert torch_shape(found["head.weight"]) == (10, 8)
    assert torch_shape(found["encoder.cls"]) == (1, 1, 8)


def test_a_path_without_a_rule_and_two_of_one_name():
    with pytest.raises(ValueError, match="no rule names 'tail', of params/tail/bias"):
        slots({"params": {"tail": {"bias": zeros(2)}}}, RULES)
    both = {"params": {"bn": {"scale": zeros(2)}, "head": {"kernel": zeros(2, 2)}}}
    with pytest.raises(ValueError, match=r"head/kernel and params/bn/scale are both 'x.weight'"):
        slots(both, (("bn|head", "x"),))


def test_a_convolution_by_index():
    slot = Slot(("params", "conv", "kernel"), (5, 3, 2, 7))  # height, width, in, out
    theirs = np.arange(7 * 2 * 5 * 3).reshape(7, 2, 5, 3)  # out, in, height, width
    ours = to_ours(slot, theirs)
    assert ours.shape == slot.shape
    assert ours[4, 1, 0, 6] == theirs[6, 0, 4, 1]
    np.testing.assert_array_equal(to_torch(slot, ours), theirs)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1)])
def test_a_dense_layer_also_where_theirs_is_a_convolution(shape):
    slot = Slot(("params", "se", "reduce", "kernel"), (4, 6))
    theirs = np.arange(24).reshape(shape)
    ours = to_ours(slot, theirs)
    assert ours[3, 5] == theirs.reshape(6, 4)[5, 3]
    back = to_torch(slot, ours, shape)
    assert back.shape == shape
    np.testing.assert_array_equal(back, theirs)


def test_a_dense_layer_of_a_flattened_map():
    # The same picture through both: flattened channels first there, channels last here.
    slot = slots({"params": {"head": {"kernel": zeros(2 * 3 * 5, 4)}}}, RULES, {"head": (2, 3, 5)})[
        "head.weight"
    ]
    rng = np.random.default_rng(0)
    picture, theirs = rng.integers(0, 9, (2, 3, 5)), rng.integers(0, 9, (4, 30))
    ours = to_ours(slot, theirs)
    np.testing.assert_array_equal(
        picture.reshape(-1) @ ours, theirs @ picture.transpose(2, 0, 1).reshape(-1)
    )
    np.testing.assert_array_equal(to_torch(slot, ours), theirs)


@pytest.mark.parametrize("shape", [(8,), (8, 1, 1), (1, 8)])
def test_axes_of_length_one(shape):
    slot = Slot(("params", "layer_scale"), (8,))
    theirs = np.arange(8).reshape(shape)
    np.testing.assert_array_equal(to_ours(slot, theirs), np.arange(8))
    np.testing.assert_array_equal(to_torch(slot, np.arange(8), shape), theirs)


def test_shapes_that_do_not_fit():
    slot = Slot(("params", "head", "kernel"), (8, 10))
    assert fits(slot, (10, 8))
    assert not fits(slot, (8, 10))
    with pytest.raises(ValueError, match=r"head/kernel: \(1000, 8\) there does not fit \(8, 10\)"):
        to_ours(slot, zeros(1000, 8))
    with pytest.raises(ValueError, match=r"\(8, 10\) there does not fit"):
        to_torch(slot, zeros(8, 10), (8, 10))
