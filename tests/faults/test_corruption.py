"""Bits that flipped, files that were cut: found, said, and gone back from; never used."""

import contextlib
import json
import logging
import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from imgclass import checkpoint, run, train
from imgclass import config as config_lib
from imgclass.checkpoint import Checkpoints
from imgclass.errors import UserError
from tests import tiny

FLIPS = 200
DATA = {"source": "digits", "splits": {"train": {"examples": 1078, "mean": 0.1 + 0.2}}}


def state(seed):
    """Weights of two layers with their averages, as a run has them: 1.8 KB."""
    keys = jax.random.split(jax.random.key(seed), 4)
    layers = {
        "conv": {"kernel": jax.random.normal(keys[0], (3, 3, 3, 4)), "bias": jnp.zeros(4)},
        "head": {"kernel": jax.random.normal(keys[1], (16, 5)), "bias": jnp.ones(5)},
    }
    ema = jax.tree.map(lambda leaf: leaf * jnp.float32(0.9), layers)
    return {"params": layers, "ema": ema, "step": jnp.asarray(seed, jnp.int32)}


RECORD = {
    "step": 20, "seconds": 1.25e-7, "validation": {"loss": 0.1 + 0.2, "auroc": None},
    "window": {"sums": [1e300, -0.0], "names": ["caf\u00e9", "a b"]}, "best": {"step": 10},
}  # fmt: skip


@pytest.fixture
def two(tmp_path):
    """Checkpoints of step 10 and 20, and what a restore of theirs has to look like."""
    with Checkpoints(tmp_path / "checkpoints") as saved:
        for step in (10, 20):
            saved.save(step, state(step), RECORD | {"step": step}, None)
        saved.wait()
        like = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state(0)
        )
        yield saved, like


def files_of(folder: pathlib.Path, step: int) -> list[pathlib.Path]:
    root = folder / f"checkpoints/{step:010d}"
    return sorted(path for path in root.rglob("*") if path.is_file())


def same(found, step) -> bool:
    """Returns whether every bit and every word is that of `step`."""
    arrays, record = found
    pairs = zip(jax.tree.leaves(arrays), jax.tree.leaves(state(step)), strict=True)
    equal = all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
    return equal and json.dumps(record) == json.dumps(RECORD | {"step": step})


def test_one_flipped_bit_anywhere_is_found_or_changes_nothing(two, tmp_path, caplog):
    """Half of the places are drawn by bytes, half from each file in turn: some are short."""
    saved, like = two
    files = files_of(tmp_path, 20)
    sizes = [path.stat().st_size for path in files]
    assert len(files) > 8
    assert min(sizes) > 0
    draw = random.Random(2024)
    found, harmless, hit = 0, 0, set()
    for trial in range(FLIPS):
        by_size = draw.choices(files, sizes)[0]
        path = by_size if trial % 2 else files[trial // 2 % len(files)]
        whole = path.read_bytes()
        place, bit = draw.randrange(len(whole)), draw.randrange(8)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            restored = saved.restore(like)
        path.write_bytes(whole)
        hit.add(path)
        where = f"{path}, bit {bit} of byte {place}"
        assert restored is not None, where
        if restored[1]["step"] == 20:
            assert same(restored, 20), where
            harmless += 1
            continue
        assert same(restored, 10), where
        assert "checkpoint of step 20 is damaged" in caplog.text, where
        assert "going back to the newest intact checkpoint, step 10" in caplog.text, where
        found += 1
    assert found + harmless == FLIPS
    assert found >= FLIPS - 5
    assert hit == set(files)
    assert same(saved.restore(like), 20)  # nothing was restored by changing anything


@pytest.mark.slow
def test_every_single_bit_of_a_manifest(two, tmp_path):
    del two
    step = tmp_path / "checkpoints/0000000020"
    whole = (step / "manifest.json").read_bytes()
    expected = checkpoint.verify(step)
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            (step / "manifest.json").write_bytes(flipped)
            found = checkpoint.verify(step)
            assert isinstance(found, str) or json.dumps(found) == json.dumps(expected), place


def zeros(data):
    return bytes(len(data))


def half(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage", [zeros, half, lambda _: b"", None], ids=["zeroed", "cut", "emptied", "removed"]
)
def test_any_file_zeroed_cut_emptied_or_removed_is_found(two, tmp_path, caplog, damage):
    saved, like = two
    for path in files_of(tmp_path, 20):
        whole = path.read_bytes()
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(whole))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert same(saved.restore(like), 10), path
        if path.name != "manifest.json" or damage is not None:  # without one a step never was
            assert "checkpoint of step 20 is damaged" in caplog.text
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", "3", '"digest"', '["digest"]', '{"digest": null}', "[" * 100_000,
     '{"digest": 1, "files": 2}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_what_is_no_manifest_is_damage_not_a_crash(two, tmp_path, text):
    saved, like = two
    (tmp_path / "checkpoints/0000000020/manifest.json").write_text(text)
    assert same(saved.restore(like), 10)


def test_files_that_cannot_be_read_are_damage(two, tmp_path, caplog):
    """A link to itself, which not even root can read."""
    saved, like = two
    path = max(files_of(tmp_path, 20), key=lambda path: path.stat().st_size)
    path.unlink()
    path.symlink_to(path.name)
    assert same(saved.restore(like), 10)
    assert f"{path} is missing" in caplog.text


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    with tiny.compiled_once(folder):
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.archive(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", lambda folder: run.load_config(folder).to_dict()),
        ("data.json", lambda folder: {key: run.load_data(folder)[key] for key in DATA}),
    ],
)
def test_one_flipped_bit_in_what_a_run_says_of_itself_is_found(tmp_path, name, read):
    """What is read is as it was written, or refused."""
    run.store(tmp_path, config_lib.resolve(config_lib.defaults()), DATA)
    whole, written = (tmp_path / name).read_bytes(), read(tmp_path)
    draw, refused = random.Random(7), 0
    for _ in range(FLIPS):
        flipped = bytearray(whole)
        place, bit = draw.randrange(len(whole)), draw.randrange(8)
        flipped[place] ^= 1 << bit
        (tmp_path / name).write_bytes(flipped)
        refused += 1
        with contextlib.suppress(UserError):
            assert read(tmp_path) == written, f"bit {bit} of byte {place}"
            refused -= 1
    assert refused > FLIPS // 2  # the others are in white space, or in the name of the digest
    (tmp_path / name).write_bytes(whole.replace(b"0.3", b"0.4").replace(b"0.001", b"0.002"))
    with pytest.raises(UserError, match=f"{name} was altered since the run wrote it"):
        read(tmp_path)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(data, tmp_path, compiled):
    config = tiny.config(data, {"checkpoint.every_steps": 2, "train.total_steps": 4})
    train.train_and_evaluate(config, tmp_path)
    (tmp_path / "result.json").unlink()
    for step in (2, 4):
        path = max(files_of(tmp_path, step), key=lambda path: path.stat().st_size)
        path.write_bytes(zeros(path.read_bytes()))
    records = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(steps 2, 4\)") as caught:
        train.train_and_evaluate(config, tmp_path)
    assert caught.value.exit_status == 1
    assert (tmp_path / "metrics.jsonl").read_bytes() == records
    assert not (tmp_path / "result.json").exists()


def test_a_start_from_nothing_beside_unfinished_checkpoints_is_said(
    data, tmp_path, caplog, compiled
):
    config = tiny.config(data, {"checkpoint.every_steps": 2, "train.total_steps": 4})
    train.train_and_evaluate(config, tmp_path)
    expected = tiny.arrays(tmp_path)
    for path in tmp_path.glob("checkpoints/*/manifest.json"):
        path.unlink()
    train.train_and_evaluate(config, tmp_path)
    assert "no checkpoint was finished (0000000002, 0000000004); starting from step 0" in (
        caplog.text
    )
    tiny.assert_same_bits(tiny.arrays(tmp_path), expected)


def flipped(data):
    content = bytearray(data)
    content[len(data) // 3] ^= 8
    return bytes(content)


def test_a_damaged_compilation_cache_costs_a_warning_and_the_time(data, tmp_path, compiled):
    config = tiny.config(data, tiny.FULL)
    jax.clear_caches()  # what another test has compiled in this process would not be kept
    train.train_and_evaluate(config, tmp_path / "before")
    entries = sorted(path for path in compiled.iterdir() if path.name.endswith("-cache"))
    assert len(entries) >= 5
    for number, path in enumerate(entries):
        path.write_bytes((flipped, half, zeros)[number % 3](path.read_bytes()))
    jax.clear_caches()
    compilation_cache.reset_cache()
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        train.train_and_evaluate(config, tmp_path / "after")
    tiny.assert_same_bits(tiny.arrays(tmp_path / "before"), tiny.arrays(tmp_path / "after"))
    for path in entries:  # JAX leaves the damaged ones where they are
        path.unlink(missing_ok=True)
