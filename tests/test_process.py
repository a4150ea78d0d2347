"""Process-wide settings, each in a process of its own: they cannot be taken back."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, resource, threading
from imgclass import process
process.tune(); process.tune()
import numpy as np
def touch():
    np.ones(int(os.environ["SIZE"]), np.uint8)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(json.dumps([process.applied, os.environ.get("XLA_FLAGS", ""), faults()]))
"""
MIB = 2**20


def tuned(size=32 * MIB, **settings):
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "IMGCLASS_TUNE")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=env | settings | {"SIZE": str(size)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


# 32 MiB are 8,192 pages of 4 KiB (16 of 2 MiB where those are on by default). XLA allocates in
# threads of its own; past 64 MiB glibc's arena of a thread has no room, and past 2 GiB a threshold
# that is an int would be passed.
@pytest.mark.parametrize("size", [32 * MIB, 96 * MIB, 2100 * MIB])
def test_a_big_buffer_of_a_thread_is_kept_for_the_next(size):
    applied, _, faults = tuned(size)
    assert "malloc keeps buffers" in applied
    assert faults < 8


def test_it_can_be_left_alone():
    applied, flags, faults = tuned(IMGCLASS_TUNE="0")
    assert applied == []
    assert flags == ""
    assert faults >= 16


def test_flags_of_the_user_stay():
    _, flags, _ = tuned(XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type=+reduce")
    assert flags == "--xla_cpu_experimental_ynn_fusion_type=+reduce"


@pytest.mark.parametrize(
    ("settings", "spins"),
    [({"OMP_WAIT_POLICY": "passive"}, None), ({"GOMP_SPINCOUNT": "7"}, "7"), ({}, "3000")],
)
def test_how_long_threads_spin_is_the_users_to_say(settings, spins):
    script = "from imgclass import process; process.tune(); import os, json; "
    script += "print(json.dumps([bool(process.onednn), os.environ.get('GOMP_SPINCOUNT')]))"
    dropped = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "IMGCLASS_TUNE")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, env=env | settings, capture_output=True, check=True, timeout=60)
    found, set_to = json.loads(said.stdout)
    if not found:
        pytest.skip("oneDNN, of the extra 'fast', is not installed")
    assert set_to == spins


def test_a_folder_of_the_users_keeps_quick_programs_too():
    script = "from imgclass import process; process.tune(); import jax, json; "
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    script += f"print(json.dumps([jax.config.values[n] for n in {names}]))"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "IMGCLASS_"))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=env | {"JAX_COMPILATION_CACHE_DIR": "/somewhere"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == ["/somewhere", 0.1]
