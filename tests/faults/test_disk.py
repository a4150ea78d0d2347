"""Disks that are full, read-only or forbidden: one line, status 1, and nothing is lost."""

import jax
import jax.numpy as jnp
import pytest

from imgclass import run, train
from imgclass.checkpoint import SPARE, Checkpoints
from imgclass.errors import UserError
from tests import tiny
from tests.faults.places import as_nobody, needs_namespaces, python, shell

CHANGES = {"train.total_steps": 12, "checkpoint.every_steps": 2, "checkpoint.keep": 50,
           "model.hidden": (256,), "log.every_steps": 12}  # fmt: skip


def only_line(text, words):
    """Asserts that a run said one line of error, and no traceback; returns it."""
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if words in line]
    assert len(lines) == 1, text
    return lines[0]


@needs_namespaces
@pytest.mark.slow
def test_a_full_disk_ends_a_run_which_goes_on_once_there_is_room(tmp_path):
    """A checkpoint takes 150 KB and a spare MB: the disk of 1.5 MB has room for some, not for 6."""
    data = tiny.archive(tmp_path)
    (tmp_path / "disk").mkdir()
    script = """
    mount -t tmpfs -o size=1500k none "$disk"
    train; echo "status $?"
    echo finished "$disk"/run/checkpoints/*/manifest.json | tr ' ' '\\n' | wc -l
    tail -n 1 "$disk/run/log.txt"
    mount -o remount,size=50m "$disk"
    train; echo "status $?"
    """
    done = shell(
        script, disk=tmp_path / "disk", train=tiny.command(data, tmp_path / "disk/run", CHANGES)
    )
    out = done.stdout.splitlines()
    said = only_line(done.stderr, "No space left on device")
    assert out[0] == "status 1"
    assert said.startswith(f"{tmp_path}/disk/run/checkpoints/")
    assert said.endswith("make room or mend the disk, then run the same command to go on")
    assert out[2].endswith(said)  # log.txt
    assert out[3] == "status 0"
    steps = 2 * (int(out[1]) - 1)
    assert 2 <= steps <= 10
    assert f"steps {steps} to 12 of" in done.stderr  # not anew


@needs_namespaces
def test_a_read_only_disk_is_refused_at_once(tmp_path):
    data = tiny.archive(tmp_path)
    (tmp_path / "disk").mkdir()
    script = """
    mount -t tmpfs -o size=1m none "$disk"
    mount -o remount,ro "$disk"
    train; echo "status $?"
    """
    done = shell(script, disk=tmp_path / "disk", train=tiny.command(data, tmp_path / "disk/run"))
    assert done.stdout == "status 1\n", done.stderr
    assert done.stderr == (
        f"{tmp_path}/disk/run: cannot be written (Read-only file system); give another --workdir\n"
    )


def test_a_full_disk_is_refused_at_once(tmp_path):
    data = tiny.archive(tmp_path)
    (tmp_path / "disk").mkdir()
    script = """
    mount -t tmpfs -o size=1m none "$disk"
    head -c 2m /dev/zero > "$disk/full" 2> /dev/null
    train; echo "status $?"
    """
    done = shell(script, disk=tmp_path / "disk", train=tiny.command(data, tmp_path / "disk/run"))
    assert done.stdout == "status 1\n", done.stderr
    assert done.stderr == (
        f"{tmp_path}/disk/run/lock: cannot be locked (No space left on device); give a --workdir "
        "on another disk\n"
    )


def test_a_folder_that_is_not_mine(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    config = tiny.config(tiny.archive(tmp_path))
    folder.chmod(0o555)
    with (
        as_nobody(tmp_path),
        pytest.raises(UserError, match=r"run: cannot be written \(Permission"),
    ):
        train.train_and_evaluate(config, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_files_that_may_not_grow_end_a_run(tmp_path):
    """RLIMIT_FSIZE: Orbax's thread fails half-way through the first save."""
    data = tiny.archive(tmp_path)
    command = tiny.command(data, tmp_path / "run", CHANGES | {"model.hidden": (2048,)})
    done = shell("ulimit -f 200; train", train=command)
    assert done.returncode == 1
    assert "(File too large)" in only_line(done.stderr, "could not be written")
    assert tiny.saved_steps(tmp_path / "run") == []


def test_a_save_that_has_no_room_is_not_begun(tmp_path, monkeypatch):
    state = {"w": jnp.zeros((10, 10)), "n": jnp.zeros((), jnp.int32)}
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )
    free = 404 + SPARE
    with Checkpoints(tmp_path / "c") as saved:
        monkeypatch.setattr(
            "shutil.disk_usage", lambda _: type("Disk", (), {"free": free, "total": 1})
        )
        saved.save(1, state, {"step": 1}, None)
        saved.wait()
        free -= 1
        words = rf"No space left on device: {404 + SPARE:,} bytes needed, {404 + SPARE - 1:,} free"
        with pytest.raises(UserError, match=words):
            saved.save(2, state, {"step": 2}, None)
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["0000000001"]
        found = saved.restore(like)
    assert found is not None
    assert found[1] == {"step": 1}


ENDS = """
import pathlib, sys
import jax.numpy as jnp
from imgclass.checkpoint import Checkpoints
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
state = {"a": jnp.arange(2.0**20)}
with Checkpoints(folder) as saved:
    saved.save(1, state, {"step": 1}, None)
    if how == "error":
        raise ZeroDivisionError
    sys.exit(3)
"""


@pytest.mark.parametrize(("how", "status"), [("error", 1), ("exit", 3)])
def test_a_process_that_ends_right_after_a_save_has_saved(tmp_path, how, status):
    done = python(ENDS, tmp_path / "c", how)
    assert done.returncode == status, done.stderr
    assert Checkpoints(tmp_path / "c").steps() == [1]


def test_a_folder_whose_name_is_no_text(tmp_path):
    folder = tmp_path / "caf\udce9"
    with pytest.raises(UserError, match="the folder's name is not UTF-8"), run.locked(folder):
        pass
    assert not folder.exists()
