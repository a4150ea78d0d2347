"""main.py as a user meets it: what it says, its exit status, and what it leaves behind.

A few whole processes; the rest through `train.train_and_evaluate`, which main.py only wraps.
"""

import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

from imgclass import config as config_lib
from imgclass import run, train
from imgclass.errors import UsageError, UserError

ROOT = pathlib.Path(__file__).parent.parent
CNN = f"--config={ROOT / 'configs' / 'cnn.py'}"

# Runs main.py, and says last whether a device was touched.
WATCHED = f"""
import runpy, sys
sys.argv[0] = {str(ROOT / "main.py")!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    from jax._src import xla_bridge
    print("touched" if xla_bridge.backends_are_initialized() else "untouched")
"""


def start(folder, *words, watched=False):
    """Runs main.py in `folder` on one CPU device."""
    command = ["-c", WATCHED] if watched else [str(ROOT / "main.py")]
    return subprocess.run(
        [sys.executable, *command, *map(str, words)],
        cwd=folder,
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """48 gray 8x8 pictures of two classes to train on and 8 to test, as arrays."""
    rng = np.random.default_rng(0)
    labels = np.arange(48, dtype=np.int64) % 2
    images = (rng.integers(0, 100, (48, 8, 8)) + 120 * labels[:, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "two.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:8][:, ::-1], y_test=labels[:8])
    return path


def small(pictures, **values):
    config = config_lib.defaults()
    config.data.name = str(pictures)
    config.data.image_size = (8, 8)
    config.model.filters = (2,)
    config.train.batch_size = 8
    config.train.total_steps = 2
    config.log.tensorboard = False
    for path, value in values.items():
        section, name = path.split("__")
        config[section][name] = value
    return config


def test_a_wrong_command_is_refused_in_lines_before_a_device_is_touched(tmp_path):
    done = start(
        tmp_path, CNN, "--config.optim.lr=nan", "--config.train.bach_size=3", "x", watched=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "train.bach_size: no such key; did you mean 'train.batch_size'?",
        "'x': not a flag; flags start with --",
        "optim.lr=nan: must be a finite number above 0.0",
    ]
    assert done.stdout == "untouched\n"
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_not_there_leaves_no_run_folder(tmp_path):
    done = start(tmp_path, CNN, "--config.data.name=./pictures")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no such file or folder: ./pictures (data.name)\n"
    assert list(tmp_path.glob("runs/*")) == []


def test_a_process_number_without_its_company_is_not_ignored(tmp_path):
    done = start(tmp_path, CNN, "--process_id=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("--coordinator, --num_processes and --process_id")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--process_id=-1"], "--process_id=-1: -1 is not a non-negative integer"),
        (["--num_processes=-2"], "--num_processes=-2: -2 is not a non-negative integer"),
        (
            ["--distributed", "--coordinator=localhost:1", "--num_processes=1"],
            "--distributed finds the coordinator: give it or --coordinator, not both",
        ),
    ],
)
def test_processes_that_cannot_be_are_refused(tmp_path, words, message):
    done = start(tmp_path, CNN, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == message + "\n"


def test_debug_counts_after_parsing_too(tmp_path):
    done = start(tmp_path, CNN, "--process_id=1", "--debug=T")
    assert "UsageError: --coordinator, --num_processes" in done.stderr
    assert "Traceback" in done.stderr
    done = start(tmp_path, CNN, "--process_id=1", "--debug", "--nodebug")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["--debug", "--debug=true", "--debug=1"])
def test_debug_shows_the_traceback(tmp_path, word):
    done = start(tmp_path, "--config=gone.py", word)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "UsageError: --config=gone.py: no such file" in done.stderr


def test_help_is_status_0(tmp_path):
    done = start(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--workdir" in done.stdout
    assert "python main.py --config=configs/cnn.py" in done.stdout


def test_train_then_again_then_with_another_rate(tmp_path, pictures):
    words = [
        CNN,
        f"--config.data.name={pictures}",
        "--config.data.image_size=8,8",
        "--config.train.total_steps=2",
        "--config.optim.lr=1",  # a whole number for a float
        "--config.log.tensorboard=False",
    ]
    first = start(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "cnn-1"
    assert json.loads((folder / "config.json").read_text())["optim"]["lr"] == 1.0
    assert json.loads((folder / "result.json").read_text())["steps"] == 2
    assert first.stderr.splitlines()[-4:] == [
        "Next:",
        "  imgclass evaluate runs/cnn-1 --split=test",
        "  imgclass predict runs/cnn-1 PICTURE-OR-FOLDER...",
        "  runs/cnn-1/report.html: open it in a browser",
    ]
    log = (folder / "log.txt").read_text()
    assert "step 2/2" in log
    # The same folder with another rate.
    again = start(tmp_path, *words, "--config.optim.lr=0.5", "--workdir=runs/cnn-1")
    assert again.returncode == 2
    assert "Traceback" not in again.stderr
    assert again.stderr.splitlines()[1] == "  optim.lr: 1.0 then, 0.5 now"
    assert (folder / "log.txt").read_text() == log


def refuse(config, workdir, error=UsageError, **options):
    with pytest.raises(error) as caught:
        train.train_and_evaluate(config, workdir, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("batch_size", "words"),
    [
        (30, "cannot be shared by 8 devices: use 24 or 32, or --config.train.devices=6"),
        (4, "cannot be shared by 8 devices: use 8, or --config.train.devices=4"),
        (1, "cannot be shared by 8 devices: use 8, or --config.train.devices=1"),
    ],
)
def test_a_batch_the_devices_cannot_share(tmp_path, pictures, batch_size, words):
    assert jax.device_count() == 8
    text = refuse(small(pictures, train__batch_size=batch_size), tmp_path / "run")
    assert text == f"train.batch_size={batch_size} {words}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train__devices": 9}, "this machine shows 8 cpu devices"),
        ({"model__kernel_size": 9}, "a 9x9 window does not fit the 8x8 picture"),
        ({"model__filters": (2, 2, 2)}, "does not fit"),
        ({"model__name": "resnet19"}, "did you mean 'resnet1"),
        ({"eval__best_metric": "top5"}, "eval.best_metric='top5' is not defined for 2 classes"),
        ({"data__validation_split": "valid"}, "valid"),
        ({"data__name": "no_such_set_of_pictures"}, "no tfds set of that name"),
        ({"data__name": "/no/such/folder"}, "no such file or folder: /no/such/folder"),
        ({"data__name": "gone.csv"}, "no such file or folder: gone.csv"),
    ],
)
def test_what_cannot_be_trained_is_a_line_and_leaves_nothing(tmp_path, pictures, values, words):
    text = refuse(small(pictures, **values), tmp_path / "run")
    assert words in text
    assert len(text.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_a_near_tfds_name_is_named(tmp_path, pictures):
    assert "cifar10" in refuse(small(pictures, data__name="cifar01"), tmp_path / "run")


def test_a_set_that_cannot_be_prepared_says_what_to_run(tmp_path, pictures, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "tensorflow" else find_spec(n, *a)
    )
    config = small(pictures, data__name="cats_vs_dogs", data__data_dir=str(tmp_path / "tfds"))
    text = refuse(config, tmp_path / "run", UserError)
    assert text.splitlines()[0] == (
        f"cats_vs_dogs is not prepared in {tmp_path / 'tfds'}, and preparing it needs tensorflow."
    )
    assert text.splitlines()[1].startswith("Run: pip install -e '.[prepare]' in ")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be(tmp_path, pictures):
    (tmp_path / "file").write_text("mine")
    assert "it is a file" in refuse(small(pictures), tmp_path / "file", UserError)
    assert "Not a directory" in refuse(small(pictures), tmp_path / "file" / "run", UserError)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_in_use_names_the_process_and_stays_with_it(tmp_path, pictures):
    with run.locked(tmp_path / "run"):
        text = refuse(small(pictures), tmp_path / "run", UserError)
        assert (tmp_path / "run" / "lock").exists()
    assert text == (
        f"{tmp_path / 'run'} is in use by process {os.getpid()} on {platform.node()}; "
        "wait for it to end"
    )


def test_a_config_from_code_is_checked_too(tmp_path, pictures):
    config = small(pictures, optim__lr=-1.0, train__batch_size=0)
    assert len(refuse(config, tmp_path / "run").splitlines()) == 2
    assert not (tmp_path / "run").exists()


def test_a_refused_start_leaves_the_folder_as_it_was(tmp_path, pictures):
    folder = tmp_path / "run"
    train.train_and_evaluate(small(pictures, train__total_steps=3), folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "lock"}
    assert "past the 2 steps" in refuse(
        small(pictures, train__total_steps=2), folder, allow_change=True
    )
    assert "cannot change" in refuse(
        small(pictures, train__total_steps=3, model__depth=2), folder, allow_change=True
    )
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "lock"}
    assert before == after


def test_the_test_record_carries_the_step_and_epoch_of_its_weights(tmp_path, pictures):
    config = small(pictures, train__total_steps=4, eval__every_steps=1, eval__final_test=True)
    train.train_and_evaluate(config, tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (record,) = [r for r in map(json.loads, text.splitlines()) if r["split"] == "test"]
    examples = json.loads((tmp_path / "run" / "data.json").read_text())["splits"]["train"]
    assert record["step"] == result["best"]["step"] == result["test"]["step"]
    assert record["epoch"] == record["step"] * 8 / examples["examples"]
