"""Beginning with weights: what is taken, what is new, what is refused, what a probe holds still."""

import contextlib
import hashlib
import http.server
import json
import logging
import os
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from imgclass import config as config_lib
from imgclass import models, pretrained, train
from imgclass.data.preprocess import Preprocess
from imgclass.errors import UsageError, UserError
from imgclass.models import weight_files
from tests import tiny

NET = {"model.batch_norm": True}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(root):
    """A finished run with three classes."""
    data = tiny.archive(root)
    train.train_and_evaluate(tiny.config(data, NET), root / "base")
    return root / "base"


@pytest.fixture(scope="module")
def two_classes(root):
    """Pictures of two classes."""
    images, labels = tiny.pictures(40)
    path = root / "two.npz"
    np.savez(path, x_train=images, y_train=labels % 2)
    return path


def body(arrays, section):
    """Returns the arrays of a section of a state, without those of the head."""
    return {
        name: array
        for name, array in arrays.items()
        if name.startswith(section) and not name.startswith("params.head.")
    }


def test_a_linear_probe_trains_the_head_alone(base, two_classes, root):
    folder = root / "probe"
    source = shutil.copytree(base, root / "moved")
    changes = NET | {
        "model.pretrained": str(source),
        "optim.freeze": "^(?!head/)",
        "checkpoint.every_steps": 3,
        "checkpoint.keep": 9,
    }
    config = tiny.config(two_classes, changes)
    train.train_and_evaluate(config, folder)
    before, after = tiny.arrays(base), tiny.arrays(folder)
    for section in ("params.", "batch_stats."):
        assert body(after, section)
        tiny.assert_same_bits(body(before, section), body(after, section))
    assert after["params.head.kernel"].shape == (36, 2)
    first = tiny.arrays(folder, 3)["params.head.kernel"]
    assert np.abs(after["params.head.kernel"] - first).max() > 1e-4

    (start,) = json.loads((folder / "environment.json").read_text())["starts"]
    assert len(start["pretrained"].pop("sha256")) == 64
    assert start["pretrained"] == {"source": str(source), "library": "imgclass", "head": "new"}

    # Going on needs the weights no more, and ends in the same bits.
    shutil.rmtree(source)
    shutil.rmtree(folder / "checkpoints" / f"{6:010d}")
    (folder / "result.json").unlink()
    train.train_and_evaluate(config, folder)
    tiny.assert_same_bits(tiny.arrays(folder), after)
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert [set(start) & {"pretrained"} for start in starts] == [{"pretrained"}, set()]


def test_the_head_is_kept_for_the_same_classes(base, root):
    changes = NET | {"model.pretrained": str(base), "optim.freeze": ".", "train.total_steps": 1}
    train.train_and_evaluate(tiny.config(root / "pictures.npz", changes), root / "frozen")
    kept = {k: v for k, v in tiny.arrays(base).items() if k.startswith(("params", "batch_stats"))}
    after = tiny.arrays(root / "frozen")
    tiny.assert_same_bits(kept, {name: after[name] for name in kept})


def test_layer_decay_moves_the_layers_below_less(base, root):
    moved = {}
    for decay in (1.0, 0.25):
        changes = NET | {
            "model.pretrained": str(base),
            "optim.name": "sgd",
            "optim.lr": 0.1,
            "optim.momentum": 0.0,
            "optim.layer_decay": decay,
            "train.total_steps": 1,
        }
        folder = root / f"decay{decay}"
        train.train_and_evaluate(tiny.config(root / "pictures.npz", changes), folder)
        before, after = tiny.arrays(base), tiny.arrays(folder)
        moved[decay] = {k: after[k] - before[k] for k in before if k.startswith("params.")}
    for name, step in moved[1.0].items():
        share = 1.0 if name.startswith("params.head") else 0.25
        wanted = share * step.astype(np.float64)
        np.testing.assert_allclose(moved[0.25][name], wanted, atol=1e-6, err_msg=name)
    assert np.abs(moved[1.0]["params.block1_conv1.kernel"]).max() > 1e-3


def test_a_frozen_batch_norm_works_as_in_inference(model_config_of):
    section = model_config_of(batch_norm=True, filters=(4, 4), padding="SAME")
    model = models.create(section, 3, (8, 8, 3))
    variables = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 3)) * 3.0 + 1.0
    still = models.Model(
        model.module, model.input_shape, frozen=frozenset({"block1_bn1", "block2_bn1"})
    )
    logits, _, stats = jax.jit(still.apply_train)(variables, x, jax.random.key(2))
    np.testing.assert_allclose(logits, jax.jit(still.apply)(variables, x)[0], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])

    half = models.Model(model.module, model.input_shape, frozen=frozenset({"block1_bn1"}))
    _, _, stats = jax.jit(half.apply_train)(variables, x, jax.random.key(2))
    before = variables["batch_stats"]
    np.testing.assert_array_equal(stats["block1_bn1"]["mean"], before["block1_bn1"]["mean"])
    assert jnp.abs(stats["block2_bn1"]["mean"] - before["block2_bn1"]["mean"]).max() > 0.01


@pytest.fixture
def model_config_of():
    def build(**changes):
        section = config_lib.defaults().model
        section.update(changes)
        return section

    return build


def load(source, name="cnn", classes=("a", "b", "c"), prepare=None, side=0, **model_keys):
    config = config_lib.defaults()
    config.model.update(name=name, pretrained=str(source), **model_keys)
    side = side or (8 if name == "cnn" else 32)
    prepare = prepare or Preprocess((side, side))
    model = models.create(config.model, len(classes), (side, side, 3))
    return pretrained.load(config, model, tuple(classes), prepare)


SMALL = {"filters": (4,), "batch_norm": True}


def test_nothing_is_asked_for():
    assert load("") is None


def test_other_classes_of_the_same_number_have_a_new_head(base, caplog):
    with caplog.at_level(logging.INFO, "imgclass.pretrained"):
        found = load(base, **SMALL)
    assert found.record["head"] == "new"
    assert "params.head.kernel" not in found.arrays
    assert "the head is new, for there is none in the file" in caplog.text
    assert load(base, classes=("0", "1", "2"), **SMALL).record["head"] == "kept"


def test_other_standardisation_is_told(base, caplog):
    load(base, prepare=Preprocess((8, 8), mean=(0.5,) * 3, std=(0.2,) * 3), **SMALL)
    assert "was trained with data.mean=(), here it is (0.5, 0.5, 0.5)" in caplog.text


@pytest.fixture
def resnet(tmp_path):
    """A file of all a ResNet-18 has, but one tensor."""
    section = config_lib.defaults().model
    section.name = "resnet18"
    shapes = jax.eval_shape(models.create(section, 3, (32, 32, 3)).init, jax.random.key(0))
    slots = models.registry.torch_slots("resnet18", "torchvision", shapes)
    tensors = {
        name: np.zeros(models.torch_names.torch_shape(slot), np.float16)
        for name, slot in slots.items()
    }
    del tensors["bn1.bias"]
    weight_files.write(tmp_path / "r18.safetensors", tensors, {})
    return tmp_path / "r18.safetensors"


def test_a_refusal_leaves_no_folder(resnet, root, base, tmp_path):
    changes = {"model.name": "resnet18", "model.pretrained": str(resnet)}
    changes["data.image_size"] = (32, 32)
    with pytest.raises(UsageError) as error:
        train.train_and_evaluate(tiny.config(root / "pictures.npz", changes), tmp_path / "run")
    assert str(error.value).splitlines() == [
        f"model.pretrained: {resnet} does not fit model.name='resnet18', by the names of "
        "torchvision:",
        "  1 missing: bn1.bias",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("nowhere.pth", UsageError, r"nowhere\.pth: no such file\. Give a \.safetensors"),
        ("runs/gone-1", UsageError, "runs/gone-1: no such file"),
        (".", UsageError, "a folder, but no run"),
        ("timm/resnet18.a1_in1k", UserError, r"pip install 'imgclass\[weights\]'"),
    ],
)
def test_there_is_no_such_thing(source, kind, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=words) as error:
        load(source)
    assert type(error.value) is kind
    assert len(str(error.value).splitlines()) == 1


def test_a_vits_positions_are_resampled_and_the_log_says_so(tmp_path, caplog):
    section = config_lib.defaults().model
    section.name = "vit_ti_4"
    model = models.create(section, 3, (32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.full(leaf.shape, 0.5, np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    file = tmp_path / "vit.safetensors"
    safetensors.numpy.save_file(arrays, file)
    with caplog.at_level(logging.INFO):
        found = load(file, "vit_ti_4", side=64)
    assert found.arrays["params.position_embedding"].shape == (1, 257, 192)
    assert f"{file}: params.position_embedding is resampled for data.image_size" in caplog.messages
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load(file, "vit_ti_4")
    assert "resampled" not in caplog.text


def test_a_run_of_another_architecture(base):
    with pytest.raises(UsageError, match=r"base is a cnn, and model\.name='resnet18'"):
        load(base, "resnet18")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hugging Face Hub does for the files of `someone/their_net`."""

    def do_GET(self):
        repository, resolve, rest = self.path[1:].partition("/resolve/")
        if resolve:  # a client may ask for other things too
            self.server.asked.append(f"{self.command} {self.path}")
        data = self.server.files.get(rest.partition("/")[2])
        if repository != "someone/their_net" or data is None:
            known = repository == "someone/their_net"
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def hub(files):
    """Yields a server of those files, {name: bytes}."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.asked = files, []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def found_on(server, home, source):
    """Returns what a process of its own prints: the digest and name of what it found, or why not.

    The client takes its address and its cache from the environment when it is imported.
    """
    code = (
        "import hashlib, sys; from imgclass import errors, pretrained\n"
        "try: path = pretrained.find(sys.argv[1])\n"
        "except errors.UserError as error: sys.exit(str(error))\n"
        "print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name,"
        " sorted(p.name for p in path.parent.iterdir()))"
    )
    address = f"http://127.0.0.1:{server.server_address[1]}"
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGINGFACE_")) and not key.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [sys.executable, "-c", code, source],
        env=inherited | {"HF_ENDPOINT": address, "HF_HOME": str(home)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def test_weights_come_from_the_hub_and_then_from_its_cache(tmp_path, resnet):
    weights = resnet.read_bytes()
    expected = f"{hashlib.sha256(weights).hexdigest()} pytorch_model.bin"
    expected += " ['config.json', 'pytorch_model.bin']"
    with hub({"pytorch_model.bin": weights, "config.json": b"{}"}) as server:
        assert found_on(server, tmp_path, "hf-hub:someone/their_net") == expected
        got = [path for path in server.asked if path.startswith("GET ")]
        names = [path.rpartition("/")[2] for path in got]
        assert names == ["config.json", "pytorch_model.bin"]
        assert "HEAD /someone/their_net/resolve/main/model.safetensors" in server.asked
        words = found_on(server, tmp_path, "timm/not_there")
        assert words.startswith("timm/not_there: not to be had from the Hugging Face Hub (")
        server.asked.clear()
        assert found_on(server, tmp_path, "hf-hub:someone/their_net") == expected
        assert server.asked == []


def test_a_hub_that_is_not_reached_is_asked_for_one_file(monkeypatch):
    errors = pytest.importorskip("huggingface_hub.errors")
    asked = []

    def hf_hub_download(repository, name, local_files_only):
        if not local_files_only:
            asked.append(name)
        raise errors.LocalEntryNotFoundError("no network\nand more lines")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    with pytest.raises(UserError, match=r"from the Hugging Face Hub \(no network\)$"):
        pretrained.find("timm/resnet18.tv_in1k")
    assert asked == ["config.json"]


def test_timms_tensorflow_models_are_refused():
    section = config_lib.defaults().model
    section.name = "efficientnet_b0"
    with pytest.raises(UsageError, match="pad as TensorFlow does"):
        pretrained._check_constants(section, "timm", "timm/tf_efficientnet_b0.ns_jft_in1k")
    section.name = "efficientnet_lite0"
    pretrained._check_constants(section, "timm", "timm/tf_efficientnet_lite0.in1k")


def test_timms_other_epsilon_is_told(caplog):
    section = config_lib.defaults().model
    section.name = "mobilenet_v3_large"
    pretrained._check_constants(section, "torchvision", "a.pth")
    assert not caplog.text
    pretrained._check_constants(section, "timm", "a.pth")
    assert "timm's weights of mobilenet_v3_large need" in caplog.text
    assert "--config.model.batch_norm_epsilon=1e-05" in caplog.text


def test_the_key_is_of_every_model():
    for name in ("cnn", "resnet18"):
        config = config_lib.defaults()
        config.model.update(name=name, pretrained="a.pth")
        config = config_lib.resolve(config)
        assert config_lib.problems(config, ["model.pretrained"], models.used_keys()) == []
