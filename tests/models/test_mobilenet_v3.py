"""MobileNet V3: published sizes, stages, gates. Logits beside PyTorch's are in test_parity.py."""

import jax
import jax.numpy as jnp
import pytest

from imgclass import models
from imgclass.models import mobilenet_v3, torch_names
from imgclass.models.count import multiply_adds

# Published by torchvision for its weights: parameters, and multiply-adds at 224 pixels in 1e9.
PUBLISHED = {
    "mobilenet_v3_large": (5_483_032, 0.217),
    "mobilenet_v3_small": (2_542_856, 0.057),
}
# Howard et al. (2019), tables 1 and 2.
STAGES = {
    "mobilenet_v3_large": {
        "stem": (112, 112, 16),
        "stage1": (112, 112, 16),
        "stage2": (56, 56, 24),
        "stage3": (28, 28, 40),
        "stage4": (14, 14, 80),
        "stage5": (14, 14, 112),
        "stage6": (7, 7, 160),
        "stage7": (7, 7, 960),
    },
    "mobilenet_v3_small": {
        "stem": (112, 112, 16),
        "stage2": (56, 56, 16),
        "stage3": (28, 28, 24),
        "stage4": (14, 14, 40),
        "stage5": (14, 14, 48),
        "stage6": (7, 7, 96),
        "stage7": (7, 7, 576),
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size_and_stages(model_config, name):
    parameters, giga = PUBLISHED[name]
    model = models.Model(mobilenet_v3.build(model_config(name=name), 1000), (224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert models.count_parameters(variables["params"]) == parameters
    assert round(multiply_adds(model) / 1e9, 3) == giga
    logits, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 224, 224, 3)))
    assert (logits.shape, logits.dtype) == ((2, 1000), jnp.float32)
    assert {key: stage.shape[1:] for key, stage in features["stages"].items()} == STAGES[name]
    hidden = {"mobilenet_v3_large": 1280, "mobilenet_v3_small": 1024}[name]
    assert features["pooled"].shape == (2, hidden)
    assert variables["params"]["head"]["kernel"].shape == (hidden, 1000)


def test_gates_are_a_quarter_of_the_expansion_in_eights(model_config):
    module = mobilenet_v3.build(model_config(name="mobilenet_v3_large"), 10)
    # 72 / 4 = 18 would round to 16, which is less than 90% of it.
    widths = [plan.squeeze for _, plan in module.layout.blocks]
    assert widths == [0, 0, 0, 24, 32, 32, 0, 0, 0, 0, 120, 168, 168, 240, 240]
    assert (module.layout.gate, module.layout.squeeze_activation) == ("hard_sigmoid", "relu")
    assert (module.layout.momentum, module.layout.epsilon) == (0.99, 1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "mobilenet_v3_large",
            {
                "features.1.block.1.0.weight": "blocks.0.0.conv_pw.weight",
                "features.11.block.2.fc1.bias": "blocks.4.0.se.conv_reduce.bias",
                "features.13.block.3.1.weight": "blocks.5.0.bn3.weight",
                "features.16.0.weight": "blocks.6.0.conv.weight",
                "classifier.0.weight": "conv_head.weight",
            },
        ),
        (
            "mobilenet_v3_small",
            {
                "features.1.block.2.0.weight": "blocks.0.0.conv_pw.weight",
                "features.8.block.2.fc1.bias": "blocks.3.1.se.conv_reduce.bias",
                "features.11.block.3.1.weight": "blocks.4.2.bn3.weight",
                "features.12.0.weight": "blocks.5.0.conv.weight",
                "classifier.0.weight": "conv_head.weight",
            },
        ),
    ],
)
def test_names_in_both_libraries(model_config, name, expected):
    model = models.Model(mobilenet_v3.build(model_config(name=name), 10), (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    torchvision, timm = (
        torch_names.slots(variables, mobilenet_v3.TORCH[library])
        for library in ("torchvision", "timm")
    )
    assert len(torchvision) == len(timm)
    for one, other in expected.items():
        assert torchvision[one] == timm[other]
