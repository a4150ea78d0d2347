"""Checkpoints: nothing damaged is restored, nothing good is lost, donation changes nothing."""

import logging
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from imgclass import checkpoint, parallel
from imgclass.checkpoint import Checkpoints
from imgclass.errors import UserError
from tests.test_files import file_size_limit


def small_state(value=0.0):
    return {
        "params": {"dense": {"kernel": jnp.full((3, 2), float(value)), "bias": jnp.arange(2.0)}},
        "step": jnp.asarray(7, jnp.int32),
    }


def like(state, sharding=None):
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding or a.sharding), state
    )


def save_all(saved, steps, best=None):
    for step in steps:
        saved.save(step, small_state(step), {"step": step, "note": [0.1 + 0.2, None]}, best)
    saved.wait()


@pytest.fixture
def saved(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as made:
        yield made


def value_of(found):
    assert found is not None
    return float(found[0]["params"]["dense"]["kernel"][0, 0])


def test_what_was_saved_comes_back(saved):
    state = small_state(1 / 3)
    record = {"step": 5, "window": "x", "best": {"loss": 0.1 + 0.2, "auroc": float("nan")}}
    saved.save(5, state, record, None)
    saved.wait()
    found = saved.restore(like(state))
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, found[0], state)
    assert jax.tree.structure(found[0]) == jax.tree.structure(state)
    assert found[1]["best"]["loss"] == 0.1 + 0.2
    assert np.isnan(found[1]["best"]["auroc"])
    assert saved.record(5)["window"] == "x"


def test_an_empty_folder_has_nothing(saved, tmp_path):
    assert saved.restore(like(small_state())) is None
    assert saved.steps() == []
    assert not (tmp_path / "checkpoints").exists()


def test_arrays_survive_donation(tmp_path):
    """64 MiB take a while to write; the very next step overwrites the buffers they came from."""
    step = jax.jit(lambda state: jax.tree.map(lambda a: a * 2.0 + 1.0, state), donate_argnums=0)
    state = {"a": jnp.arange(2.0**24), "b": jnp.ones((4, 4))}
    state = step(state)
    expected = np.array(state["a"])
    with Checkpoints(tmp_path / "c") as saved:
        saved.save(1, state, {}, None)
        for _ in range(5):
            state = step(state)
        jax.block_until_ready(state)
        saved.wait()
        found = saved.restore(like(state))
    assert found is not None
    np.testing.assert_array_equal(found[0]["a"], expected)
    np.testing.assert_array_equal(found[0]["b"], np.full((4, 4), 3.0))
    assert float(state["b"][0, 0]) == 127.0  # 3 -> 7 -> 15 -> 31 -> 63 -> 127


def test_saving_does_not_wait_for_orbax(tmp_path, monkeypatch):
    """One process: only the copy is taken before training goes on."""
    free, begin = threading.Event(), Checkpoints._begin

    def late(*args):
        free.wait(30)
        begin(*args)

    monkeypatch.setattr(Checkpoints, "_begin", late)
    state = {"a": jnp.arange(8.0)}
    with Checkpoints(tmp_path / "c") as saved:
        saved.save(1, state, {}, None)
        assert saved.steps() == []
        free.set()
        saved.wait()
        assert saved.steps() == [1]


def test_a_flipped_bit_in_any_file_is_found(saved, tmp_path, caplog):
    save_all(saved, [10, 20])
    newest = tmp_path / "checkpoints/0000000020"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    assert len(files) >= 3
    assert value_of(saved.restore(like(small_state()))) == 20
    for path in files:
        data = path.read_bytes()
        for place in {0, len(data) // 2, len(data) - 1} if data else set():
            flipped = bytearray(data)
            flipped[place] ^= 4
            path.write_bytes(flipped)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert value_of(saved.restore(like(small_state()))) == 10, path
            assert "checkpoint of step 20 is damaged" in caplog.text
            assert "step 10" in caplog.text
        path.write_bytes(data)
    assert value_of(saved.restore(like(small_state()))) == 20


def array_file(tmp_path, step):
    """Returns the largest file of a step's arrays."""
    found = (tmp_path / f"checkpoints/{step:010d}/arrays").rglob("*")
    return max((path for path in found if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["removed", "cut", "added", "manifest"])
def test_other_damage_is_found(saved, tmp_path, damage):
    save_all(saved, [10, 20])
    path = array_file(tmp_path, 20)
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "added":
        (path.parent / "stray").write_bytes(b"")
    else:
        manifest = tmp_path / "checkpoints/0000000020/manifest.json"
        manifest.write_text(manifest.read_text()[:-9])
    assert value_of(saved.restore(like(small_state()))) == 10


def test_all_damaged_refuses(saved, tmp_path):
    save_all(saved, [10, 20])
    for step in (10, 20):
        array_file(tmp_path, step).unlink()
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(steps 10, 20\)"):
        saved.restore(like(small_state()))
    with pytest.raises(UserError, match="0000000010: this checkpoint is damaged"):
        saved.restore(like(small_state()), 10)


def test_what_is_not_a_checkpoint_is_ignored(saved, tmp_path):
    save_all(saved, [10])
    folder = tmp_path / "checkpoints"
    (folder / "0000000099").mkdir()  # Orbax's own manager would resume from this
    (folder / "0000000098").write_text("a file")
    (folder / "notes").mkdir()
    (folder / "notes/manifest.json").write_text("{}")
    shutil.copytree(folder / "0000000010", folder / "11")  # not a name of ours
    shutil.copytree(folder / "0000000010", folder / "0000000012.orbax-checkpoint-tmp")
    shutil.copytree(folder / "0000000010", folder / "0000000097")
    (folder / "0000000097/manifest.json").unlink()  # a save that was killed
    assert saved.steps() == [10]
    assert value_of(saved.restore(like(small_state()))) == 10


def test_a_killed_save_is_written_over(saved, tmp_path):
    left = tmp_path / "checkpoints/0000000010/arrays.orbax-checkpoint-tmp"
    left.mkdir(parents=True)
    (left / "part").write_text("half")
    (tmp_path / "checkpoints/0000000010/arrays").mkdir()
    save_all(saved, [10])
    assert value_of(saved.restore(like(small_state()))) == 10
    assert not left.exists()


def test_the_newest_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path / "c", keep=2) as saved:
        save_all(saved, [10, 20, 30, 40, 50], best=10)  # accuracy fell from the start
        assert saved.steps() == [10, 40, 50]
        save_all(saved, [60], best=50)
        assert saved.steps() == [50, 60]
        assert {path.name for path in (tmp_path / "c").iterdir()} == {"0000000050", "0000000060"}
    with Checkpoints(tmp_path / "c", keep=1) as saved:
        save_all(saved, [70], best=None)
        assert saved.steps() == [70]


def test_a_damaged_later_step_does_not_push_out_good_ones(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=1) as saved:
        save_all(saved, [10])
        saved._keep = 2
        save_all(saved, [40])
        saved._keep = 1
        array_file(tmp_path, 40).write_bytes(b"")
        assert value_of(saved.restore(like(small_state()))) == 10
        save_all(saved, [20])  # the run went on from 10
        assert value_of(saved.restore(like(small_state()))) == 20


def test_dying_while_old_steps_are_removed_loses_nothing(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "c", keep=1) as saved:
        save_all(saved, [10])
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
            save_all(saved, [20])
        assert (tmp_path / "c/0000000010").is_dir()
        assert saved.steps() == [20]
        (tmp_path / "c/0000000025/arrays.orbax-checkpoint-tmp").mkdir(parents=True)
        save_all(saved, [30])  # nothing of either death stays
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["0000000030"]


def test_a_full_disk_is_an_error_and_costs_no_earlier_checkpoint(tmp_path):
    noise = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    state = {"a": jnp.asarray(noise)}
    with Checkpoints(tmp_path / "c") as saved:
        saved.save(1, state, {"step": 1}, None)
        saved.wait()
        with file_size_limit(50_000):
            saved.save(2, state, {"step": 2}, None)
            with pytest.raises(UserError, match="could not be written"):
                saved.wait()
        assert saved.steps() == [1]
        found = saved.restore(like(state))
        assert found is not None
        np.testing.assert_array_equal(found[0]["a"], noise)
    with Checkpoints(tmp_path / "c") as saved:  # room again
        saved.save(2, state, {"step": 2}, None)
        saved.wait()
        assert saved.steps() == [1, 2]


def test_a_failed_manifest_is_reported_at_the_next_save(saved, monkeypatch):
    save_all(saved, [10])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_manifest", full)
        saved.save(20, small_state(20), {}, None)
        with pytest.raises(UserError, match="No space left on device"):
            saved.save(30, small_state(30), {}, None)
    assert saved.steps() == [10]
    save_all(saved, [30])
    assert value_of(saved.restore(like(small_state()))) == 30


def test_leaving_by_an_error_waits_for_the_save(tmp_path):
    def fail():
        with Checkpoints(tmp_path / "c") as saved:
            saved.save(1, small_state(), {}, None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Checkpoints(tmp_path / "c").steps() == [1]


def test_other_models_are_refused_by_name(saved):
    save_all(saved, [10])
    other = small_state()
    other["params"]["dense"] = {
        "kernel": jnp.zeros((3, 4)), "scale": jnp.zeros(2), "bias": jnp.zeros(2, jnp.int32)
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        saved.restore(like(other))
    message = str(caught.value)
    assert "params.dense.kernel: float32[3, 2] in the checkpoint, float32[3, 4] here" in message
    assert "params.dense.bias: float32[2] in the checkpoint, int32[2] here" in message
    assert "params.dense.scale: not in the checkpoint" in message


@pytest.mark.parametrize(("first", "second"), [(1, 8), (8, 1), (8, 2)])
def test_restores_onto_other_devices(tmp_path, first, second):
    values = np.arange(64.0, dtype=np.float32).reshape(16, 4)

    def place(devices):
        return NamedSharding(parallel.make_mesh(devices, 8), PartitionSpec("data"))

    state = {"w": jax.device_put(values, place(first))}
    with Checkpoints(tmp_path / "c") as saved:
        saved.save(1, state, {}, None)
        saved.wait()
        found = saved.restore(like(state, place(second)))
    assert found is not None
    np.testing.assert_array_equal(found[0]["w"], values)
    assert len(found[0]["w"].sharding.device_set) == second
