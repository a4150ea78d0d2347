"""A function kept apart: its value, its derivative, its sharding, and that it is not merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass.models.apart import apart


def waves(x):
    return jnp.sin(x) + jnp.where(x > 0, x, -x)


def test_same_value_and_derivative():
    x = jnp.linspace(-2, 2, 7)
    np.testing.assert_allclose(jax.jit(apart(waves))(x), waves(x), rtol=1e-6)
    slope = jax.grad(lambda x: apart(waves)(x).sum())(x)
    np.testing.assert_allclose(slope, np.cos(x) + np.where(x > 0, 1, -1), rtol=1e-6)


def test_not_merged_with_what_reads_it_but_merged_inside():
    text = jax.jit(lambda x: apart(waves)(x) * 2).lower(jnp.ones(8)).compile().as_text()
    entry = text[text.index("ENTRY") :]
    (call,) = [line for line in entry.splitlines() if " call(" in line]
    body = text[text.index("%" + call.split("to_apply=%")[1].split(",")[0].split(" ")[0]) :]
    body = body[: body.index("\n}")]
    assert "fusion" in body.splitlines()[-1]  # all of it one loop
    assert " call(" not in body


@pytest.mark.parametrize(("platform", "marks"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_on_cpu_only(platform, marks):
    lowered = jax.jit(apart(waves)).trace(jnp.ones(8)).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count('inlineable = "false"') == marks


def test_a_sharded_batch_stays_sharded():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.device_put(np.arange(16.0, dtype=np.float32).reshape(16, 1), rows)
    compiled = jax.jit(apart(waves)).lower(x).compile()
    assert "all-gather" not in compiled.as_text()
    y = compiled(x)
    assert y.sharding.is_equivalent_to(rows, 2)
    np.testing.assert_allclose(y, waves(jnp.arange(16.0).reshape(16, 1)), rtol=1e-6)
