"""Residual networks: published sizes, and a forward pass of our own in NumPy float64."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import models
from imgclass.models import layers, resnet, torch_names
from imgclass.models.count import multiply_adds
from imgclass.models.resnet import Layout
from tests.models.numpy_layers import convolve, draw

# Published by torchvision for its weights: parameters, and multiply-adds in 1e9 at 224 pixels. The
# last seven are timm's, measured with PyTorch's flop counter.
SIZES = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    "wide_resnet50_2": (68_883_240, 11.398),
    "wide_resnet101_2": (126_886_696, 22.753),
    "seresnet18": (11_779_624, 1.814),
    "seresnet34": (21_960_416, 3.664),
    "seresnet50": (28_088_024, 4.092),
    "seresnet101": (49_326_872, 7.806),
    "seresnet152": (66_821_848, 11.520),
    "seresnext50_32x4d": (27_559_896, 4.233),
    "seresnext101_32x4d": (48_955_416, 7.975),
}


def test_every_layout_is_measured():
    assert SIZES.keys() == resnet.LAYOUTS.keys()


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [
        # The deep ones take seconds to trace, and differ from the shallow in DEPTHS alone.
        pytest.param(name, *sizes, marks=[pytest.mark.slow] if re.search("34|1[05]", name) else [])
        for name, sizes in SIZES.items()
    ],
)
def test_every_model_keeps_the_contract(model_config, name, parameters, giga):
    model = models.Model(resnet.build(model_config(name=name), 1000), (224, 224, 3))

    def run(key):
        variables = model.init(key)
        x = jnp.zeros((2, 224, 224, 3))
        return variables, model.apply(variables, x), model.apply_train(variables, x, key)

    variables, (logits, features), trained = jax.eval_shape(run, jax.random.key(0))
    assert set(variables) == {"params", "batch_stats"}
    assert models.count_parameters(variables["params"]) == parameters
    assert round(multiply_adds(model) / 1e9, 3) == giga
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert (logits.shape, logits.dtype) == ((2, 1000), jnp.float32)
    assert trained[0].shape == (2, 1000)
    assert jax.tree.structure(trained[2]) == jax.tree.structure(variables["batch_stats"])
    assert set(features) == {"stages", "last_map", "pooled"}
    assert variables["params"]["head"]["kernel"].shape == (features["pooled"].shape[1], 1000)


def test_small_picture_stem(model_config):
    # From 11,689,512: stem 7*7*3*64 = 9,408 becomes 3*3*3*64 = 1,728, head 513,000 becomes 5,130.
    model = models.create(model_config(name="resnet18", stem="cifar"), 10, (32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert models.count_parameters(variables["params"]) == 11_173_962
    _, features = jax.eval_shape(model.apply, variables, jnp.zeros((2, 32, 32, 3)))
    assert {k: v.shape[1:] for k, v in features["stages"].items()} == {
        "stem": (32, 32, 64),
        "stage1": (32, 32, 64),
        "stage2": (16, 16, 128),
        "stage3": (8, 8, 256),
        "stage4": (4, 4, 512),
    }


def test_bottleneck_stages_at_224(model_config):
    # He et al. (2015), table 1: 112 after the stem, then 56, 28, 14 and 7.
    model = models.create(model_config(name="resnet50"), 1000, (224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    _, features = jax.eval_shape(model.apply, variables, jnp.zeros((1, 224, 224, 3)))
    assert {k: v.shape[1:] for k, v in features["stages"].items()} == {
        "stem": (112, 112, 64),
        "stage1": (56, 56, 256),
        "stage2": (28, 28, 512),
        "stage3": (14, 14, 1024),
        "stage4": (7, 7, 2048),
    }
    assert features["pooled"].shape == (1, 2048)
    # Version 1.5: the 3x3 convolution strides, so conv1 of stage 2 still sees 56x56.


def numpy_resnet(variables, x, layout, bottleneck):
    """Inference, written from the paper and torchvision's definition; returns logits."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    stats = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["batch_stats"])

    def layer(scope, conv, norm, x, stride):
        p = params[scope] if scope else params
        s = (stats[scope] if scope else stats)[norm]
        x = convolve(x, p[conv]["kernel"], stride)
        x = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5)
        return x * p[norm]["scale"] + p[norm]["bias"]

    x = np.maximum(layer(None, "conv1", "bn1", x.astype(np.float64), 2), 0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((4, 5))
    for stage, blocks in enumerate(layout, start=1):
        for block in range(1, blocks + 1):
            scope = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            strides = [1, stride, 1] if bottleneck else [stride, 1]
            y = x
            for i, step in enumerate(strides, start=1):
                y = layer(scope, f"conv{i}", f"bn{i}", y, step)
                if i < len(strides):
                    y = np.maximum(y, 0)
            if "shortcut_conv" in params[scope]:
                x = layer(scope, "shortcut_conv", "shortcut_bn", x, stride)
            x = np.maximum(x + y, 0)
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_logits_equal_numpy_float64(model_config, name):
    model = models.create(model_config(name=name), 10, (48, 48, 3))
    variables = draw(jax.eval_shape(model.init, jax.random.key(0)))
    x = np.random.default_rng(1).normal(size=(2, 48, 48, 3)).astype(np.float32)
    layout = resnet.LAYOUTS[name]
    expected = numpy_resnet(variables, x, layout.depths, layout.bottleneck)
    ours, _ = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_residual_starts_blocks_as_their_shortcut(model_config, zero):
    config = model_config(name="resnet18", stem="cifar", zero_init_residual=zero)
    block = resnet.Block(
        width=4,
        stride=1,
        layout=Layout((1,), bottleneck=False),
        zero_init=models.create(config, 10, (8, 8, 3)).module.zero_init_residual,
        drop_path=0.0,
        norm=layers.BatchNorm,
        dtype=jnp.float32,
    )
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))

    @jax.jit
    def run(key):
        variables = block.init(key, x, train=False)
        return variables["params"], block.apply(variables, x, train=False)

    params, y = run(jax.random.key(1))
    np.testing.assert_array_equal(params["bn1"]["scale"], 1.0)
    np.testing.assert_array_equal(params["bn2"]["scale"], 0.0 if zero else 1.0)
    assert np.allclose(y, jax.nn.relu(x)) == zero


def test_groups_and_widths_of_the_3x3_convolutions(model_config):
    # ResNeXt's table 1 in 'C=32, d=4' has 128 channels in 32 groups, so each kernel sees 4; the
    # wide net twice ResNet-50's 64, undivided. Both return 256.
    for name, kernel in (
        ("resnext50_32x4d", (3, 3, 4, 128)),
        ("wide_resnet50_2", (3, 3, 128, 128)),
    ):
        module = resnet.build(model_config(name=name), 10)
        init = functools.partial(module.init, train=False)
        block = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        assert block["stage1_block1"]["conv2"]["kernel"].shape == kernel
        assert block["stage1_block1"]["conv3"]["kernel"].shape == (1, 1, 128, 256)


def test_squeeze_and_excitation_is_a_sixteenth_and_at_least_8(model_config):
    module = resnet.build(model_config(name="seresnet18"), 10)
    init = functools.partial(module.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    widths = [params[f"stage{i}_block1"]["se"]["reduce"]["kernel"].shape for i in (1, 2, 3, 4)]
    assert widths == [(64, 8), (128, 8), (256, 16), (512, 32)]


def test_dropped_paths_leave_the_shortcut_and_scale_the_rest():
    block = resnet.Block(
        width=4,
        stride=1,
        layout=Layout((1,), bottleneck=False),
        zero_init=False,
        drop_path=0.75,
        norm=functools.partial(layers.BatchNorm, momentum=0.9),
        dtype=jnp.float32,
    )
    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 4))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))
    variables = draw(shapes)

    def run(rate):
        scaled, rngs = block.clone(drop_path=rate), {"dropout": jax.random.key(2)}
        y, _ = scaled.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
        return y

    full, dropped = (np.asarray(y) for y in jax.jit(lambda: (run(0.0), run(0.75)))())
    gone = (dropped == np.maximum(x, 0)).all((1, 2, 3))
    assert 36 <= gone.sum() <= 58  # of 64, 48 expected; standard deviation 3.5
    # What the last ReLU let pass shows the branch: a kept one is divided by 1 - 0.75.
    seen = ~gone[:, None, None, None] & (full > 0) & (dropped > 0)
    np.testing.assert_allclose((dropped - x)[seen], 4 * (full - x)[seen], rtol=1e-4, atol=1e-5)


def test_drop_path_rises_linearly_over_the_blocks(model_config):
    rates = []

    def note(call, args, kwargs, context):
        if type(context.module).__name__ == "DropPath" and context.method_name == "__call__":
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    module = resnet.build(model_config(name="resnet18", drop_path=0.35), 10)
    with nn.intercept_methods(note):
        init = functools.partial(module.init, train=False)
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    np.testing.assert_allclose(rates, [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])


def test_names_in_pytorch():
    def name(path):
        variables = {"params": {}}
        *modules, leaf = path.split("/")
        inner = variables["params"]
        for module in modules:
            inner = inner.setdefault(module, {})
        inner[leaf] = jnp.zeros(1)
        (found,) = torch_names.slots(variables, resnet.TORCH["timm"])
        return found

    assert name("stage3_block23/conv2/kernel") == "layer3.22.conv2.weight"
    assert name("stage2_block1/shortcut_bn/scale") == "layer2.0.downsample.1.weight"
    assert name("stage4_block2/se/expand/bias") == "layer4.1.se.fc2.bias"
    assert name("head/bias") == "fc.bias"


def test_convolutions_start_kaiming_normal_and_the_head_uniform():
    # Standard deviation sqrt(2 / (3 * 3 * 512)) by fan out; 2.4 million draws, so within 1%.
    x = jnp.zeros((1, 4, 4, 512))
    conv = resnet.conv(resnet.Part(512, 3), jnp.float32, "conv")
    kernel = conv.init(jax.random.key(0), x)["params"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 512)), rtol=0.01)
    assert np.abs(kernel).max() > 4 * kernel.std()  # not cut off at two deviations
    head = resnet.LINEAR(jax.random.key(0), (512, 100), jnp.float32)
    np.testing.assert_allclose(np.abs(head).max(), 1 / np.sqrt(512), rtol=0.01)


def test_one_step_of_resnet18_lowers_the_loss(model_config):
    config = model_config(name="resnet18", stem="cifar", batch_norm_group=4)
    model = models.create(config, 10, (16, 16, 3))
    variables = draw(jax.eval_shape(model.init, jax.random.key(0)))
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(8, 16, 16, 3)), jnp.float32)
    targets = jnp.asarray(np.eye(10)[np.arange(8)], jnp.float32)

    @jax.jit
    def loss_and_gradient(params):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, _, stats = model.apply_train(state, x, jax.random.key(1))
            return -(jax.nn.log_softmax(logits) * targets).sum(1).mean(), stats

        return jax.value_and_grad(loss, has_aux=True)(params)

    (before, stats), gradient = loss_and_gradient(variables["params"])
    finite = jax.tree.map(lambda a: bool(np.isfinite(a).all()), (gradient, stats))
    assert all(jax.tree.leaves(finite))
    # A step so short that the loss falls by its length times the squared norm of the gradient.
    squared_norm = sum(float(np.sum(np.square(g))) for g in jax.tree.leaves(gradient))
    length = 0.01 / squared_norm
    moved = jax.tree.map(lambda p, g: p - length * g, variables["params"], gradient)
    (after, _), _ = loss_and_gradient(moved)
    np.testing.assert_allclose(before - after, 0.01, rtol=0.1)


def test_gradients_equal_float64():
    # Two stages of one bottleneck. In float64 XLA compiles other code. A few of 1e5 values fall on
    # the other side of ReLU's zero, which moves a tensor by up to half a percent of its norm; with
    # a smooth activation the two agree to 5e-6. A wrong gradient is wrong by far more than 2%.
    def gradients(dtype):
        module = resnet.ResNet(
            num_classes=3,
            layout=Layout((1, 1)),
            stem="cifar",
            zero_init_residual=False,
            dtype=dtype,
        )
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), dtype)
        variables = draw(jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False)))

        def loss(params):
            state = {**variables, "params": params}
            logits, _ = module.apply(state, x, train=True, mutable=["batch_stats"])
            return (jax.nn.log_softmax(logits[0]) * jnp.eye(4, 3, dtype=jnp.float32)).sum()

        return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(variables["params"]))

    narrow = gradients(jnp.float32)
    with jax.enable_x64(True):
        wide = gradients(jnp.float64)
    for path, expected in jax.tree_util.tree_leaves_with_path(wide):
        ours = narrow
        for entry in path:
            ours = ours[entry.key]
        assert np.linalg.norm(ours - expected) <= 0.02 * np.linalg.norm(expected), path
