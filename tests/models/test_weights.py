"""Weights of torchvision, timm and Keras as ours, and ours as theirs.

`reference/*.json` holds the names and shapes of PyTorch's own `state_dict`s, and the logits that
`test_parity.py` compares; so an export of these names, shapes and values is what PyTorch loads.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported

import jax
import numpy as np
import pytest

from imgclass import models
from imgclass.errors import UsageError
from imgclass.models import weight_files, weights
from tests.models import parity
from tests.models.reference import draw

# Those quick enough for every run of the tests.
REFERENCES = ("timm-convnext_atto", "timm-mobilenetv3_large_100", "torchvision-resnet18")


def shapes_of(model_config, name, classes, side, **keys):
    model = models.create(model_config(name=name, **keys), classes, (side, side, 3))
    return jax.eval_shape(model.init, jax.random.key(0))


def tree(arrays):
    """Returns {'params': {'conv1': {'kernel': ...}}} of {'params.conv1.kernel': ...}."""
    nested = {"params": {}, "batch_stats": {}}
    for path, array in arrays.items():
        *parts, leaf = path.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[leaf] = array
    return nested


def drawn(reference):
    """Returns a whole `state_dict`, `num_batches_tracked` included."""
    tensors = parity.tensors(reference)
    found = {name: draw.tensor(name, shape).astype(np.float32) for name, shape in tensors.items()}
    return found | {f"{norm}.num_batches_tracked": np.int64(3) for norm in reference["norms"]}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in REFERENCES else pytest.mark.slow) for n in parity.names()],
)
def test_there_and_back_is_exact(name, model_config):
    reference = parity.read(name)
    model, library = reference["model"], reference["library"]
    given = drawn(reference)
    shapes = shapes_of(
        model_config, model, reference["classes"], reference["side"], **reference["keys"]
    )
    found = weights.match(model, shapes, given, "it")
    assert found.new_head == ""
    wanted = {".".join(slot.path) for slot in models.registry.torch_slots(
        model, library, shapes).values()}  # fmt: skip
    assert found.arrays.keys() == wanted
    assert {array.dtype.name for array in found.arrays.values()} == {"float32"}

    back = weights.to_library(model, library, tree(found.arrays))
    assert back.keys() == {key for key in given if not key.endswith("num_batches_tracked")}
    for key, array in back.items():
        assert array.shape == given[key].shape, key
        np.testing.assert_array_equal(array, given[key])


@pytest.fixture(scope="module")
def resnet():
    reference = parity.read("torchvision-resnet18")
    return drawn(reference)


def test_a_head_for_other_classes_is_left_out(resnet, model_config):
    found = weights.match("resnet18", shapes_of(model_config, "resnet18", 7, 64), resnet, "it")
    assert found.library == "torchvision"
    assert found.new_head == "the file's is for 10 classes, and here are 7"
    assert not [name for name in found.arrays if ".head." in name]
    np.testing.assert_array_equal(
        found.arrays["params.conv1.kernel"], resnet["conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(found.arrays["batch_stats.bn1.mean"], resnet["bn1.running_mean"])

    headless = {name: array for name, array in resnet.items() if not name.startswith("fc.")}
    found = weights.match("resnet18", shapes_of(model_config, "resnet18", 10, 64), headless, "it")
    assert found.new_head == "there is none in the file"


def test_positions_of_square_pictures_are_resampled(model_config):
    there = shapes_of(model_config, "vit_ti_4", 3, 32)["params"]
    given = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.full(leaf.shape, 0.5, np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path({"params": there})
    }
    here = shapes_of(model_config, "vit_ti_4", 3, 64)
    found = weights.match("vit_ti_4", here, given, "it", square=True)
    assert found.resampled == ("params.position_embedding",)
    assert found.arrays["params.position_embedding"].shape == (1, 257, 192)
    np.testing.assert_allclose(found.arrays["params.position_embedding"], 0.5, atol=1e-6)
    assert (
        weights.match("vit_ti_4", shapes_of(model_config, "vit_ti_4", 3, 32), given, "it").resampled
        == ()
    )
    for size in ((32, 64), (32, 128)):  # the latter's 256 patches could be 16x16
        model = models.create(model_config(name="vit_ti_4"), 3, (*size, 3))
        oblong = jax.eval_shape(model.init, jax.random.key(0))
        with pytest.raises(UsageError, match=r"position_embedding \(1, 65, 192\) there"):
            weights.match("vit_ti_4", oblong, given, "it", square=False)


def test_what_does_not_fit_is_one_list(resnet, model_config):
    given = dict(resnet)
    del given["layer1.0.conv1.weight"], given["bn1.running_var"]
    given["aux.weight"] = np.zeros(3, np.float32)
    given["fc.weight"] = np.zeros((10, 99), np.float32)
    given["conv1.weight"] = np.zeros((64, 1, 7, 7), np.float32)
    with pytest.raises(UsageError) as error:
        weights.match("resnet18", shapes_of(model_config, "resnet18", 10, 64), given, "it.pth")
    assert str(error.value).splitlines() == [
        "it.pth does not fit model.name='resnet18', by the names of torchvision:",
        "  2 missing: bn1.running_var, layer1.0.conv1.weight",
        "  1 left over: aux.weight",
        "  2 of another shape: conv1.weight (64, 1, 7, 7) there, (64, 3, 7, 7) here, "
        "fc.weight (10, 99) there, (10, 512) here",
    ]


def test_a_long_list_shows_ten_and_a_count(resnet, model_config):
    with pytest.raises(UsageError) as error:
        weights.match("resnet50", shapes_of(model_config, "resnet50", 10, 64), resnet, "it.pth")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    # 53 convolutions, each with the four arrays of a norm, and not 20 of them.
    assert lines[1].startswith("  165 missing: ")
    assert lines[1].endswith(", and 155 more")
    assert lines[1].count(", ") == 10


def test_names_of_nothing_known(model_config):
    shapes = shapes_of(model_config, "resnet18", 10, 64)
    given = {"encoder.weight": np.zeros(3), "encoder.bias": np.zeros(3)}
    words = r"its 2 tensors are called encoder\.weight, encoder\.bias, \.\.\.; known are the names"
    with pytest.raises(UsageError, match=f"it has no weights of model.name='resnet18': {words}"):
        weights.match("resnet18", shapes, given, "it")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "features.denseblock1.denselayer2.norm.1.weight",
            "features.denseblock1.denselayer2.norm1.weight",
        ),
        (
            "features.denseblock4.denselayer16.conv.2.weight",
            "features.denseblock4.denselayer16.conv2.weight",
        ),
        (
            "encoder.layers.encoder_layer_0.mlp.linear_1.bias",
            "encoder.layers.encoder_layer_0.mlp.0.bias",
        ),
        (
            "encoder.layers.encoder_layer_0.mlp.linear_2.weight",
            "encoder.layers.encoder_layer_0.mlp.3.weight",
        ),
        ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
    ],
)
def test_names_in_torchvisions_old_files(old, new):
    """As `_load_state_dict` of torchvision's densenet.py and `MLPBlock` of its ViT rename them."""
    assert weights._renamed(old) == new


def test_keras_layers_are_paired_in_order(model_config):
    shapes = shapes_of(model_config, "cnn", 3, 14, filters=(4, 6), batch_norm=True, hidden=(5,))
    order = [
        ("conv2d/0", "params.block1_conv1.kernel", (3, 3, 3, 4)),
        ("conv2d_1/0", "params.block2_conv1.kernel", (3, 3, 4, 6)),
        ("batch_normalization/0", "params.block1_bn1.scale", (4,)),
        ("batch_normalization/1", "params.block1_bn1.bias", (4,)),
        ("batch_normalization/2", "batch_stats.block1_bn1.mean", (4,)),
        ("batch_normalization/3", "batch_stats.block1_bn1.var", (4,)),
        ("batch_normalization_1/0", "params.block2_bn1.scale", (6,)),
        ("batch_normalization_1/1", "params.block2_bn1.bias", (6,)),
        ("batch_normalization_1/2", "batch_stats.block2_bn1.mean", (6,)),
        ("batch_normalization_1/3", "batch_stats.block2_bn1.var", (6,)),
        ("dense/0", "params.hidden1.kernel", (2 * 2 * 6, 5)),
        ("dense/1", "params.hidden1.bias", (5,)),
        ("dense_1/0", "params.head.kernel", (5, 3)),
        ("dense_1/1", "params.head.bias", (3,)),
    ]
    given = {name: np.full(shape, n, np.float32) for n, (name, _, shape) in enumerate(order)}
    found = weights.match("cnn", shapes, given, "it")
    assert (found.library, found.new_head) == ("keras", "")
    for n, (_, ours, shape) in enumerate(order):
        assert found.arrays[ours].shape == shape
        assert (found.arrays[ours] == n).all()

    deeper = shapes_of(model_config, "cnn", 3, 14, filters=(4, 6, 8), padding="SAME", hidden=(5,))
    with pytest.raises(UsageError, match=r"missing: [^\n]*conv2d_2/0"):
        weights.match("cnn", deeper, given, "it")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
def test_a_keras_network_gives_the_same(model_config, tmp_path):
    keras = pytest.importorskip("keras")
    layers = keras.layers
    net = keras.Sequential([keras.Input((14, 14, 3))])
    for width in (4, 6):
        net.add(layers.Conv2D(width, 3, use_bias=False, name=f"my_conv{9 - width}"))
        net.add(layers.BatchNormalization(epsilon=1e-5))
        net.add(layers.ReLU())
        net.add(layers.MaxPooling2D())
    net.add(layers.Flatten())
    net.add(layers.Dense(5, activation="relu", name="zz"))
    net.add(layers.Dense(3, name="aa"))
    random = np.random.default_rng(0)
    net.set_weights([random.uniform(0.5, 1.5, w.shape) for w in net.get_weights()])
    net.save_weights(tmp_path / "a.weights.h5")
    given = weight_files.read(tmp_path / "a.weights.h5").tensors
    net.save(tmp_path / "a.keras")
    assert weight_files.read(tmp_path / "a.keras").tensors.keys() == given.keys()

    section = model_config(filters=(4, 6), batch_norm=True, hidden=(5,))
    model = models.create(section, 3, (14, 14, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    found = weights.match("cnn", shapes, given, "it")
    assert (found.library, found.new_head) == ("keras", "")
    images = random.uniform(size=(2, 14, 14, 3)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = np.asarray(net(images))
    ours = model.apply(jax.tree.map(jax.numpy.asarray, tree(found.arrays)), images)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_our_own_names(model_config):
    shapes = shapes_of(model_config, "cnn", 3, 8, batch_norm=True)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 2, np.float32), shapes)
    back = weights.to_library("cnn", "imgclass", variables)
    assert "batch_stats.block1_bn1.mean" in back
    found = weights.match("cnn", shapes, back, "it")
    assert (found.library, found.arrays.keys()) == ("imgclass", back.keys())
    with pytest.raises(UsageError, match="cnn has no names in torchvision; there are imgclass"):
        weights.to_library("cnn", "torchvision", variables)
    assert weights.export_libraries("resnet50") == ("torchvision", "timm", "imgclass")
