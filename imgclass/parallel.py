"""Devices: the mesh, where arrays live on it, and how host rows become a global batch; processes:
how they agree, and how all learn that one has failed.

One axis, 'data': batches are split over it; state is whole on every device, or split too (FSDP).
The step itself is written for one device; `jit` over these shardings does the rest, on one device
or on many processes. Batch statistics are therefore over the global batch.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass.errors import UsageError, UserError, first_line

AXIS = "data"
FSDP_SMALLEST = 4096  # elements; splitting smaller arrays costs more messages than it saves bytes
TOLD = 500  # bytes of an error that other processes are told


def make_mesh(devices: int, batch_size: int) -> Mesh:
    """Returns a mesh over the first `devices` devices; 0 is all of them.

    Raises:
      UsageError: if there are fewer, or the batch cannot be shared equally.
    """
    available = jax.devices()
    if devices > len(available):
        raise UsageError(
            f"train.devices={devices}, but this machine shows {len(available)} "
            f"{available[0].platform} devices"
        )
    count = devices or len(available)
    several = jax.process_count() > 1
    if several and count != len(available):
        raise UsageError("train.devices must be 0 (all) when several processes train together")
    if batch_size % count:
        fits = [d for d in range(1, count) if batch_size % d == 0]
        below, above = batch_size // count * count, -(-batch_size // count) * count
        sizes = f"{below} or {above}" if below else f"{above}"
        fewer = "" if several else f", or --config.train.devices={fits[-1]}"
        raise UsageError(
            f"train.batch_size={batch_size} cannot be shared by {count} devices: use {sizes}{fewer}"
        )
    return Mesh(np.array(available[:count]), (AXIS,))


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over the mesh."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def whole(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(abstract_state: Any, mesh: Mesh, fsdp: bool) -> Any:
    """Returns a sharding for each leaf of a state.

    With fsdp, an array of at least `FSDP_SMALLEST` elements is split along its longest axis that
    the mesh divides; the others stay whole.
    """
    count = mesh.devices.size

    def place(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [i for i, side in enumerate(leaf.shape) if side % count == 0]
        if not fsdp or count == 1 or leaf.size < FSDP_SMALLEST or not axes:
            return whole(mesh)
        longest = max(axes, key=lambda i: leaf.shape[i])
        spec = [AXIS if i == longest else None for i in range(len(leaf.shape))]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, abstract_state)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns int64[local], the rows of a global batch that this process provides, ascending."""
    places = rows_sharding(mesh).addressable_devices_indices_map((batch_size,))
    every = np.arange(batch_size)
    return np.unique(np.concatenate([every[index] for index in places.values() if index]))


def put_rows(mesh: Mesh) -> Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]:
    """Returns a function from this process's rows to the global batch on the mesh."""
    sharding = rows_sharding(mesh)

    def put(local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in local.items()
        }

    return put


def put_whole(mesh: Mesh) -> Callable[[Any], Any]:
    """Returns a function that places a tree whole on every device."""
    sharding = whole(mesh)

    def put(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
        )

    return put


def take_rows(examples: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    """Gathers a batch out of a resident set; pure.

    Args:
      examples: {'image': u8[n, H, W, C], 'label': i32[n]}.
      indices: i32[B], all in [0, n).
    """
    return {
        "image": examples["image"].at[indices].get(mode="promise_in_bounds"),
        "label": examples["label"].at[indices].get(mode="promise_in_bounds"),
        "index": indices,
        "mask": jnp.ones(indices.shape, bool),
    }


def fetch(tree: Any) -> Any:
    """Returns global arrays as NumPy on every process; waits for them."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Shares failure: a block that raises on one process raises on all.

    Around what one process does for all, or each does by itself; without it the others would wait
    for the one that failed until they are killed. All come to the same blocks in the same order,
    and none of them waits for another inside one. With one process it does nothing.

    Raises:
      UserError: another process failed; it says which and why, and has its exit status.
    """
    if jax.process_count() == 1:
        yield
        return
    failure: Exception | None = None
    row = np.zeros(1 + TOLD, np.uint8)
    try:
        yield
    except Exception as error:
        failure = error
        line = first_line(error)
        kind = type(error).__name__
        text = line if isinstance(error, UserError) or line == kind else f"{kind}: {line}"
        told = text.encode()[:TOLD]
        row[0] = getattr(error, "exit_status", 1)
        row[1 : 1 + len(told)] = np.frombuffer(told, np.uint8)
    every = multihost_utils.process_allgather(row)
    if failure is not None:
        raise failure
    for number in np.flatnonzero(every[:, 0]).tolist():
        text = bytes(every[number, 1:]).rstrip(b"\0").decode(errors="replace")
        other = UserError(f"process {number} failed: {text}")
        other.exit_status = int(every[number, 0])
        raise other


def on_lead(function: Callable[[], Any]) -> Any:
    """Calls a function on process 0 alone; returns its result, plain JSON data, on every process.

    Raises:
      UserError: on the others, if it raised on process 0.
    """
    if jax.process_count() == 1:
        return function()
    text = b""
    with together():
        if jax.process_index() == 0:
            text = json.dumps(function()).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
    sent = np.frombuffer(text.ljust(size), np.uint8)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(sent)))


def check_same(what: str, text: str) -> None:
    """Raises UsageError on every process if `text` is not the same on all; `what` names it."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), np.uint8)
    every = multihost_utils.process_allgather(digest)
    others = np.flatnonzero((every != every[:1]).any(axis=1))
    if len(others):
        raise UsageError(
            f"the processes differ in their {what}: that of process {others[0]} is not that of "
            "process 0. Give every process the same flags, code and data"
        )


def any_process(flag: bool) -> bool:
    """Returns whether `flag` is true on some process; all must ask together."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())
