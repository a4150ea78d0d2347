"""Settings of the whole process that make work faster; `main.py` and `imgclass` apply them.

Malloc: XLA:CPU takes and frees its temporary buffers each step. glibc by default maps and unmaps
them, and the kernel clears every page anew, which took half of the default CNN's step. So nothing
is mapped, nothing given back, and all threads have one arena: those of the others are 64 MiB each,
and what does not fit is mapped whatever the settings. (With several arenas, and giving back what
passes 2 GiB, the kernel cleared 2.5 GB in each step of airbench94 and took 3 of its 9 s.) The price
is that memory once used stays with the process.

oneDNN: if it is installed (the extra `fast`), it makes the convolutions of programs for one CPU;
`models/cpu_conv.py`.

XLA: jaxlib's YNNPACK fusions make the gradients of convolutions' kernels 2 to 6 times as slow
(on 0.12 a 3x3 one of 256 channels ran at 26 GFLOP/s, without them at 164, on 2 Zen 4 cores) and
have miscompiled (jax-ml/jax#39103), so they are off.

Programs: what XLA has compiled is kept in the user's cache folder, so the same program, whatever
the seed, is not compiled again; `JAX_COMPILATION_CACHE_DIR` names another folder. JAX alone keeps
what took a second to compile, and the default CNN's step takes 0.7; here it is a tenth of a second.
To read that step back takes 0.03.

`IMGCLASS_TUNE=0` leaves all of it alone. What was applied is in a run's environment.json.
"""

import ctypes
import os
import pathlib
import sys
from importlib import metadata

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = -1
_GROW = 64 * 2**20  # bytes asked of the kernel at a time

_WORTH_KEEPING = 0.1  # seconds of compiling

# How often oneDNN's threads look for work before they sleep: for a tenth of a millisecond or so. To
# wake one takes as long, and each convolution has work for it twice, its kernel's layout first.
# Threads that never sleep would keep XLA's from the core.
_SPINS = "3000"

_YNN_OFF = "--xla_cpu_experimental_ynn_fusion_type="  # an empty list of fusions

applied: list[str] = []
onednn = ""  # the library that makes convolutions on the CPU, if it is installed


def tune() -> None:
    """Applies what fits this machine. To be called before JAX starts its backend."""
    global onednn
    if os.environ.get("IMGCLASS_TUNE") == "0" or applied:
        return
    if _keep_buffers():
        applied.append("malloc keeps buffers")
    _keep_programs()
    onednn, version = find_onednn()
    if onednn:
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
        applied.append(f"oneDNN {version} for convolutions on one CPU")
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = with_flags(given)
    if os.environ["XLA_FLAGS"] != given:
        applied.append(_YNN_OFF)


def with_flags(given: str) -> str:
    """Returns XLA_FLAGS with what this program adds to it."""
    # An unknown flag ends the process, so only where it was tried.
    tried = metadata.version("jaxlib").startswith(("0.10.", "0.11.", "0.12."))
    return f"{given} {_YNN_OFF}".strip() if tried and "ynn_fusion" not in given else given


def find_onednn() -> tuple[str, str]:
    """Returns the path of oneDNN's library and its package's version, or two empty strings."""
    try:
        package = metadata.distribution("onednn-cpu-gomp")
    except metadata.PackageNotFoundError:
        return "", ""
    found = [file for file in package.files or () if file.name == "libdnnl.so.3"]
    return (str(package.locate_file(found[0])), package.version) if found else ("", "")


def _keep_programs() -> None:
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    settings: dict[str, str | float] = {
        "jax_compilation_cache_dir": str(pathlib.Path(cache) / "imgclass" / "programs"),
        "jax_persistent_cache_min_compile_time_secs": _WORTH_KEEPING,
    }
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        os.environ[name.upper()] = str(value)
        if "jax" in sys.modules:  # it has read its environment already
            sys.modules["jax"].config.update(name, value)
    applied.append("compiled programs are kept")


def _keep_buffers() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    wanted = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_TOP_PAD, _GROW),
        (_M_ARENA_MAX, 1),
    )
    return all(mallopt(option, value) == 1 for option, value in wanted)
