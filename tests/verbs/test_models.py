"""`imgclass models`: published sizes, and patterns that match nothing."""

import json
import subprocess
import sys

import pytest

from imgclass import cli, models


def ask(capsys, *words):
    capsys.readouterr()
    status = cli.main(["models", *words])
    return status, *capsys.readouterr()


def test_a_table_of_published_sizes(capsys):
    status, out, err = ask(capsys, "resnet?8")
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["name", "parameters", "GMACs", "side", "weights", "of"]
    # torchvision: 11,689,512 parameters, 1.814 GMACs.
    assert [row.split() for row in rows] == [
        ["resnet18", "11,689,512", "1.814", "224", "torchvision,", "timm"]
    ]


def test_part_of_a_name_and_classes(capsys):
    # Published with 10 classes: 1,957,144 for 94 (3x3 kernels, biases, 256 x 10).
    status, out, _ = ask(capsys, "bench94", "--classes=10", "--json")
    (row,) = json.loads(out.splitlines()[-1])["models"]
    assert status == 0
    assert (row["name"], row["image_size"], row["sources"]) == ("airbench94", 32, [])
    wide = json.loads(ask(capsys, "bench94", "--json")[1])["models"][0]
    assert wide["parameters"] - row["parameters"] == 256 * 990
    assert wide["multiply_adds"] - row["multiply_adds"] == 256 * 990


def test_weights_of_keras_are_for_the_cnn(capsys):
    rows = json.loads(ask(capsys, "*nn*", "--json")[1])["models"]
    assert [row["sources"] for row in rows if row["name"] == "cnn"] == [["keras"]]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_no_model_matches(capsys, more):
    status, out, err = ask(capsys, "resnet5O", *more)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "'resnet5O'" in err
    assert "did you mean 'resnet50'" in err


@pytest.mark.slow
def test_all_of_them(capsys):
    status, out, _ = ask(capsys)
    assert status == 0
    assert [row.split()[0] for row in out.splitlines()[1:]] == models.names()


def test_rows_come_as_they_are_known():
    """`| head -2` ends the command after a row; it does not wait for the whole table."""
    code = "import sys; from imgclass.cli import console; sys.argv[1:] = ['models']; console()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as done:
        assert done.stdout is not None
        assert done.stdout.readline().startswith("name")
        assert done.stdout.readline().startswith("airbench94 ")
        assert done.poll() is None
        done.kill()
