"""Run folders: names, locks, records, and what may change within a run."""

import errno
import fcntl
import json
import os
import pathlib
import platform
import subprocess

import pytest

from imgclass import config as config_lib
from imgclass import files, run
from imgclass.errors import UsageError, UserError


def resolved(**values):
    config = config_lib.defaults()
    for path, value in values.items():
        section, name = path.split("__")
        config[section][name] = value
    return config_lib.resolve(config)


def started(folder, **values):
    """Makes `folder` a run folder of a config."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / "config.json", config_lib.to_json(resolved(**values)))
    return folder


def test_new_folders_count_up_and_never_take_an_old_one(tmp_path):
    root = tmp_path / "runs"
    (root / "cnn-2").mkdir(parents=True)
    (root / "cnn-2" / "keep").write_text("me")
    assert [run.new_folder(root, "cnn").name for _ in range(3)] == ["cnn-1", "cnn-3", "cnn-4"]
    assert (root / "cnn-2" / "keep").read_text() == "me"


def test_new_folder_where_none_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot be made .* give --workdir"):
        run.new_folder(tmp_path / "file", "cnn")
    with pytest.raises(UserError, match=r"cannot be made .* give --workdir"):
        run.new_folder(tmp_path / "dangling", "cnn")  # used to try ever higher numbers


def test_a_folder_in_use_names_the_process(tmp_path):
    with (
        run.locked(tmp_path),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on .*; wait"),
        run.locked(tmp_path),
    ):
        pass
    with run.locked(tmp_path):  # free again
        assert (tmp_path / "lock").read_text() == f"{os.getpid()} on {platform.node()}"


def test_only_the_lead_process_locks(tmp_path):
    with run.locked(tmp_path, lead=False):
        assert not (tmp_path / "lock").exists()
    # A second lead would be refused; one that follows is let in beside the first.
    with run.locked(tmp_path), run.locked(tmp_path, lead=False):
        assert (tmp_path / "lock").exists()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="it is a file"), run.locked(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="Not a directory"), run.locked(tmp_path / "file" / "x"):
        pass
    run.remove_if_unused(tmp_path / "file")
    run.remove_if_unused(tmp_path / "file" / "x")
    assert (tmp_path / "file").exists()


def test_unused_folders_go_and_used_ones_stay(tmp_path):
    unused = run.new_folder(tmp_path, "cnn")
    with run.locked(unused):
        pass
    run.remove_if_unused(unused)
    assert not unused.exists()
    used = started(tmp_path / "used")
    run.remove_if_unused(used)
    assert used.is_dir()
    other = tmp_path / "pictures"
    other.mkdir()
    (other / "cat.png").write_text("")
    run.remove_if_unused(other)
    assert (other / "cat.png").exists()


def test_a_start_that_fails_removes_what_it_made_and_nothing_else(tmp_path):
    with run.locked(tmp_path / "made"):
        (tmp_path / "made" / "log.txt").write_text("refused")
    assert not (tmp_path / "made").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    with run.locked(mine):
        pass
    assert list(mine.iterdir()) == []
    with run.locked(tmp_path / "begun"):
        started(tmp_path / "begun")
    assert {p.name for p in (tmp_path / "begun").iterdir()} == {"config.json", "lock"}


def test_a_folder_of_the_users_is_not_removed_and_a_new_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with run.folder_for("mine", "cnn") as folder:
        assert folder == pathlib.Path("mine")
    assert (tmp_path / "mine").is_dir()
    with run.folder_for("", "cnn") as folder, run.locked(folder):
        assert (tmp_path / "runs" / "cnn-1").is_dir()
    assert not (tmp_path / "runs" / "cnn-1").exists()


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path, monkeypatch):
    """Between this process's open and its flock the holder ends, and removes the file."""
    real, calls = fcntl.flock, []

    def flock(file, how):
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / "lock").unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with run.locked(tmp_path):
        assert len(calls) == 2
        with pytest.raises(UserError, match="in use by process"), run.locked(tmp_path):
            pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_lock_is_not_a_folder_in_use(tmp_path, monkeypatch, code):
    def flock(file, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(UserError, match=rf"lock: cannot be locked \({os.strerror(code)}\); give"),
        run.locked(tmp_path),
    ):
        pass


def test_a_folder_that_another_process_is_starting_in_stays(tmp_path):
    # The second process is refused, and cleans up while the first has not written its config yet.
    folder = tmp_path / "cnn-1"
    with run.locked(folder):
        run.remove_if_unused(folder)
        assert (folder / "lock").exists()


def test_the_same_config_goes_on(tmp_path):
    run.check_config(started(tmp_path / "a"), resolved(), allow_change=False)
    run.check_config(tmp_path / "new", resolved(), allow_change=False)


def test_a_changed_lr_is_refused_with_the_difference_and_accepted_if_allowed(tmp_path):
    folder = started(tmp_path / "a")
    with pytest.raises(UsageError) as caught:
        run.check_config(folder, resolved(optim__lr=0.5), allow_change=False)
    assert str(caught.value).splitlines()[1:] == [
        "  optim.lr: 0.001 then, 0.5 now",
        "Use a new --workdir, or --allow_config_change to go on like this",
    ]
    changes = run.check_config(folder, resolved(optim__lr=0.5), allow_change=True)
    assert changes == ["optim.lr: 0.001 then, 0.5 now"]


def test_a_changed_model_is_refused_even_if_changes_are_allowed(tmp_path):
    folder = started(tmp_path / "a")
    config = resolved(model__filters=(16,), optim__lr=0.5)
    with pytest.raises(UsageError, match=r"model\.filters cannot change within a run") as caught:
        run.check_config(folder, config, allow_change=True)
    assert "  model.filters: (32,) then, (16,) now" in str(caught.value)
    assert "  optim.lr: 0.001 then, 0.5 now" in str(caught.value)


# The order of examples (batch_size, seed, splits), the pictures, and the state's arrays are a run's
# identity; how long, how fast and how closely watched it goes on is not.
MAY = [
    "log.every_steps",
    "eval.every_epochs",
    "eval.batch_size",
    "eval.final_test",
    "checkpoint.keep",
    "train.total_steps",
    "train.total_epochs",
    "train.devices",
    "train.fsdp",
    "train.on_nonfinite",
    "train.steps_per_dispatch",
    "data.data_dir",
    "data.feed",
    "data.threads",
    "data.resident_mb",
    "optim.lr",
    "optim.schedule",
    "optim.warmup_epochs",
    "optim.step_at",
    "augment.flip",
    "loss.label_smoothing",
]
MUST_NOT = [
    "augment.repeats",
    "seed",
    "train.batch_size",
    "data.name",
    "data.image_size",
    "data.split_seed",
    "data.validation_fraction",
    "data.channels",
    "data.standardize",
    "data.bad_files",
    "data.train_split",
    "data.resize",
    "model.name",
    "model.filters",
    "model.dtype",
    "optim.name",
    "optim.ema_decay",
    "optim.accumulate",
]


@pytest.mark.parametrize("key", MAY)
def test_keys_that_may_change(key):
    assert key in config_lib.kinds()
    assert run.MAY_CHANGE.fullmatch(key)


@pytest.mark.parametrize("key", MUST_NOT)
def test_keys_that_must_not_change(key):
    assert key in config_lib.kinds()
    assert not run.MAY_CHANGE.fullmatch(key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not a run folder: it has no config.json"),
        ("{", "config.json cannot be read"),
        ('{"optim": {"lrr": 1}}', r"config.json: optim.lrr: no such key; did you mean 'optim.lr'"),
        ('{"optim": {"lr": "x"}}', "config.json: optim.lr='x': must be float"),
    ],
)
def test_load_config_of_what_is_no_run(tmp_path, text, words):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=words):
        run.load_config(tmp_path)


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def line(step, split="train"):
    return json.dumps({"step": step, "split": split}) + "\n"


def test_records_past_the_resumed_step_are_dropped_and_no_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, (10, 20, 20, 30, 40))))
    log = run.Records(path, resume_step=20)
    log.write({"step": 30, "loss": 1.5})
    log.close()
    assert [record["step"] for record in records(path)] == [10, 20, 20, 30]
    assert records(path)[-1] == {"step": 30, "loss": 1.5}


def test_a_test_figure_is_written_anew_by_the_run_that_goes_on(tmp_path):
    """Killed between the test record, of the best weights at 20, and result.json at 30."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(20) + line(30) + line(30, "validation") + line(20, "test"))
    run.Records(path, resume_step=30).close()
    assert [record["split"] for record in records(path)] == ["train", "train", "validation"]


@pytest.mark.parametrize("tail", ['{"step": 30, "sp', '{"step": 3', "\n", "null\n", '{"a": 1}\n'])
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(10) + tail)
    log = run.Records(path, resume_step=30)
    log.write({"step": 31})
    log.close()
    assert [record["step"] for record in records(path)] == [10, 31]


def test_a_start_from_nothing_starts_its_records_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(0))
    run.Records(path, resume_step=0).close()
    assert path.read_text() == ""


def test_a_record_is_on_disk_when_write_returns(tmp_path, monkeypatch):
    synced = []
    log = run.Records(tmp_path / "metrics.jsonl", resume_step=0)

    def fsync(number):
        synced.append(pathlib.Path(f"/proc/self/fd/{number}").resolve().read_text())

    monkeypatch.setattr(os, "fsync", fsync)
    log.write({"step": 1})
    assert synced == ['{"step": 1}\n']
    log.close()


def test_every_start_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["main.py", "--config=configs/cnn.py"])
    run.record_start(tmp_path)
    run.record_start(tmp_path)
    first, second = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert first["command"] == second["command"] == ["main.py", "--config=configs/cnn.py"]
    assert {"jax", "flax", "optax", "numpy"} <= first["packages"].keys()
    assert first["devices"] == ["cpu"] * 8  # conftest's
    assert "XLA_FLAGS" in first["settings"]
    assert "git" in first


def test_git_commit_is_that_of_the_code():
    git = run.environment()["git"]
    if git is not None:  # a checkout
        assert len(git["commit"]) == 40
        assert isinstance(git["changed"], bool)


def test_a_repository_around_an_installed_package_is_not_recorded(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "site-packages" / "imgclass"
    package.mkdir(parents=True)
    monkeypatch.setattr(run, "__file__", str(package / "run.py"))
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b",
                  "commit", "-q", "--allow-empty", "-m", "theirs"]):  # fmt: skip
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert run.environment()["git"] is None


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    run.write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        run.write_json(path, {"a": object()})
    assert run.load_json(path) == {"a": 1}
    assert run.load_json(tmp_path / "none.json") is None
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        run.load_json(path)
