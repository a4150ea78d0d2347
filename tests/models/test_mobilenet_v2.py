"""MobileNet V2: published size, stages, names. Logits beside PyTorch's are in test_parity.py."""

import jax
import jax.numpy as jnp

from imgclass import models
from imgclass.models import mobilenet_v2, torch_names
from imgclass.models.count import multiply_adds


def test_published_size_and_stages(model_config):
    config = model_config(name="mobilenet_v2", dtype="bfloat16")
    model = models.Model(mobilenet_v2.build(config, 1000), (224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    # torchvision's weights; 301 million multiply-adds at 224 pixels.
    assert models.count_parameters(variables["params"]) == 3_504_872
    assert round(multiply_adds(model) / 1e9, 3) == 0.301
    logits, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 224, 224, 3)))
    assert (logits.shape, logits.dtype) == ((2, 1000), jnp.float32)
    # Sandler et al. (2018), table 2.
    assert {name: stage.shape[1:] for name, stage in features["stages"].items()} == {
        "stem": (112, 112, 32),
        "stage1": (112, 112, 16),
        "stage2": (56, 56, 24),
        "stage3": (28, 28, 32),
        "stage4": (14, 14, 64),
        "stage5": (14, 14, 96),
        "stage6": (7, 7, 160),
        "stage7": (7, 7, 320),
        "stage8": (7, 7, 1280),
    }
    assert (features["pooled"].shape, features["pooled"].dtype) == ((2, 1280), jnp.bfloat16)


def test_batch_norm_is_pytorchs_default(model_config):
    layout = mobilenet_v2.build(model_config(name="mobilenet_v2"), 10).layout
    assert (layout.momentum, layout.epsilon) == (0.9, 1e-5)


def test_torchvision_numbers_blocks_through_the_net(model_config):
    model = models.Model(mobilenet_v2.build(model_config(name="mobilenet_v2"), 10), (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    slots = torch_names.slots(variables, mobilenet_v2.TORCH["torchvision"])
    paths = {name: "/".join(slot.path[1:]) for name, slot in slots.items()}
    assert len(paths) == 262
    # Blocks 1, 2 and 3, then 4, 5 and 6: so 7 is the first of stage 4.
    assert paths["features.1.conv.1.weight"] == "stage1_block1/project/conv/kernel"
    assert paths["features.7.conv.1.0.weight"] == "stage4_block1/depthwise/conv/kernel"
    assert paths["features.17.conv.3.running_var"] == "stage7_block1/project/bn/var"
    assert paths["features.18.0.weight"] == "stage8/conv/kernel"
