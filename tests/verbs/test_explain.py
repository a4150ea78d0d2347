"""`imgclass explain`: files and figures of a tiny run, bad pictures, and what is refused."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from imgclass import cli, train
from imgclass.explain import maps
from imgclass.verbs import explain
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a convolution on 8x8 pictures of three classes."""
    folder = tmp_path_factory.mktemp("explain")
    with tiny.compiled_quickly():
        train.train_and_evaluate(tiny.config(tiny.archive(folder)), folder / "run")
    return folder / "run"


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of one name in two folders."""
    images, _ = tiny.pictures(2, size=12, seed=5)
    for name, image in zip("ab", images, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(tiny.png(image))
    return tmp_path


def ask(capsys, *arguments):
    with tiny.compiled_quickly():
        status = cli.main(["explain", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_methods_are_those_of_the_maps():
    assert explain.METHODS == maps.METHODS


@pytest.mark.parametrize("method", explain.METHODS)
def test_each_method_writes_a_picture_and_its_figures(capsys, run, pictures, method):
    status, out, _ = ask(
        capsys, run, pictures / "a", pictures / "b", f"--method={method}", "--json",
        f"--output={pictures / 'out'}", "--check",
    )  # fmt: skip
    assert status == 0
    found = json.loads(out.splitlines()[-1])
    assert (found["run"], found["step"], found["method"]) == (str(run), 6, method)
    names = [f"1-{method}.png", f"1-2-{method}.png"]
    for row, name in zip(found["pictures"], names, strict=True):
        assert row["file"] == str(pictures / "out" / name)
        with Image.open(row["file"]) as image:
            assert image.size == (1200, 400)
        assert row["explained"] == row["label"]
        curve = row["deletion"]
        assert len(curve["removed"]) == len(curve["probability"]) == len(curve["random"])
        assert curve["probability"][0] == pytest.approx(row["probability"], abs=1e-6)
        assert curve["auc"] == pytest.approx(np.trapezoid(curve["probability"], curve["removed"]))
    checks = [row["check"] for row in found["pictures"] if row["check"] is not None]
    assert found["check"] == (pytest.approx(np.mean(checks)) if checks else None)


def test_the_figures_are_those_of_predict_and_a_class_can_be_chosen(capsys, run, pictures):
    picture = pictures / "a" / "1.png"
    with tiny.compiled_quickly():
        assert cli.main(["predict", str(run), str(picture), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["predictions"][0]
    other = said["top"][-1]
    status, out, _ = ask(capsys, run, picture, f"--label={other['label']}", "--json")
    assert status == 0
    (row,) = json.loads(out.splitlines()[-1])["pictures"]
    assert (row["label"], row["explained"]) == (said["label"], other["label"])
    assert row["probability"] == pytest.approx(said["probability"], abs=1e-6)
    assert row["explained_probability"] == pytest.approx(other["probability"], abs=1e-6)
    assert row["file"] == str(run / "explanations" / "1-gradcam.png")


def test_a_bad_picture_is_named_and_the_others_are_explained(capsys, run, pictures):
    (pictures / "bad.png").write_text("no picture")
    output = f"--output={pictures / 'out'}"
    status, out, err = ask(
        capsys, run, pictures / "bad.png", pictures / "gone.png", pictures / "a", output
    )
    assert status == 1
    assert err.splitlines()[0].startswith(f"{pictures / 'bad.png'}: ")
    assert err.splitlines()[1] == f"{pictures / 'gone.png'}: No such file or directory"
    (line,) = out.splitlines()
    assert line.startswith(f"{pictures / 'a' / '1.png'}: ")
    assert line.endswith(str(pictures / "out" / "1-gradcam.png"))


def test_no_picture_takes_the_file_of_another(capsys, run, pictures):
    shutil.copy(pictures / "a" / "1.png", pictures / "1-2.png")
    paths = (pictures / "1-2.png", pictures / "a", pictures / "b")
    status, out, _ = ask(capsys, run, *paths, "--json", f"--output={pictures / 'out'}")
    assert status == 0
    files = [pathlib.Path(row["file"]).name for row in json.loads(out)["pictures"]]
    assert files == ["1-2-gradcam.png", "1-gradcam.png", "1-3-gradcam.png"]


def test_long_names_are_cut(capsys, run, pictures):
    long = [pictures / f"{'é' * 120}{i}.png" for i in (1, 2)]  # 245 bytes
    for path in long:
        shutil.copy(pictures / "a" / "1.png", path)
    status, out, _ = ask(capsys, run, *long, "--json", f"--output={pictures / 'out'}")
    assert status == 0
    files = [pathlib.Path(row["file"]).name for row in json.loads(out)["pictures"]]
    assert files == [f"{'é' * 100}-gradcam.png", f"{'é' * 100}-2-gradcam.png"]


def test_figures_that_are_no_numbers_are_null(capsys, run, pictures, monkeypatch):
    figures = {"label": "a", "probability": float("nan"), "explained": "a"}
    monkeypatch.setattr(explain, "_explainer", lambda *_: lambda _: (figures, b""))
    status, out, _ = ask(capsys, run, pictures / "a", "--json", f"--output={pictures / 'out'}")
    assert status == 0
    (row,) = json.loads(out, parse_constant=pytest.fail)["pictures"]
    assert row["probability"] is None


def test_a_class_that_is_not_there_and_a_folder_that_cannot_be_made(capsys, run, pictures):
    status, _, err = ask(capsys, run, pictures / "a", "--label=clas1")
    assert status == 2
    assert "no such class" in err
    status, _, err = ask(capsys, run, pictures / "a", f"--output={pictures / 'a' / '1.png'}")
    assert status == 1
    assert "cannot be written" in err
