"""Convolution of few channels as a product with patches, against XLA's own and float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from imgclass.models import layers, patches


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
    assert side * side * channels <= patches.MOST
    with jax.enable_x64(True):
        y, pull = jax.vjp(lambda x, k: plain(x, k, padding), jnp.asarray(x), jnp.asarray(kernel))
        dy = random.normal(size=y.shape)
        wanted = [np.asarray(a) for a in (y, *pull(jnp.asarray(dy)))]
    single = [jnp.asarray(a, jnp.float32) for a in (x, kernel, dy)]
    y, pull = jax.vjp(lambda x, k: layers.conv(x, k, padding=padding), *single[:2])
    for got, want in zip((y, *pull(single[2])), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_second_derivative():
    # y is linear in both, so d2/dk2 of sum(y^2) is twice the patches' second moments, here by hand:
    # a 1x1 kernel and pixels 1, 2, 3, 4 give 2 * (1 + 4 + 9 + 16).
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)

    def energy(kernel):
        return jnp.square(layers.conv(x, kernel.reshape(1, 1, 1, 1))).sum()

    slope = jax.grad(energy)
    assert float(slope(jnp.ones((1,)))[0]) == 60
    assert float(jax.grad(lambda k: slope(k)[0])(jnp.ones((1,)))[0]) == 60


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
