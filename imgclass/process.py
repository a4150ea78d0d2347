"""Settings of the whole process that make training on a CPU faster; `main.py` applies them.

Malloc: XLA:CPU takes and frees its temporary buffers each step. glibc by default maps and unmaps
them, and the kernel clears every page anew, which took half of the default CNN's step. The price
is that memory once used stays with the process.

XLA: jaxlib 0.10's YNNPACK fusions halve the speed of our convolutions and have miscompiled
(jax-ml/jax#39103), so they are off there; on 0.12 they change nothing.

`IMGCLASS_TUNE=0` leaves both alone. What was applied is in a run's environment.json.
"""

import ctypes
import os
from importlib import metadata

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGE = 2**31 - 1
_GROW = 64 * 2**20  # bytes asked of the kernel at a time

_YNN_OFF = "--xla_cpu_experimental_ynn_fusion_type="  # an empty list of fusions

applied: list[str] = []


def tune() -> None:
    """Applies what fits this machine. To be called before JAX starts its backend."""
    if os.environ.get("IMGCLASS_TUNE") == "0" or applied:
        return
    if _keep_buffers():
        applied.append("malloc keeps buffers")
    flags = os.environ.get("XLA_FLAGS", "")
    # An unknown flag ends the process, so only where it was tried.
    if metadata.version("jaxlib").startswith("0.10.") and "ynn_fusion" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_OFF}".strip()
        applied.append(_YNN_OFF)


def _keep_buffers() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    wanted = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGE), (_M_TOP_PAD, _GROW))
    return all(mallopt(option, value) == 1 for option, value in wanted)
