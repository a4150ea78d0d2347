"""Each layer against loops written by hand in NumPy, in float64: values and gradients."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass.errors import UsageError
from imgclass.models import layers


def pads(size: int, window: int, stride: int, padding: str | int) -> tuple[int, int]:
    """Padding before and after; 'SAME' puts the odd pixel after, as TensorFlow does."""
    if padding == "VALID":
        return 0, 0
    if padding == "SAME":
        total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
        return total // 2, total - total // 2
    return padding, padding


def padded(x, window, stride, padding, fill):
    rows, columns = (pads(x.shape[axis], window, stride, padding) for axis in (1, 2))
    wide = np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=fill)
    inside = (
        slice(None),
        slice(rows[0], rows[0] + x.shape[1]),
        slice(columns[0], columns[0] + x.shape[2]),
    )
    height, width = ((n - window) // stride + 1 for n in wide.shape[1:3])
    return wide, inside, height, width


def conv_loops(x, kernel, stride, padding, seed):
    """Returns y, a random dL/dy, and dL/dx and dL/dkernel, from the definition."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    window = kernel.shape[0]
    wide, inside, height, width = padded(x, window, stride, padding, 0.0)
    y = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    g = np.random.default_rng(seed).normal(size=y.shape)
    dx, dkernel = np.zeros_like(wide), np.zeros_like(kernel)
    for i in range(height):
        for j in range(width):
            for m in range(window):
                for n in range(window):
                    pixel = wide[:, i * stride + m, j * stride + n]
                    y[:, i, j] += pixel @ kernel[m, n]
                    dx[:, i * stride + m, j * stride + n] += g[:, i, j] @ kernel[m, n].T
                    dkernel[m, n] += pixel.T @ g[:, i, j]
    return y, g, dx[inside], dkernel


def pool_loops(x, kind, window, stride, padding, seed):
    """Returns y, a random dL/dy and dL/dx. Max: the first maximum of a window takes it all."""
    x = x.astype(np.float64)
    wide, inside, height, width = padded(x, window, stride, padding, np.nan)
    y = np.zeros((x.shape[0], height, width, x.shape[3]))
    g = np.random.default_rng(seed).normal(size=y.shape)
    dx = np.zeros_like(wide)
    for b, i, j, c in np.ndindex(*y.shape):
        cells = [
            (i * stride + m, j * stride + n)
            for m in range(window)
            for n in range(window)
            if not np.isnan(wide[b, i * stride + m, j * stride + n, c])  # inside the picture
        ]
        values = [wide[b, r, s, c] for r, s in cells]
        if kind == "max":
            first = int(np.argmax(values))
            y[b, i, j, c] = values[first]
            dx[(b, *cells[first], c)] += g[b, i, j, c]
        else:
            y[b, i, j, c] = sum(values) / len(values)
            for cell in cells:
                dx[(b, *cell, c)] += g[b, i, j, c] / len(values)
    return y, g, dx[inside]


def picture(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(7)
    if kind == "flat":
        return np.full(shape, 0.5, np.float32)
    if kind == "steps":  # three grey levels, so nearly every window has ties
        return random.integers(0, 3, size=shape).astype(np.float32)
    return random.normal(size=shape).astype(np.float32)


def pictures(shape: tuple[int, ...]) -> np.ndarray:
    """One of each kind, in one batch: random values have no ties, the others little else."""
    return np.concatenate([picture(kind, shape) for kind in ("random", "flat", "steps")])


def value_and_pullback(f, g, *arguments):
    @jax.jit
    def run(cotangent, *primals):
        y, pullback = jax.vjp(f, *primals)
        return y, pullback(cotangent)

    x = jnp.asarray(arguments[0])
    return run(jnp.asarray(g, x.dtype), x, *(jnp.asarray(a) for a in arguments[1:]))


def test_conv_does_not_flip_its_kernel():
    # y[i, j] = x[i, j] - x[i + 1, j + 1] = -4 everywhere. A true convolution would give +4.
    x = jnp.arange(1, 10, dtype=jnp.float32).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1, 0], [0, -1]], jnp.float32)[:, :, None, None]
    np.testing.assert_array_equal(layers.conv(x, kernel)[0, :, :, 0], np.full((2, 2), -4.0))


@pytest.mark.parametrize("padding", ["VALID", "SAME", 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_conv_equals_loops(size, stride, padding):
    random = np.random.default_rng(size)
    x = random.normal(size=(2, 7, 6, 3)).astype(np.float32)
    kernel = random.normal(size=(size, size, 3, 5)).astype(np.float32)
    y, g, dx, dkernel = conv_loops(x, kernel, stride, padding, seed=1)
    conv = functools.partial(layers.conv, stride=stride, padding=padding)
    ours, (ours_dx, ours_dkernel) = value_and_pullback(conv, g, x, kernel)
    # Entries are of the order of 1 to 10, float32 rounds at 6e-8 of that.
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours_dx, dx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours_dkernel, dkernel, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 3), (3, 2), (2, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools_equal_loops(kind, window, stride, padding):
    x = pictures((1, 7, 8, 3))
    y, g, dx = pool_loops(x, kind, window, stride, padding, seed=2)
    pool = {"max": layers.max_pool, "avg": layers.avg_pool}[kind]
    ours, (ours_dx,) = value_and_pullback(
        functools.partial(pool, window=window, stride=stride, padding=padding), g, x
    )
    np.testing.assert_allclose(ours, y, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours_dx, dx, rtol=1e-6, atol=1e-6)


def test_padded_max_pool_equals_loops():
    # The stem of a ResNet: 3x3 at stride 2 with one pixel on every side, all values negative, so
    # that padding with zeros would win.
    x = -1 - np.abs(picture("random", (2, 8, 8, 3)))
    y, g, dx = pool_loops(x, "max", 3, 2, 1, seed=3)
    pool = functools.partial(layers.max_pool, window=3, stride=2, padding=1)
    ours, (ours_dx,) = value_and_pullback(pool, g, x)
    np.testing.assert_array_equal(ours, y.astype(np.float32))
    np.testing.assert_allclose(ours_dx, dx, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("window", "dtype"),
    [(2, jnp.float32), (2, jnp.bfloat16), (3, jnp.float32), (8, jnp.float32)],
)
def test_tiled_max_pool_equals_reduce_window(window, dtype):
    x = jnp.asarray(pictures((1, 18, 17, 2)), dtype)
    x = x.at[:, :9, :9].set(-jnp.inf)  # whole windows of -inf: ties as well
    reference = functools.partial(nn.max_pool, window_shape=(window,) * 2, strides=(window,) * 2)
    g = np.random.default_rng(4).normal(size=(3, 18 // window, 17 // window, 2))
    g = jnp.asarray(g, dtype)
    expected, (expected_dx,) = value_and_pullback(reference, g, x)
    ours, (ours_dx,) = value_and_pullback(functools.partial(layers.max_pool, window=window), g, x)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(ours_dx, expected_dx)


@pytest.mark.parametrize("cell", range(4))
def test_a_nan_anywhere_in_a_window_wins_and_takes_the_gradient(cell):
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    x[cell] = np.nan
    x = jnp.asarray(x).reshape(1, 2, 2, 1)
    y, pull = jax.vjp(lambda x: layers.max_pool(x, 2), x)
    assert jnp.isnan(y).all()
    assert jnp.isnan(nn.max_pool(x, (2, 2), (2, 2))).all()
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0].ravel(), np.arange(4) == cell)


def test_flat_patch_sends_its_gradient_once():
    # Four equal pixels, dL/dy = 1: the gradient is 1 on the first, and not on all four.
    (dx,) = jax.vjp(lambda x: layers.max_pool(x, 2), jnp.ones((1, 2, 2, 1)))[1](
        jnp.ones((1, 1, 1, 1))
    )
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 0], [0, 0]])


def test_max_pool_has_forward_and_second_derivatives():
    x = jnp.asarray(picture("steps", (1, 4, 4, 1)))

    def energy(x):
        return (layers.max_pool(x, 2) ** 2).sum()

    # d2/dx2 of the sum of squared maxima is 2 on each window's first maximum: trace 2 * 4.
    np.testing.assert_allclose(jax.jit(jax.hessian(energy))(x).reshape(16, 16).trace(), 8.0)


def test_batch_norm_by_hand():
    norm = layers.BatchNorm(momentum=0.9, epsilon=0.25)
    first = jnp.array([0.0, 4.0]).reshape(2, 1, 1, 1)
    second = jnp.array([6.0, 6.0]).reshape(2, 1, 1, 1)
    variables = norm.init(jax.random.key(0), first, train=False)
    assert set(variables["params"]) == {"scale", "bias"}
    stats = {"mean": [0.0], "var": [1.0]}
    assert jax.tree.map(lambda a: a.tolist(), variables["batch_stats"]) == stats

    # Batch mean 2, biased variance 4: y = (x - 2) / sqrt(4.25) = +-0.9701425.
    # Running: mean 0.1 * 2 = 0.2, var 0.9 * 1 + 0.1 * 4 = 1.3. Unbiased would be 0.9 + 0.8 = 1.7.
    y, new = norm.apply(variables, first, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), [-0.9701425, 0.9701425], rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["mean"], [0.2], rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], [1.3], rtol=1e-6)

    # Mean 6, variance 0: y = 0; running mean 0.9 * 0.2 + 0.1 * 6 = 0.78, var 0.9 * 1.3 = 1.17.
    y, new = norm.apply({**variables, **new}, second, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y.ravel(), [0.0, 0.0])
    np.testing.assert_allclose(new["batch_stats"]["mean"], [0.78], rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], [1.17], rtol=1e-6)

    # Inference with scale 3 and bias 1: (4 - 0.78) / sqrt(1.17 + 0.25) * 3 + 1 = 9.1064955.
    params = {"scale": jnp.array([3.0]), "bias": jnp.array([1.0])}
    y = norm.apply({"params": params, **new}, first, train=False)
    np.testing.assert_allclose(y.ravel()[1], 9.1064955, rtol=1e-6)


@pytest.mark.parametrize(
    ("group", "expected", "mean", "var"),
    [
        # One group: mean 4, variance (16 + 0 + 4 + 4) / 4 = 6; running var 0.9 + 0.6.
        (0, np.array([-4, 0, 2, 2]) / math.sqrt(6.25), 0.4, 1.5),
        # Two: means 2 and 6, variances 4 and 0, whose means are 4 and 2; running var 0.9 + 0.2.
        (2, np.array([-2, 2, 0, 0]) / math.sqrt(4.25), 0.4, 1.1),
        # Four of one row: each is its own mean, with no spread; running var 0.9.
        (1, np.zeros(4), 0.4, 0.9),
    ],
)
def test_batch_norm_groups_by_hand(group, expected, mean, var):
    norm = layers.BatchNorm(momentum=0.9, epsilon=0.25, group=group)
    x = jnp.array([0.0, 4.0, 6.0, 6.0]).reshape(4, 1, 1, 1)
    variables = norm.init(jax.random.key(0), x, train=False)
    y, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["mean"], [mean], rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], [var], rtol=1e-6)


def test_batch_norm_group_must_divide_the_batch():
    norm = layers.BatchNorm(group=4)
    x = jnp.ones((6, 2, 2, 3))
    variables = norm.init(jax.random.key(0), x, train=False)
    with pytest.raises(UsageError, match=r"batch_norm_group=4 does not divide the batch of 6"):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])
    norm.apply(variables, x, train=False)  # inference has no groups


def test_batch_norm_gradient_equals_loops():
    # Standard result for y = (x - mean) / s, g = dL/dy * scale, over the n values of a channel:
    # dL/dx = (g - mean(g) - y * mean(g * y)) / s.
    random = np.random.default_rng(5)
    x, g = (random.normal(2.0, 3.0, size=(4, 3, 5, 2)).astype(np.float32) for _ in range(2))
    norm = layers.BatchNorm(epsilon=1e-3)
    params = {"scale": jnp.array([2.0, 0.5]), "bias": jnp.array([1.0, -1.0])}
    stats = {"mean": jnp.zeros(2), "var": jnp.ones(2)}

    def run(x):
        variables = {"params": params, "batch_stats": stats}
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    ours, (ours_dx,) = value_and_pullback(run, g, x)
    for c, (scale, bias) in enumerate([(2.0, 1.0), (0.5, -1.0)]):
        values, cotangent = x[..., c].astype(np.float64), g[..., c].astype(np.float64) * scale
        s = np.sqrt(values.var() + 1e-3)
        y = (values - values.mean()) / s
        dx = (cotangent - cotangent.mean() - y * (cotangent * y).mean()) / s
        np.testing.assert_allclose(ours[..., c], y * scale + bias, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours_dx[..., c], dx, rtol=1e-5, atol=1e-5)


def test_bfloat16_batch_norm_keeps_float32_statistics():
    # 1 and 1 + 2^-7 are neighbours in bfloat16; their mean 1 + 2^-8 is not a bfloat16 at all.
    x = jnp.tile(jnp.array([1.0, 1.0078125], jnp.bfloat16), 8).reshape(4, 2, 2, 1)
    norm = layers.BatchNorm(momentum=0.0, dtype=jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x, train=False)
    y, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((variables, new))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(new["batch_stats"]["mean"], [1.00390625])
    np.testing.assert_allclose(new["batch_stats"]["var"], [2.0**-16], rtol=1e-6)


@pytest.mark.parametrize("group", [0, 2])
def test_a_sharded_batch_gives_what_one_device_gives(group):
    norm = layers.BatchNorm(group=group)
    x = jnp.asarray(picture("random", (8, 6, 6, 4)))
    variables = norm.init(jax.random.key(0), x, train=False)

    @jax.jit
    def run(x):
        y, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return layers.max_pool(y, 2), new

    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    for ours, expected in zip(jax.tree.leaves(run(sharded)), jax.tree.leaves(run(x)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(layers.ACTIVATIONS))
def test_activations_keep_shape_and_dtype(name):
    y = layers.activation(name)(jnp.array([-2.0, 0.0, 3.0], jnp.bfloat16))
    assert (y.shape, y.dtype) == ((3,), jnp.bfloat16)


def test_activations_by_hand():
    x = jnp.array([-1.0, 2.0])
    # gelu(x) = x * Phi(x): Phi(-1) = 0.1586553, Phi(2) = 0.9772499; the tanh form differs by 4e-4.
    expected = {
        "relu": [0.0, 2.0],
        "gelu": [-0.1586553, 1.9544997],
        "silu": [-1 / (1 + math.e), 2 / (1 + math.exp(-2))],
        "tanh": [math.tanh(-1), math.tanh(2)],
        "elu": [math.exp(-1) - 1, 2.0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(layers.activation(name)(x), values, rtol=1e-5, err_msg=name)


def test_an_unknown_activation_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"model.activation='rleu'.*did you mean 'relu'"):
        layers.activation("rleu")


def test_the_mean_over_a_picture_and_its_gradient():
    x = np.arange(24.0).reshape(2, 2, 3, 2)
    mean, pull = jax.vjp(jax.jit(layers.global_mean), jnp.float32(x))
    # Channel 0 of the first picture is 0, 2, 4, 6, 8, 10.
    assert mean.tolist() == [[5, 6], [17, 18]]
    dy = jnp.asarray([[6.0, 12.0], [18.0, 24.0]])
    np.testing.assert_allclose(pull(dy)[0][:, 1, 2], [[1, 2], [3, 4]], rtol=1e-6)
    narrow = layers.global_mean(jnp.full((1, 100, 100, 1), 1.5, jnp.bfloat16))
    assert (narrow.dtype, narrow.tolist()) == (jnp.bfloat16, [[1.5]])

    def slope(x):
        return jax.grad(lambda x: (layers.global_mean(x) ** 2).sum())(x)

    twice = jax.grad(lambda x: (slope(x) ** 2).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(twice, np.full((1, 2, 2, 1), 0.5), rtol=1e-6)


def test_inference_keeps_the_flattening_out_of_the_loops_before_it():
    x = jnp.ones((2, 8, 8, 3))

    def pooled(x, train):
        return layers.flatten(jax.nn.relu(layers.max_pool(x, 2)), train)

    def merged(train):
        text = jax.jit(pooled, static_argnums=1).lower(x, train).compile().as_text()
        return "max" in text and " call(" not in text

    assert merged(train=True)
    assert not merged(train=False)


@pytest.mark.parametrize("train", [True, False])
def test_flattening_takes_rows_columns_channels_in_this_order(train):
    x = np.arange(24.0).reshape(2, 2, 3, 2)
    flat, pull = jax.vjp(jax.jit(lambda x: layers.flatten(x, train)), jnp.float32(x))
    assert flat.tolist() == [list(range(12)), list(range(12, 24))]
    np.testing.assert_array_equal(pull(flat)[0], x)


def test_a_max_pool_before_bias_and_relu_gives_what_one_after_them_does():
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 5))
    layer = layers.Conv(4, 3)
    variables = layer.init(jax.random.key(1), x)
    variables["params"]["bias"] = jnp.asarray([-1.0, 0.0, 0.5, 2.0])

    def pool(y):
        return layers.max_pool(y, 2)

    def before(variables):
        return jax.nn.relu(layer.apply(variables, x, pool))

    def after(variables):
        return pool(jax.nn.relu(layer.apply(variables, x)))

    np.testing.assert_array_equal(before(variables), after(variables))
    weights = jax.random.normal(jax.random.key(2), (2, 3, 3, 4))
    slopes = [jax.grad(lambda v, f=f: (f(v) * weights).sum())(variables) for f in (before, after)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *slopes)
