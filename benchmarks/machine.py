"""What a figure was measured on, and where it is written."""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "simplejpeg",
            "opencv-python-headless", "torch", "keras", "tensorflow_cpu")  # fmt: skip


def describe() -> dict[str, Any]:
    """Returns the machine's processor, cores, accelerators and package versions."""
    import jax

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "versions": versions,
    }


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def matmul_gigaflops(side: int = 2048, times: int = 5) -> float:
    """Returns the best rate of JAX's product of two square float32 matrices, GFLOP/s."""
    import jax
    import jax.numpy as jnp

    multiply, a = jax.jit(jnp.matmul), jnp.ones((side, side), jnp.float32)
    multiply(a, a).block_until_ready()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        multiply(a, a).block_until_ready()
        spent.append(time.perf_counter() - began)
    return 2 * side**3 / min(spent) / 1e9


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns count, mean, median, least, greatest and, of two or more, standard deviation."""
    found = {
        "count": len(values),
        "mean": statistics.mean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }
    return found | ({"sd": statistics.stdev(values)} if len(values) > 1 else {})


def write(path: str, results: dict[str, Any]) -> None:
    """Writes the results and the machine as JSON."""
    text = json.dumps({"machine": describe()} | results, indent=1)
    pathlib.Path(path).write_text(text + "\n")
