"""Random keys: every draw is a function of (seed, purpose, step, row), and of nothing else.

No key is carried from step to step, so none can be used twice, lost on resume, or depend on how
rows are laid out over devices.
"""

import zlib

import jax


def root(seed: int) -> jax.Array:
    """Returns the key that all of a run's keys branch from.

    Args:
      seed: in [0, 2**63).

    Returns:
      A scalar key array.
    """
    low, high = seed % 2**32, seed >> 32
    key = jax.random.key(low)
    if high:  # key() alone would drop these bits, and seeds 0 and 2**32 would be one
        key = jax.random.fold_in(key, high)
    return key


def branch(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of one purpose, such as 'augment', under a root; names are independent."""
    # crc32 and not hash(): Python salts the hash of a string anew in every process.
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def stream(seed: int, name: str) -> jax.Array:
    """Returns branch(root(seed), name).

    >>> stream(0, 'augment') == stream(0, 'dropout')
    Array(False, dtype=bool)
    """
    return branch(root(seed), name)


def for_rows(key: jax.Array, step: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns one key a row of a global batch.

    Args:
      key: scalar key, from `stream`.
      step: i32[], the number of updates done before this one.
      rows: i32[batch], each row's place in the global batch.

    Returns:
      key[batch]. Row r's key is the same however many devices share the batch.
    """
    at_step = jax.random.fold_in(key, step)
    return jax.vmap(lambda row: jax.random.fold_in(at_step, row))(rows)
