"""Depthwise convolution against float64 loops and XLA's own; and which form is taken."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass import models
from imgclass.models import layers

CHANNELS = 4


def depthwise(x, kernel, stride=1, padding="VALID"):
    return layers.conv(x, kernel, stride, padding, groups=x.shape[-1])


def grouped(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding if isinstance(padding, str) else [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def with_gradients(conv, stride, padding):
    """Returns a jitted function of x, kernel and dL/dy, to y, dL/dx and dL/dkernel."""

    @jax.jit
    def run(x, kernel, dy):
        y, pull = jax.vjp(lambda x, kernel: conv(x, kernel, stride, padding), x, kernel)
        return y, *pull(dy)

    return run


def by_loops(x, kernel, stride, padding, dy):
    """From the definition: y, dL/dx and dL/dkernel."""
    x, kernel, dy = (np.asarray(a, np.float64) for a in (x, kernel, dy))
    height, width = kernel.shape[:2]
    edges = []
    for size, window, count in zip(x.shape[1:3], kernel.shape[:2], dy.shape[1:3], strict=True):
        total = max((count - 1) * stride + window - size, 0)  # 'SAME': the odd pixel comes after
        edges.append((total // 2, total - total // 2) if padding == "SAME" else (padding,) * 2)
    (top, _), (left, _) = edges
    wide = np.pad(x, ((0, 0), *edges, (0, 0)))
    y, dwide, dkernel = np.zeros_like(dy), np.zeros_like(wide), np.zeros_like(kernel)
    for b, i, j, c in np.ndindex(*dy.shape):
        for m, n in np.ndindex(height, width):
            place = (b, i * stride + m, j * stride + n, c)
            y[b, i, j, c] += wide[place] * kernel[m, n, 0, c]
            dwide[place] += dy[b, i, j, c] * kernel[m, n, 0, c]
            dkernel[m, n, 0, c] += dy[b, i, j, c] * wide[place]
    return y, dwide[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel


def draw(shape, size, stride, padding, dtype=jnp.float32):
    random = np.random.default_rng(size)
    x = jnp.asarray(random.normal(size=shape), dtype)
    kernel = jnp.asarray(random.normal(size=(size, size, 1, shape[-1])), dtype)
    y = jax.eval_shape(lambda x, k: grouped(x, k, stride, padding), x, kernel)
    return x, kernel, jnp.asarray(random.normal(size=y.shape), dtype)


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(3, 1, 1), (3, 2, 1), (3, 2, "SAME"), (5, 1, "SAME"), (5, 2, 2), (7, 1, 3), (1, 2, 0)],
)
def test_values_and_gradients_equal_loops(size, stride, padding):
    # Sides of 8 and 7: at stride 2 the windows leave out a last row and no last column, or, under
    # 'SAME', the odd pixel of padding comes after.
    x, kernel, dy = draw((2, 8, 7, CHANNELS), size, stride, padding)
    ours = with_gradients(depthwise, stride, padding)(x, kernel, dy)
    expected = by_loops(x, kernel, stride, padding, dy)
    for mine, exact, like in zip(ours, expected, (dy, x, kernel), strict=True):
        assert (mine.shape, mine.dtype) == (like.shape, jnp.float32)
        # Entries are of the order of 1 to 10, float32 rounds at 6e-8 of that.
        np.testing.assert_allclose(mine, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(3, 1, "VALID"), (3, 2, 4), (3, 3, 1), (2, 2, "SAME"), (4, 3, "SAME"), (5, 2, "VALID")],
)
def test_float64_equals_the_grouped_convolution(size, stride, padding):
    with jax.enable_x64(True):
        inputs = draw((2, 9, 6, CHANNELS), size, stride, padding, jnp.float64)
        ours = with_gradients(depthwise, stride, padding)(*inputs)
        theirs = with_gradients(grouped, stride, padding)(*inputs)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == jnp.float64
            np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-12)


def test_bfloat16_is_summed_in_float32():
    # A sum that is rounded once is off by at most 2^-8 of itself, one rounded 25 times by more.
    inputs = draw((2, 8, 16, CHANNELS), 5, 1, 2, jnp.bfloat16)
    ours = with_gradients(depthwise, 1, 2)(*inputs)
    for mine, exact in zip(ours, by_loops(*inputs[:2], 1, 2, inputs[2]), strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(mine, np.float64), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sharded_batch_gives_what_one_device_gives(stride):
    x, kernel, dy = draw((8, 6, 6, CHANNELS), 3, stride, 1)
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    run = with_gradients(depthwise, stride, 1)
    sharded = jax.device_put(x, rows), kernel, jax.device_put(dy, rows)
    for ours, expected in zip(run(*sharded), run(x, kernel, dy), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    # Rows stay where they are, and a kernel's gradient is added up over devices once.
    text = run.lower(*sharded).compile().as_text()
    assert text.count(" all-reduce(") == 1
    assert "all-gather" not in text


def test_vmap_equals_one_after_another():
    x, kernel, _ = draw((2, 6, 6, CHANNELS), 3, 2, 1)
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    gradient = jax.jit(jax.grad(lambda kernel: (depthwise(x, kernel, 2, 1) ** 2).sum()))
    expected = [gradient(kernel) for kernel in kernels]
    at_once = jax.jit(jax.vmap(gradient))(kernels)
    np.testing.assert_allclose(at_once, jnp.stack(expected), rtol=1e-5)


def test_second_derivatives_in_reverse_mode():
    x, kernel, _ = draw((1, 5, 5, 2), 3, 2, 1)

    def slope(conv):
        energy = jax.grad(lambda x, kernel: (conv(x, kernel, 2, 1) ** 2).sum(), argnums=(0, 1))
        return jax.jit(jax.grad(lambda x: sum((g**2).sum() for g in energy(x, kernel))))

    np.testing.assert_allclose(slope(depthwise)(x), slope(grouped)(x), rtol=1e-4)


def program(platform, in_channels, out_channels, groups):
    """The StableHLO of a value and its gradients, lowered for a platform."""
    x = jnp.ones((1, 6, 6, in_channels))
    kernel = jnp.ones((3, 3, in_channels // groups, out_channels))
    conv = functools.partial(layers.conv, padding=1, groups=groups)
    loss = jax.jit(jax.value_and_grad(lambda *a: (conv(*a) ** 2).sum(), argnums=(0, 1)))
    return loss.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("platform", "in_channels", "out_channels", "groups", "convolutions"),
    [
        ("cpu", 4, 4, 4, 0),
        # The value, and a gradient each by picture and by kernel.
        ("cuda", 4, 4, 4, 3),
        ("tpu", 4, 4, 4, 3),
        ("cpu", 4, 4, 2, 3),
        ("cpu", 4, 8, 4, 3),
        # Few channels on CPU are products with patches, but for the gradient by picture.
        ("cpu", 1, 1, 1, 1),
    ],
)
def test_only_depthwise_and_on_cpu_there_is_no_convolution(
    platform, in_channels, out_channels, groups, convolutions
):
    text = program(platform, in_channels, out_channels, groups)
    assert text.count("stablehlo.convolution") == convolutions


class OneLayer(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = layers.Conv(4, 3, padding=1, groups=4, name="conv")(x)
        pooled = layers.global_mean(x)
        return pooled, {"stages": {"x": x}, "last_map": x, "pooled": pooled}


def test_multiply_adds_are_counted_once():
    # 6x6 places, 4 channels, 9 taps, whichever of the forms will run.
    assert models.multiply_adds(models.Model(OneLayer(), (6, 6, 4))) == 36 * 4 * 9
