"""The Python of README.md and CONTRIBUTING.md, run as it stands there."""

import pathlib
import re
import sys
import textwrap
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import config as config_lib
from imgclass import models, schema
from imgclass.data import augment, source
from imgclass.models import Model, layers, registry
from tests import tiny

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly():
    with tiny.compiled_quickly():
        yield


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def block(page, mark):
    """Returns the one Python block of `page` that holds `mark`."""
    (found,) = [text for text in blocks(page) if mark in text]
    return found


def module(monkeypatch, name, text, **known):
    """Runs `text` as a module of that name, in which `known` is imported already."""
    made = types.ModuleType(name)
    vars(made).update(known)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(text, f"<{name}>", "exec"), vars(made))
    return made


def test_there_are_no_other_examples_than_those_run_here():
    assert [len(blocks(page)) for page in PAGES] == [2, 6]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("argument", [None, "pictures"])
def test_the_config_is_one(monkeypatch, page, argument):
    made = module(monkeypatch, "mine", block(page, "def get_config"))
    config = config_lib.resolve(made.get_config(argument))
    config_lib.check(config)
    assert config.data.name == (argument or "digits")
    assert config_lib.difference(config_lib.resolve(config_lib.defaults()), config)
    model = models.create(config.model, 10, (*config.data.image_size, config.data.channels))
    picture = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    logits, _ = jax.eval_shape(model.apply, variables, picture)
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


@pytest.mark.parametrize("page", PAGES)
def test_the_model_is_what_it_says(monkeypatch, page):
    """A 3x3 convolution with zero padding, relu, the mean over space, a dense layer: in NumPy."""
    known = {} if page == "CONTRIBUTING.md" else {"nn": nn, "layers": layers}
    made = module(monkeypatch, "imgclass.models.tiny", block(page, "class Tiny"), **known)
    model = Model(made.Tiny(3), (8, 8, 3))
    variables = model.init(jax.random.key(0))
    x = np.random.default_rng(0).random((2, 8, 8, 3))
    logits, features = model.apply(variables, jnp.asarray(x, jnp.float32))
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    z = np.einsum("bhwcij,ijco->bhwo", windows, w["conv"]["kernel"]) + w["conv"].get("bias", 0)
    pooled = np.maximum(z, 0).mean((1, 2))
    expected = pooled @ w["head"]["kernel"] + w["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["pooled"], pooled, rtol=1e-5, atol=1e-6)
    assert features["last_map"].shape == (2, 8, 8, 16)


def test_the_model_can_be_asked_for_by_name(monkeypatch):
    made = module(monkeypatch, "imgclass.models.tiny", block("CONTRIBUTING.md", "class Tiny"))
    (line,) = re.findall(r'`("tiny": tiny,)`', (ROOT / "CONTRIBUTING.md").read_text())
    entry = eval(f"{{{line}}}", {"tiny": made})
    monkeypatch.setattr(registry, "_FILES", registry._FILES | entry)
    config = config_lib.defaults()
    config.model.name = "tiny"
    model = models.create(config.model, 4, (8, 8, 3))
    variables = model.init(jax.random.key(0))
    # 3x3x3 inputs to 16 filters, 16 inputs to 4 classes, and a bias each.
    assert models.count_parameters(variables["params"]) == 27 * 16 + 16 + 16 * 4 + 4
    x = jnp.zeros((2, 8, 8, 3), jnp.float32)
    logits, _, batch_stats = model.apply_train(variables, x, jax.random.key(1))
    assert logits.shape == (2, 4)
    assert batch_stats == {}


def test_the_data_source_is_opened_and_carved(monkeypatch, tmp_path):
    made = module(
        monkeypatch, "imgclass.data.records", block("CONTRIBUTING.md", "def open_records")
    )
    import imgclass.data

    monkeypatch.setattr(imgclass.data, "records", made, raising=False)
    branch = textwrap.dedent(block("CONTRIBUTING.md", 'suffix == ".npy"'))
    code = "def opened(path, suffix):\n" + textwrap.indent(branch, "    ")
    opened = module(monkeypatch, "branch", code).opened
    before = source._open_path
    monkeypatch.setattr(
        source,
        "_open_path",
        lambda path, data: opened(path, path.suffix) or before(path, data),
    )
    records = np.zeros(40, [("image", np.uint8, (8, 8, 3)), ("label", "U4")])
    records["image"] = np.arange(40)[:, None, None, None]
    records["label"] = ["dog", "cat"] * 20
    np.save(tmp_path / "pictures.npy", records)
    config = config_lib.defaults()
    config.data.name = str(tmp_path / "pictures.npy")
    found = source.open_source(config.data)
    assert (found.kind, found.class_names) == ("records", ("cat", "dog"))
    assert {role: len(split) for role, split in found.splits.items()} == {
        "train": 32, "validation": 4, "test": 4,
    }  # fmt: skip
    for split in found.splits.values():
        for record in split.read(range(len(split))):
            even = bool(record.image[0, 0, 0] % 2 == 0)
            assert found.class_names[record.label] == ("dog" if even else "cat")


def test_the_augmentation_mirrors_half_the_pictures():
    (key,) = eval("{" + block("CONTRIBUTING.md", '"upside_down": Key') + "}", vars(schema)).values()
    assert key.default is False
    assert key.meaning.endswith(".")
    (branches,) = re.findall(r"_UPSIDE = range\((\d+)\)", (ROOT / "CONTRIBUTING.md").read_text())
    last = max(v for k, v in vars(augment).items() if re.fullmatch("_[A-Z]+", k))
    assert int(branches) == last + 2  # one more than there are now
    code = textwrap.dedent(block("CONTRIBUTING.md", "if cfg.upside_down"))
    code = compile(code, "<augment>", "exec")
    picture = np.arange(12, dtype=np.float32).reshape(4, 1, 3)

    def mirrored(seed, on=True):
        names = {
            "cfg": types.SimpleNamespace(upside_down=on), "jax": jax, "jnp": jnp,
            "image": jnp.asarray(picture), "_UPSIDE": last + 1,
            "branch": lambda number: jax.random.fold_in(jax.random.key(seed), number),
        }  # fmt: skip
        exec(code, names)
        image = np.asarray(names["image"])
        assert (image == picture).all() or (image == picture[::-1]).all()
        return not (image == picture).all()

    # Of 100 fair draws, 30 to 70 but for one time in 25,000; the seeds are fixed.
    assert 30 <= sum(mirrored(seed) for seed in range(100)) <= 70
    assert not any(mirrored(seed, on=False) for seed in range(5))
