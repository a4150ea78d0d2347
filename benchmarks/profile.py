"""Where an accelerator's time goes, by kind of operation, from JAX's own profiler."""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax


def shares(work: Callable[[], Any]) -> dict[str, float]:
    """Runs `work` under the profiler; returns kind of kernel -> share of the time, largest first.

    Kernels are told apart by their names: what XLA generates is called fusion, reduce, transpose,
    copy and so on; the rest belongs to cuDNN and cuBLAS.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work()
        files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
        trace = jax.profiler.ProfileData.from_file(str(files[-1]))
        spent: collections.Counter[str] = collections.Counter()
        for plane in trace.planes:
            if not plane.name.startswith("/device:"):
                continue
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    for event in line.events:
                        spent[_kind(event.name)] += event.duration_ns
    whole = sum(spent.values()) or 1
    return {kind: round(time / whole, 4) for kind, time in spent.most_common(20)}


def _kind(name: str) -> str:
    """Returns a kernel's name without its numbers, and the libraries' long names as one word."""
    lowered = name.lower()
    if re.search(r"cudnn|xmma|cutlass|sm\d\d_|implicit|wgrad|dgrad|fprop|conv", lowered):
        for word in ("wgrad", "dgrad", "fprop"):
            if word in lowered:
                return f"convolution {word}"
        return "convolution or matrix product"
    return re.sub(r"[._]?\d+", "", name)[:60]
