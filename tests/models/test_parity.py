"""Every model that PyTorch has computed for us (`reference/`) gives what it gives.

Names and shapes of all tensors, logits in training and inference, updated running statistics; see
`parity.py`.
"""

import numpy as np
import pytest

from imgclass.models import registry
from tests.models import parity
from tests.models.reference import draw

# What is quick enough for every run of the tests.
QUICK = {
    "timm-convnext_atto",
    "timm-resnetv2_18",
    "torchvision-resnet18",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in parity.names()],
)
def test_pytorch_gives_the_same(name):
    reference = parity.read(name)
    parity.check(reference, registry._FILES[reference["model"]])


def test_every_model_of_a_library_has_been_computed_by_one():
    computed = {parity.read(name)["model"] for name in parity.names()}
    assert {name for name in registry.names() if registry.sources(name)} == computed


def test_a_wrong_epsilon_and_a_wrong_momentum_are_seen():
    reference = parity.read("torchvision-resnet18")
    wrong = {"batch_norm_epsilon": 1.2e-5, "batch_norm_momentum": 0.91}
    found = parity.differences(reference | {"keys": wrong}, registry._FILES["resnet18"])
    assert found.pop("training") > parity.TOLERANCE
    assert found.pop("inference") > parity.TOLERANCE
    (statistics,) = found.values()
    assert statistics > 0.05  # a tenth less of the batch, of what is about 1


def test_a_missing_tensor_is_named():
    reference = parity.read("torchvision-resnet18")
    del reference["tensors"]["layer4.1.conv2.weight"]
    with pytest.raises(AssertionError, match=r"only ours: \['layer4.1.conv2.weight'\]"):
        parity.differences(reference, registry._FILES["resnet18"])


def test_what_is_drawn_never_changes():
    # sha256("bn1.weight") as the key of Philox gives 2196541913 of 2^32 first; a scale is
    # 0.5 more than that share. The references hold results of exactly these weights.
    scale = draw.tensor("bn1.weight", (3,))
    np.testing.assert_allclose(scale[0], 0.5 + 2196541913 / 2**32, rtol=1e-6)
    np.testing.assert_allclose(scale, [1.0114222, 1.1370895, 1.2755787], rtol=1e-6)
    np.testing.assert_allclose(draw.tensor("bn1.bias", (1,)), 0.1063403, rtol=1e-6)
    many = draw.tensor("fc.weight", (100, 600)).astype(np.float64)
    np.testing.assert_allclose(many.var(), 2 / 600, rtol=0.01)
    assert abs(many.mean()) < 0.01 * many.std()
