"""Convolution of few channels as a product with windows, against XLA's own and float64 loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass.models import im2col, layers


def plain(x, kernel, padding):
    pads = padding if isinstance(padding, str) else [(padding, padding)] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=layout)


@pytest.mark.parametrize(("side", "channels"), [(2, 3), (3, 3), (3, 1), (4, 2), (1, 3)])
@pytest.mark.parametrize("padding", ["VALID", "SAME", 1])
def test_values_and_gradients_equal_float64(side, channels, padding):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 7, 6, channels))
    kernel = random.normal(size=(side, side, channels, 5))
    assert im2col.fits(x, kernel) == (side > 1)
    with jax.enable_x64(True):
        y, pull = jax.vjp(lambda x, k: plain(x, k, padding), jnp.asarray(x), jnp.asarray(kernel))
        dy = random.normal(size=y.shape)
        wanted = [np.asarray(a) for a in (y, *pull(jnp.asarray(dy)))]
    single = [jnp.asarray(a, jnp.float32) for a in (x, kernel, dy)]
    y, pull = jax.vjp(lambda x, k: layers.conv(x, k, padding=padding), *single[:2])
    for got, want in zip((y, *pull(single[2])), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_second_derivative():
    # y is linear in the kernel k: every cell k over pixels 1, 2, 3, 4 gives y = 10 k, so the second
    # derivative of y^2 is 200.
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)

    def energy(k):
        return jnp.square(layers.conv(x, jnp.broadcast_to(k, (2, 2, 1, 1)))).sum()

    slope = jax.grad(energy)
    assert float(slope(jnp.ones((1,)))[0]) == 200
    assert float(jax.grad(lambda k: slope(k)[0])(jnp.ones((1,)))[0]) == 200


@pytest.mark.parametrize(
    ("platform", "channels", "stride", "convolutions"),
    [("cpu", 3, 1, 1), ("cuda", 3, 1, 3), ("tpu", 3, 1, 3), ("cpu", 3, 2, 3), ("cpu", 4, 1, 3)],
)
def test_on_cpu_only_the_gradient_by_the_picture_is_a_convolution(
    platform, channels, stride, convolutions
):
    x, kernel = jnp.ones((2, 8, 8, channels)), jnp.ones((3, 3, channels, 4))

    def all_three(x, kernel):
        y, pull = jax.vjp(lambda x, k: layers.conv(x, k, stride), x, kernel)
        return y, pull(y)

    lowered = jax.jit(all_three).trace(x, kernel).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("stablehlo.convolution") == convolutions


def test_a_sharded_batch_stays_sharded():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 6, 6, 3)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 3, 4)).astype(np.float32)

    def slope(x, kernel):
        return jax.grad(lambda k: jnp.square(layers.conv(x, k)).sum())(kernel)

    placed = jax.device_put(x, rows), jax.device_put(kernel, whole)
    compiled = jax.jit(slope, out_shardings=whole).lower(*placed).compile()
    text = compiled.as_text()
    assert "all-gather" not in text
    assert len(re.findall(r"= \S+ all-reduce\(", text)) == 1
    np.testing.assert_allclose(compiled(*placed), jax.jit(slope)(x, kernel), rtol=1e-4)


def test_pictures_too_large_are_left_to_xla():
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32)
    for batch, fits in ((32, True), (64, False)):  # 64 x 224 x 224 x 27 values are 347 MB
        x = jax.ShapeDtypeStruct((batch, 224, 224, 3), jnp.float32)
        assert im2col.fits(x, kernel) == fits
