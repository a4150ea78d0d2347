"""`imgclass VERB`: one tiny run on coloured squares, and what can be asked of it."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from imgclass import cli, train
from imgclass import config as config_lib
from imgclass.evaluate import predict
from tests.tiny import ask

CLASSES = ("blue", "green", "red")


def square(path, colour, rng):
    """Writes a 16x16 PNG of one colour, with noise."""
    pixels = rng.integers(0, 60, (16, 16, 3), np.uint8)
    pixels[..., {"red": 0, "green": 1, "blue": 2}[colour]] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_config(pictures):
    config = config_lib.defaults()
    config.data.name = str(pictures)
    config.data.image_size = (16, 16)
    config.data.validation_fraction = 0.25  # 2 of each class
    config.model.filters = (4,)
    config.train.batch_size = 8
    config.train.total_steps = 6
    config.checkpoint.every_steps = config.eval.every_steps = 2
    config.checkpoint.keep = 10
    config.log.tensorboard = False
    return config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 3 x 8 training and 3 x 2 test pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for colour in CLASSES:
        for split, count in (("train", 8), ("test", 2)):
            for number in range(count):
                square(folder / split / colour / f"{number}.png", colour, rng)
    return folder


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "squares-1"
    train.train_and_evaluate(make_config(pictures), folder)
    return folder


def last_object(out):
    return json.loads(out.splitlines()[-1], parse_constant=pytest.fail)  # NaN is not JSON


def test_help_answers_without_jax_or_tfds():
    code = (
        "import sys\n"
        "from imgclass import cli\n"
        "try:\n    cli.main(['--help'])\n"
        "except SystemExit as error:\n    assert error.code == 0\n"
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'tensorflow_datasets', 'tensorflow', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout
    assert "predict" in done.stdout


def test_the_package_can_be_run_as_the_command():
    words = [sys.executable, "-m", "imgclass", "evaluate", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("nowhere is not a run folder")


@pytest.mark.parametrize(
    "words", [(), ("evaluate",), ("fly", "x"), ("evaluate", "x", "--split=val"), ("predict", "x"),
              ("predict", "x", "y", "--top=0"), ("evaluate", "x", "--nosuch")]
)  # fmt: skip
def test_wrong_usage_is_status_2(capsys, words):
    status, out, err = ask(capsys, *words)
    assert (status, out) == (2, "")
    assert "Traceback" not in err


def test_evaluate_prints_figures(capsys, folder):
    status, out, err = ask(capsys, "evaluate", folder)
    assert status == 0
    assert out.splitlines()[0].endswith("validation, 6 pictures")
    assert err == ""


def test_evaluate_agrees_with_what_training_recorded(capsys, folder):
    status, out, _ = ask(capsys, "evaluate", folder, "--json", "--checkpoint=latest")
    found = last_object(out)
    final = json.loads((folder / "result.json").read_text())["final"]
    assert status == 0
    assert (found["step"], found["split"], found["examples"]) == (6, "validation", 6)
    assert found["loss"] == pytest.approx(final["loss"], rel=1e-6)
    assert found["accuracy"] == final["accuracy"]


def test_predict_and_evaluate_agree(capsys, folder, pictures):
    """The loss of `evaluate` is the mean of -ln p that `predict` gives the true class."""
    scored = last_object(ask(capsys, "evaluate", folder, "--split=test", "--json")[1])
    status, out, _ = ask(capsys, "predict", folder, pictures / "test", "--json")
    assert status == 0
    rows = last_object(out)["predictions"]
    assert len(rows) == 6
    losses, right = [], 0
    for row in rows:
        truth = row["path"].split("/")[-2]
        assert row["label"] == row["top"][0]["label"]
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-6)
        losses += [-math.log(e["probability"]) for e in row["top"] if e["label"] == truth]
        right += row["label"] == truth
    assert scored["examples"] == 6
    assert scored["loss"] == pytest.approx(sum(losses) / 6, abs=1e-6)
    assert scored["accuracy"] == pytest.approx(right / 6, abs=1e-9)


def test_a_picture_is_predicted_alike_alone_and_in_company(capsys, folder, pictures):
    picture = pictures / "test" / "red" / "0.png"
    alone = last_object(ask(capsys, "predict", folder, picture, "--json")[1])["predictions"][0]
    company = last_object(ask(capsys, "predict", folder, pictures, "--json")[1])["predictions"]
    (same,) = [row for row in company if row["path"] == str(picture)]
    assert same["label"] == alone["label"]
    assert same["probability"] == pytest.approx(alone["probability"], abs=1e-6)


@pytest.fixture
def good_and_bad(tmp_path, pictures):
    """A good picture, a truncated JPEG, a text file, and a file that is not there."""
    truncated = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:1500])
    (tmp_path / "note.txt").write_text("not a picture")
    good = pictures / "test" / "red" / "0.png"
    return [good, truncated, tmp_path / "note.txt", tmp_path / "gone.png"]


def test_bad_files_are_rows_with_their_errors_and_status_1(capsys, folder, good_and_bad):
    status, out, err = ask(capsys, "predict", folder, *good_and_bad, "--json")
    assert status == 1
    rows = last_object(out)["predictions"]
    assert [row["path"] for row in rows] == [str(path) for path in good_and_bad]
    assert ["error" in row for row in rows] == [False, True, True, True]
    assert rows[1]["error"] == "truncated"
    assert rows[3]["error"] == "No such file or directory"
    assert len(err.splitlines()) == 3


def test_csv_has_a_row_a_picture(capsys, folder, good_and_bad, tmp_path):
    output = tmp_path / "out.csv"
    status, _, _ = ask(capsys, "predict", folder, *good_and_bad, f"--output={output}", "--top=2")
    assert status == 1
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "probability", "label_2", "probability_2", "error"]
    assert [row["path"] for row in rows] == [str(path) for path in good_and_bad]
    assert rows[0]["label"] in CLASSES
    assert float(rows[0]["probability"]) >= float(rows[0]["probability_2"])
    assert rows[0]["error"] == ""
    assert (rows[1]["label"], rows[1]["error"]) == ("", "truncated")


def test_ctrl_c_leaves_no_half_table(capsys, folder, pictures, tmp_path, monkeypatch):
    real = predict.predict

    def interrupted(restored, paths):
        every = real(restored, paths)
        yield next(every)
        assert ".partial" in {path.suffix for path in tmp_path.iterdir()}
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict", interrupted)
    output = tmp_path / "out.csv"
    status, _, err = ask(capsys, "predict", folder, pictures / "test", f"--output={output}")
    assert (status, err) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []
    output.write_text("of before")
    assert ask(capsys, "predict", folder, pictures / "test", f"--output={output}")[0] == 130
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]


def test_names_that_are_no_text_are_printed_and_written(capsys, folder, pictures, tmp_path):
    new, output = tmp_path / "new", tmp_path / "out.csv"
    new.mkdir()
    name = os.fsencode(new) + b"/caf\xe9.png"
    shutil.copy(pictures / "test" / "red" / "0.png", name)
    status, out, _ = ask(capsys, "predict", folder, new)
    assert status == 0
    assert out.startswith(f"{new}/caf\\udce9.png: ")
    assert ask(capsys, "predict", folder, new, f"--output={output}")[0] == 0
    assert output.read_bytes().splitlines()[1].startswith(name + b",")


def test_more_than_all_classes_are_all_classes(capsys, folder, pictures, tmp_path):
    output = tmp_path / "out.csv"
    picture = pictures / "test" / "red" / "0.png"
    status, out, _ = ask(capsys, "predict", folder, picture, "--json", "--top=99")
    assert status == 0
    assert {e["label"] for e in last_object(out)["predictions"][0]["top"]} == set(CLASSES)
    assert ask(capsys, "predict", folder, picture, "--top=99", f"--output={output}")[0] == 0
    assert output.read_text().splitlines()[0].split(",") == [
        "path", "label", "probability", "label_2", "probability_2", "label_3", "probability_3",
        "error",
    ]  # fmt: skip


def test_output_that_cannot_be_written(capsys, folder, pictures, tmp_path):
    output = tmp_path / "gone" / "out.csv"
    status, _, err = ask(
        capsys, "predict", folder, pictures / "test" / "red" / "0.png", f"--output={output}"
    )
    assert status == 1
    assert err == f"{output}: cannot be written (No such file or directory)\n"


@pytest.mark.parametrize(("which", "step"), [("latest", 6), ("6", 6), ("4", 4)])
def test_checkpoints_by_name(capsys, folder, which, step):
    _, out, _ = ask(capsys, "evaluate", folder, "--json", f"--checkpoint={which}")
    assert last_object(out)["step"] == step


def test_best_is_the_step_that_result_json_names(capsys, folder):
    best = json.loads((folder / "result.json").read_text())["best"]
    found = last_object(ask(capsys, "evaluate", folder, "--json")[1])
    assert (found["step"], found["accuracy"]) == (best["step"], best["accuracy"])


@pytest.mark.parametrize("which", ["garbage", "5", "-1", "", "../6"])
def test_checkpoints_that_are_not_there(capsys, folder, which):
    status, out, err = ask(capsys, "evaluate", folder, f"--checkpoint={which}", "--json")
    assert (status, out) == (2, "")
    assert f"no checkpoint {which!r}; there are best, latest, " in err


def test_a_damaged_newest_checkpoint_is_said_and_stepped_over(capsys, caplog, folder, tmp_path):
    damaged = tmp_path / "run"
    shutil.copytree(folder, damaged)
    newest = damaged / "checkpoints" / "0000000006" / "manifest.json"
    newest.write_text(newest.read_text().replace('"step": 6', '"step": 7', 1))
    for which in ("best", "latest"):
        status, out, _ = ask(capsys, "evaluate", damaged, "--json", f"--checkpoint={which}")
        assert status == 0
        assert last_object(out)["step"] <= 4
        assert "checkpoint of step 6 is damaged" in caplog.text
        caplog.clear()
    status, out, err = ask(capsys, "evaluate", damaged, "--json", "--checkpoint=6")
    assert (status, out) == (1, "")
    assert "damaged" in err


def test_not_a_run_folder(capsys, tmp_path, pictures):
    for verb, *more in (("evaluate",), ("predict", pictures)):
        status, out, err = ask(capsys, verb, tmp_path, *more)
        assert status in (1, 2)
        assert out == ""
        assert err == f"{tmp_path} is not a run folder: it has no config.json\n"


def test_a_folder_without_pictures(capsys, folder, tmp_path):
    status, _, err = ask(capsys, "predict", folder, tmp_path)
    assert status == 1
    assert err.startswith(f"{tmp_path}: no pictures (")


def test_folders_are_searched_as_for_training(capsys, folder, pictures, tmp_path):
    new, elsewhere = tmp_path / "new", tmp_path / "elsewhere"
    picture = pictures / "test" / "red" / "0.png"
    for path in (new / "a.png", new / ".cache" / "b.png", elsewhere / "c.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, path)
    (new / "linked").symlink_to(elsewhere)
    (new / "linked" / "back").symlink_to(new)
    (new / "gone.png").symlink_to(tmp_path / "nowhere.png")
    status, out, err = ask(capsys, "predict", folder, new, "--json")
    rows = last_object(out)["predictions"]
    assert [row["path"] for row in rows] == [
        f"{new}/a.png", f"{new}/gone.png", f"{new}/linked/c.png",
    ]  # fmt: skip
    assert (status, err) == (1, f"{new}/gone.png: No such file or directory\n")


def test_a_run_without_validation_or_test(capsys, pictures, tmp_path):
    config = make_config(pictures)
    config.data.validation_split = config.data.test_split = ""
    config.train.total_steps = 1
    train.train_and_evaluate(config, tmp_path / "run")
    status, out, err = ask(capsys, "evaluate", tmp_path / "run", "--split=test")
    assert (status, out) == (2, "")
    assert err.endswith("its data has no test split; it has train\n")
    # Without validation, 'best' is the latest.
    status, out, _ = ask(capsys, "evaluate", tmp_path / "run", "--split=train", "--json")
    assert (status, last_object(out)["examples"]) == (0, 24)


def test_debug_shows_the_error_as_it_was_raised(tmp_path):
    with pytest.raises(Exception, match="is not a run folder"):
        cli.main(["evaluate", str(tmp_path), "--debug"])


def test_a_figure_that_is_undefined_is_null(capsys, tmp_path):
    """AUROC needs both classes: a test split of one class has none."""
    rng = np.random.default_rng(0)
    for split, colour, count in (("train", "red", 8), ("train", "blue", 8), ("test", "red", 2)):
        for number in range(count):
            square(tmp_path / "p" / split / colour / f"{number}.png", colour, rng)
    config = make_config(tmp_path / "p")
    config.train.total_steps = 1
    config.eval.final_test = True
    train.train_and_evaluate(config, tmp_path / "run")
    status, out, _ = ask(capsys, "evaluate", tmp_path / "run", "--split=test", "--json")
    assert status == 0
    assert last_object(out)["auroc"] is None
    json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=pytest.fail)
    # A finished run says its result again.
    train.train_and_evaluate(config, tmp_path / "run")


def test_a_pipe_is_not_waited_for(capsys, folder, pictures, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    good = next((pictures / "test").rglob("*.png"))
    status, out, err = ask(capsys, "predict", folder, tmp_path / "pipe.png", good)
    assert status == 1
    assert err == f"{tmp_path / 'pipe.png'}: not a regular file\n"
    assert out.startswith(f"{good}: ")


def test_a_file_that_is_spoken_of_nowhere_else_is_named(capsys, folder, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied", "/a/file")

    monkeypatch.setattr(predict, "find_pictures", refused)
    assert ask(capsys, "predict", folder, "x.png") == (1, "", "/a/file: Permission denied\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
    ],
)
def test_running_out_of_memory_is_one_line(capsys, folder, monkeypatch, error):
    def greedy(*_):
        raise error

    monkeypatch.setattr(predict, "find_pictures", greedy)
    said = f"out of memory: {error}. End other programs, or take a larger machine\n"
    assert ask(capsys, "predict", folder, "a.png") == (1, "", said)


def test_keys_are_not_to_be_abbreviated(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["lr-find", "configs/cnn.py", "--config.loss.label=0.1"])
    assert ended.value.code == 2
    assert "--config.loss.label=0.1" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_is_full_is_one_line(folder):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from imgclass.cli import console; console()",
                "evaluate",
                str(folder),
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "standard output cannot be written (No space left on device)\n"
