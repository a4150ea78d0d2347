"""The strict session: 8 fake CPU devices, no silent dtype or rank promotion."""

import os

from imgclass import process

# Before JAX starts: the device count is fixed for the life of a process. The compiler is that of
# the program: its flags change roundings, and with them which ReLU near zero lets through.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    process.with_flags(os.environ.get("XLA_FLAGS", ""))
    + " --xla_force_host_platform_device_count=8"
)

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
