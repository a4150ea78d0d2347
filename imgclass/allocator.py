"""Tells glibc's malloc to keep big buffers instead of giving them back every step.

XLA:CPU takes and frees its temporary buffers each step; by default glibc maps and unmaps them, and
the kernel clears every page anew: half of the default CNN's step on two cores. The price is that
memory once used stays with the process. IMGCLASS_MALLOC=default leaves malloc alone.
"""

import ctypes
import os

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_LARGE = 2**31 - 1
_GROW = 64 * 2**20  # ask the kernel for memory in pieces of this size, bytes


def tune() -> bool:
    """Tunes malloc for this process; returns whether it could and was wanted."""
    if os.environ.get("IMGCLASS_MALLOC") == "default":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    wanted = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGE), (_M_TOP_PAD, _GROW))
    return all(mallopt(option, value) == 1 for option, value in wanted)
