"""What it costs to save a run safely: arrays, digests, and how long a step waits for them.

    python -m benchmarks.safety   # 100 MB, every 60 s, 6 minutes
    python -m benchmarks.safety --megabytes=1 --every=0.5 --seconds=2   # to see that it works

Trains a matrix product whose state is so many megabytes, for so many seconds, once without a save
and once with one every so often, in turns; both keep the device busy throughout. Prints a table,
and writes JSON with `--output`. The aims: under 5% of the time of a run that saves every 60 s, and
no step that waits longer than the copy off the device takes.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from imgclass import checkpoint

ROW = 1024  # float32 values in a row of the state: 4 KiB


def make_state(megabytes: float) -> dict[str, jax.Array]:
    """Returns weights and two moments, f32[n, 1024] each: random, for zeros compress to nothing."""
    rows = max(1, round(megabytes * 1e6 / 3 / 4 / ROW))
    keys = jax.random.split(jax.random.key(0), 3)
    names = ("weights", "first", "second")
    return {n: jax.random.normal(k, (rows, ROW)) for n, k in zip(names, keys, strict=True)}


@jax.jit
def _update(state: dict[str, jax.Array], x: jax.Array) -> dict[str, jax.Array]:
    slope = jnp.tanh(x @ state["weights"].T) @ state["weights"]  # f32[rows of x, 1024]
    first = state["first"] * jnp.float32(0.9) + slope.mean() * jnp.float32(0.1)
    second = state["second"] * jnp.float32(0.99) + jnp.square(slope).mean() * jnp.float32(0.01)
    weights = state["weights"] - jnp.float32(1e-6) * first / jnp.sqrt(second * second + 1)
    return {"weights": weights, "first": first, "second": second}


def train(
    state: dict[str, jax.Array], seconds: float, every: float, folder: pathlib.Path | None
) -> tuple[float, list[float]]:
    """Trains for `seconds`, saving to `folder` every `every` seconds if there is one.

    Returns:
      Steps a second, and how long each call of `save` took.
    """
    x = jax.random.normal(jax.random.key(1), (64, ROW))
    blocked: list[float] = []
    steps, began = 0, time.perf_counter()
    due = began + every
    with checkpoint.Checkpoints(folder or pathlib.Path("unused"), keep=1) as saved:
        while (now := time.perf_counter()) < began + seconds:
            state = _update(state, x)
            jax.block_until_ready(state)
            steps += 1
            if folder is not None and now >= due:
                start = time.perf_counter()
                saved.save(steps, state, {"step": steps}, None)
                blocked.append(time.perf_counter() - start)
                due += every
        rate = steps / (time.perf_counter() - began)
    return rate, blocked


def copy_seconds(state: dict[str, jax.Array], times: int = 5) -> float:
    """Returns the median time of copying the state to memory of the host's own."""
    spent = []
    for _ in range(times):
        fresh = jax.block_until_ready(jax.tree.map(lambda a: a + jnp.float32(0), state))
        start = time.perf_counter()
        jax.tree.map(lambda a: np.array(a, copy=True), fresh)
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


def digest_seconds(state: dict[str, jax.Array], folder: pathlib.Path) -> tuple[float, float]:
    """Returns the time of a whole save that is waited for, and that of verifying it once."""
    with checkpoint.Checkpoints(folder) as saved:
        start = time.perf_counter()
        saved.save(1, state, {}, None)
        saved.wait()
        whole = time.perf_counter() - start
    (step,) = folder.iterdir()
    start = time.perf_counter()
    found = checkpoint.verify(step)
    assert not isinstance(found, str), found
    return whole, time.perf_counter() - start


def measure(megabytes: float, every: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Returns every figure of the table, seconds unless it says otherwise."""
    state = jax.block_until_ready(make_state(megabytes))
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="safety-"))
    try:
        train(state, min(seconds, 2.0), every, scratch / "warm")
        whole, digest = digest_seconds(state, scratch / "digest")
        rates: dict[str, list[float]] = {"plain": [], "saving": []}
        blocked: list[float] = []
        for number in range(rounds):  # in turns, so that a machine that slows down slows both
            rates["plain"].append(train(state, seconds, every, None)[0])
            rate, waits = train(state, seconds, every, scratch / f"run{number}")
            rates["saving"].append(rate)
            blocked += waits
            shutil.rmtree(scratch / f"run{number}", ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not blocked:
        raise SystemExit(f"no save in {seconds} s: give --seconds above --every={every}")
    plain, saving = (float(np.median(rates[name])) for name in ("plain", "saving"))
    copy = copy_seconds(state)
    return {
        "megabytes": sum(leaf.nbytes for leaf in state.values()) / 1e6,
        "every": every,
        "steps_per_second": rates,
        "share_of_time": 1 - saving / plain,
        "blocked": machine.spread(blocked),
        "copy": copy,
        "whole_save": whole,
        "digest": digest,
        # If the device stood still for all of a save, instead of for `blocked` alone.
        "share_at_worst": whole / every,
    }


def table(found: dict[str, Any]) -> str:
    """Returns the figures as lines."""
    blocked = found["blocked"]
    rows = [
        ("state", f"{found['megabytes']:.1f} MB"),
        (f"share of the time, saving every {found['every']:g} s", f"{found['share_of_time']:.2%}"),
        ("  if all of a save were waited for", f"{found['share_at_worst']:.2%}"),
        ("a step waits for a save, median", f"{blocked['median'] * 1e3:.1f} ms"),
        ("  at most", f"{blocked['max'] * 1e3:.1f} ms of {blocked['count']} saves"),
        ("the copy to the host alone", f"{found['copy'] * 1e3:.1f} ms"),
        ("a whole save, in the background", f"{found['whole_save'] * 1e3:.1f} ms"),
        ("  of it, digests", f"{found['digest'] * 1e3:.1f} ms"),
    ]
    return "\n".join(f"{name:<44} {value:>24}" for name, value in rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="The cost of safe checkpoints.")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of state (default 100)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between saves")
    parser.add_argument("--seconds", type=float, default=190.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=1, help="pairs of runs")
    parser.add_argument("--output", default="", help="JSON file to write")
    args = parser.parse_args(argv)
    found = measure(args.megabytes, args.every, args.seconds, args.rounds)
    sys.stdout.write(table(found) + "\n")
    if args.output:
        machine.write(args.output, {"safety": found})


if __name__ == "__main__":
    main()
