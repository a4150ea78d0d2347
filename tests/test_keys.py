"""Random keys depend on seed, purpose, step and row only."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass import keys


def bits(key):
    return np.asarray(jax.random.key_data(key))


def test_stream_is_the_seed_folded_with_crc32_of_the_name():
    assert zlib.crc32(b"augment") == 3944118809
    expected = jax.random.fold_in(jax.random.key(7), 3944118809)
    np.testing.assert_array_equal(bits(keys.stream(7, "augment")), bits(expected))


def test_seeds_and_names_give_different_streams():
    pairs = [(seed, name) for seed in range(5) for name in ("augment", "dropout", "init")]
    assert len({bits(keys.stream(*pair)).tobytes() for pair in pairs}) == 15


def test_rows_and_steps_never_share_a_key():
    root = keys.stream(0, "augment")
    rows = jnp.arange(64, dtype=jnp.int32)
    # Step 1 row 2 and step 2 row 1 would collide if the two were added.
    seen = [bits(keys.for_rows(root, jnp.int32(step), rows)) for step in range(4)]
    assert len({row.tobytes() for row in np.concatenate(seen)}) == 4 * 64


def test_a_row_keeps_its_key_in_any_part_of_the_batch():
    root = keys.stream(0, "augment")
    whole = bits(keys.for_rows(root, jnp.int32(3), jnp.arange(16, dtype=jnp.int32)))
    part = bits(keys.for_rows(root, jnp.int32(3), jnp.array([9, 2], jnp.int32)))
    np.testing.assert_array_equal(part, whole[[9, 2]])


def test_a_row_keeps_its_key_on_eight_devices():
    root, rows = keys.stream(0, "augment"), jnp.arange(16, dtype=jnp.int32)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data")))
    got = jax.jit(keys.for_rows)(root, jnp.int32(5), spread)
    np.testing.assert_array_equal(bits(got), bits(keys.for_rows(root, jnp.int32(5), rows)))
