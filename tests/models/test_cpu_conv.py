"""oneDNN's convolutions inside JAX's programs: values, derivatives, and where they are not used."""

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgclass import process
from imgclass.models import cpu_conv, layers, onednn
from tests import tiny
from tests.models import test_depthwise

LIBRARY, _ = process.find_onednn()
pytestmark = pytest.mark.skipif(not LIBRARY, reason="the extra `fast` is not installed")


@pytest.fixture(autouse=True)
def in_use(monkeypatch):
    monkeypatch.setattr(process, "onednn", LIBRARY)
    monkeypatch.setattr(cpu_conv, "LEAST", 1)
    cpu_conv.use()
    yield
    cpu_conv.leave()


def calls(function, *args):
    """How many convolutions of a program go to oneDNN, and how many to XLA."""
    text = jax.jit(function).lower(*args).as_text()
    return text.count(f"@{onednn.TARGET}("), text.count("stablehlo.convolution")


def value_and_pulls(conv, x, kernel, dy):
    y, pull = jax.vjp(conv, x, kernel)
    return (y, *pull(dy))


def in_float64(function, *args):
    with jax.enable_x64(True):  # which oneDNN has no form of
        return jax.tree.map(np.asarray, jax.jit(function)(*(np.float64(a) for a in args)))


def close(got, wanted, tolerance=2e-6):
    """To a part of the largest value: rounding is of the sums, not of what they cancel to."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        error = np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
        assert error < tolerance, error


def loops(x, kernel, stride, pad, dilation, groups):
    """A convolution in float64, one output at a time: Goodfellow et al. (2016), eq. 9.6."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    m, n, each, out = kernel.shape
    rows = (x.shape[1] - (m - 1) * dilation - 1) // stride + 1
    columns = (x.shape[2] - (n - 1) * dilation - 1) // stride + 1
    y = np.zeros((x.shape[0], rows, columns, out))
    for i in range(rows):
        for j in range(columns):
            down = slice(i * stride, i * stride + (m - 1) * dilation + 1, dilation)
            right = slice(j * stride, j * stride + (n - 1) * dilation + 1, dilation)
            for o in range(out):
                group = o // (out // groups)
                seen = x[:, down, right, group * each : (group + 1) * each]
                y[:, i, j, o] = (seen * kernel[..., o]).sum(axis=(1, 2, 3))
    return y


# Height, width, kernel, stride, pad, dilation, groups, channels in and out; then how many of value
# and two gradients oneDNN makes.
SHAPES = [
    ((9, 8, 3, 1, 1, 1, 1, 16, 32), 3),
    ((9, 8, 3, 2, 1, 1, 1, 16, 32), 3),
    ((10, 9, 3, 2, 0, 1, 1, 16, 8), 3),
    ((8, 8, 1, 1, 0, 1, 1, 16, 32), 1),  # but for the kernel's gradient a product of matrices
    ((8, 7, 1, 2, 0, 1, 1, 16, 32), 1),
    ((8, 7, 1, 1, 0, 1, 4, 16, 32), 3),
    ((11, 9, 3, 1, 2, 2, 1, 16, 16), 3),
    ((11, 12, 3, 3, 2, 2, 1, 8, 16), 3),
    ((9, 8, 3, 1, 1, 1, 4, 32, 32), 3),
    ((12, 12, 3, 2, 1, 1, 4, 32, 64), 2),  # the gradient by x of strided groups is XLA's
    ((13, 11, 5, 3, 2, 1, 1, 3, 8), 3),
    ((14, 14, 7, 2, 3, 1, 1, 3, 64), 3),
    ((8, 8, 2, 1, 0, 1, 1, 3, 24), 3),
    ((4, 4, 4, 1, 0, 1, 1, 16, 16), None),  # one pixel comes out: any split, so it is right
    ((4, 4, 3, 1, 3, 1, 1, 16, 16), None),  # more padding than the window reaches back
    ((5, 5, 1, 1, 2, 1, 1, 16, 16), None),
]


@pytest.mark.parametrize(("shape", "made"), SHAPES)
def test_values_and_gradients_equal_float64(shape, made):
    height, width, side, stride, pad, dilation, groups, inside, out = shape
    random = np.random.default_rng(0)
    x = random.normal(size=(3, height, width, inside)).astype(np.float32)
    kernel = random.normal(size=(side, side, inside // groups, out)).astype(np.float32)

    def conv(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(pad, pad)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    y = loops(np.float64(x), np.float64(kernel), stride, pad, dilation, groups)
    close(jax.jit(conv)(x, kernel), y)
    dy = random.normal(size=y.shape).astype(np.float32)

    def all_three(x, kernel, dy):
        return value_and_pulls(conv, x, kernel, dy)

    if made is not None:
        assert calls(all_three, x, kernel, dy) == (made, 3 - made)
    got = jax.jit(all_three)(x, kernel, dy)
    close(got, in_float64(all_three, x, kernel, dy))
    # And with no derivative of JAX's in it: y is linear in each, so <dy, y(x', k)> = <dx, x'>.
    other = random.normal(size=x.shape), random.normal(size=kernel.shape)
    first = (dy * loops(other[0], np.float64(kernel), stride, pad, dilation, groups)).sum()
    second = (dy * loops(np.float64(x), other[1], stride, pad, dilation, groups)).sum()
    size = np.sqrt(y.size * kernel[..., 0].size)
    assert abs((np.float64(got[1]) * other[0]).sum() - first) < 1e-5 * size
    assert abs((np.float64(got[2]) * other[1]).sum() - second) < 1e-5 * size


@pytest.mark.parametrize(
    ("layout", "x_shape", "kernel_shape", "strides"),
    [
        (("NCHW", "OIHW", "NCHW"), (2, 16, 7, 6), (8, 16, 3, 3), (1, 1)),
        (("NHWC", "OIHW", "NCHW"), (2, 7, 6, 16), (8, 16, 3, 3), (1, 1)),
        (("NHWC", "HWIO", "NHWC"), (2, 8, 9, 16), (3, 3, 16, 8), (2, 2)),  # more after than before
        (("NHWC", "HWIO", "NHWC"), (2, 8, 9, 16), (3, 5, 16, 8), (1, 3)),
        (("NHWC", "HWIO", "NHWC"), (2, 8, 9, 16), (3, 3, 16, 8), np.array([2, 1])),
        (("NWC", "WIO", "NWC"), (2, 30, 8), (5, 8, 16), (1,)),
        (("NDHWC", "DHWIO", "NDHWC"), (2, 4, 5, 6, 8), (3, 2, 3, 8, 16), (1, 1, 1)),
    ],
)
def test_other_layouts_ranks_and_strides(layout, x_shape, kernel_shape, strides):
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=x_shape), random.normal(size=kernel_shape)

    def all_three(x, kernel):
        def conv(x, kernel):
            return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)

        return value_and_pulls(conv, x, kernel, jnp.sin(conv(x, kernel)))

    single = np.float32(x), np.float32(kernel)
    assert (calls(all_three, *single)[0] > 0) == (layout[0][-1] == layout[2][-1])  # not mixed
    close(jax.jit(all_three)(*single), in_float64(all_three, x, kernel), 2e-5)


def test_derivatives_of_every_kind():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 8, 8, 16)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 16, 16)).astype(np.float32)

    def energy(x, kernel):
        return jnp.sin(layers.conv(x, kernel, 2, 1)).sum()

    def forward(x, kernel):
        return jax.jvp(lambda x, k: layers.conv(x, k, 2, 1), (x, kernel), (x * 2, kernel * 3))

    def second(x, kernel):  # forward over reverse, both ways
        slope = jax.grad(energy, (0, 1))
        return jax.jvp(slope, (x, kernel), (jnp.cos(x), jnp.cos(kernel)))

    def by_row(x, kernel):  # as for per-example gradients
        return jax.vmap(jax.grad(energy, 1), (0, None))(x[:, None], kernel)

    def by_net(x, kernel):  # as for an ensemble
        return jax.vmap(lambda k: layers.conv(x, k, 1, 1))(jnp.stack([kernel, kernel * 2]))

    def repeated(x, kernel):  # and worked out again on the way back
        def body(x, _):
            return jax.checkpoint(lambda x: jnp.sin(layers.conv(x, kernel / 20, 1, 1)))(x), None

        return jax.grad(lambda x: lax.scan(body, x, None, length=3)[0].sum())(x)

    for function in (forward, second, by_row, by_net, repeated):
        assert calls(function, x, kernel)[0] > 0, function
        close(jax.jit(function)(x, kernel), in_float64(function, x, kernel), 1e-5)


def test_who_makes_it(monkeypatch):
    def conv(x, kernel):
        return layers.conv(x, kernel, 1, 1)

    x, kernel = jnp.ones((8, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
    assert calls(conv, x, kernel) == (1, 0)
    with jax.enable_x64(True):
        wide = np.ones(x.shape), np.ones(kernel.shape)
        assert calls(conv, *wide) == (0, 1)
    narrow = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    assert calls(conv, *narrow) == (0, 1)
    exported = jax.export.export(jax.jit(conv), platforms=("cpu",))(x, kernel)
    assert onednn.TARGET not in exported.mlir_module()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert calls(conv, rows, kernel) == (0, 1)
    monkeypatch.setattr(process, "onednn", "")
    cpu_conv.leave()
    assert calls(lambda x, kernel: conv(x, kernel), x, kernel) == (0, 1)


def test_small_ones_are_left_to_xla(monkeypatch):
    monkeypatch.setattr(cpu_conv, "LEAST", 1000)
    # A window of 3 * 3 * 16 values, at 4 * 4 places, for 1 picture: 2,304 products a filter.
    for filters, made in ((1, 1), (0.25, 0)):
        x = jnp.ones((1, 6, 6, int(16 * filters)))
        kernel = jnp.ones((3, 3, int(16 * filters), 1))
        assert calls(layers.conv, x, kernel) == (made, 1 - made)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (3, 2, "SAME"), (5, 2, 2)])
def test_depthwise_values_and_gradients_equal_loops(size, stride, padding):
    def conv(x, kernel):
        return layers.conv(x, kernel, stride, padding, groups=x.shape[-1])

    x, kernel, dy = test_depthwise.draw((2, 9, 10, 16), size, stride, padding)
    assert calls(conv, x, kernel) == (1, 0)
    got = jax.jit(functools.partial(value_and_pulls, conv))(x, kernel, dy)
    close(got, test_depthwise.by_loops(x, kernel, stride, padding, dy))


def test_what_is_depthwise_and_not_onednns_has_the_other_form(monkeypatch):
    """XLA's own would take a hundred times as long on a CPU."""

    def conv(x, kernel):
        return layers.conv(x, kernel, 2, "SAME", groups=x.shape[-1])

    x, kernel, dy = test_depthwise.draw((8, 9, 10, 16), 3, 2, "SAME")
    wanted = test_depthwise.by_loops(x, kernel, 2, "SAME", dy)[0]
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert calls(conv, rows, kernel) == (0, 0)
    close(jax.jit(conv)(rows, kernel), wanted)
    exported = jax.export.export(jax.jit(conv), platforms=("cpu",))(x, kernel)
    assert "stablehlo.convolution" not in exported.mlir_module()
    for platform in ("cuda", "tpu"):
        lowered = jax.jit(conv).trace(x, kernel).lower(lowering_platforms=(platform,))
        assert lowered.as_text().count("stablehlo.convolution") == 1
    monkeypatch.setattr(cpu_conv, "LEAST", 1_000_000)
    assert calls(lambda x, kernel: conv(x, kernel), x, kernel) == (0, 0)
    # What `depthwise` does not ask for stays XLA's: two channels a group, and other dtypes.
    assert calls(lambda x, k: layers.conv(x, k, groups=8), x, jnp.ones((3, 3, 2, 16))) == (0, 1)

    def plain(x, kernel, dtype=None):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2, preferred_element_type=dtype,
        )  # fmt: skip

    large = jnp.full((1, 1, 1, 2), 2**24 + 1, jnp.int32)  # more than float32 can count
    assert jax.jit(plain)(large, jnp.ones_like(large)).tolist() == large.tolist()
    narrow = jnp.ones((1, 3, 3, 2), jnp.bfloat16), jnp.ones((3, 3, 1, 2), jnp.bfloat16)
    summed = jax.jit(functools.partial(plain, dtype=jnp.float32))(*narrow)
    assert (summed.dtype, summed.tolist()) == (jnp.float32, [[[[9.0, 9.0]]]])


def test_the_first_convolution_is_a_product_only_where_its_windows_are_wanted_again():
    def conv(x, kernel):
        return layers.conv(x, kernel, 1, 1)

    def pulled(x, kernel):
        y, pull = jax.vjp(lambda kernel: conv(x, kernel), kernel)
        return y, pull(y)

    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    assert calls(conv, x, kernel) == (1, 0)
    assert calls(pulled, x, kernel) == (0, 0)
    assert calls(conv, x[..., :1], kernel[:, :, :1]) == (0, 0)


def test_a_first_convolution_that_is_not_onednns_is_a_product(monkeypatch):
    def conv(x, kernel):
        return layers.conv(x, kernel, 1, 1)

    random = np.random.default_rng(0)
    x, kernel = (np.float32(random.normal(size=s)) for s in ((8, 8, 8, 3), (3, 3, 3, 4)))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert calls(conv, rows, kernel) == (0, 0)
    close(jax.jit(conv)(rows, kernel), loops(x, kernel, 1, 1, 1, 1))
    exported = jax.export.export(jax.jit(conv), platforms=("cpu",))(x, kernel)
    assert "stablehlo.convolution" not in exported.mlir_module()
    monkeypatch.setattr(cpu_conv, "LEAST", 1_000_000)
    assert calls(lambda x, kernel: conv(x, kernel), x, kernel) == (0, 0)


def test_kernels_of_all_sizes_have_one_place(monkeypatch):
    random = np.random.default_rng(2)
    x = random.normal(size=(2, 8, 8, 16)).astype(np.float32)
    shapes = (3, 3, 16, 16), (5, 5, 16, 96), (3, 3, 96, 16), (3, 3, 16, 40)
    kernels = [0.1 * random.normal(size=shape).astype(np.float32) for shape in shapes]

    def net(x, *kernels):
        for kernel in kernels:
            x = layers.conv(x, kernel, 1, "SAME")
        return x

    def all_of_it(x, *kernels):
        return jax.value_and_grad(lambda ks: jnp.sin(net(x, *ks)).sum())(kernels)

    onednn.load(LIBRARY)
    monkeypatch.setattr(onednn._library, "scratch", np.empty(0, np.uint8))  # it grows on the way
    assert calls(all_of_it, x, *kernels)[0] == 3 * 4 - 1  # no gradient of the pictures
    wanted = in_float64(all_of_it, x, *kernels)
    for _ in range(2):
        close(jax.jit(all_of_it)(x, *kernels), wanted, 1e-5)
    largest = 4 * np.prod((5, 5, 16, 96))
    assert largest <= onednn._library.scratch.size < 2 * largest


def test_threads_may_run_one_program_at_once():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 32, 32)).astype(np.float32)
    pictures = random.normal(size=(4, 16, 16, 16, 32)).astype(np.float32)
    assert calls(lambda x: layers.conv(x, kernel, 1, 1), pictures[0]) == (1, 0)
    program = jax.jit(lambda x: layers.conv(x, kernel, 1, 1)).lower(pictures[0]).compile()
    wanted = [np.asarray(program(x)) for x in pictures]
    wrong = []

    def repeat(number):
        for _ in range(50):
            if not np.array_equal(program(pictures[number]), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_donated_array_may_be_read_by_it():
    x, kernel = jnp.ones((2, 6, 6, 16)), jnp.full((3, 3, 16, 16), 0.5)
    step = jax.jit(lambda x: x + layers.conv(x, kernel, 1, 1), donate_argnums=0)
    # Each inner pixel has 9 neighbours of 16 channels: 1 + 9 * 16 / 2.
    assert float(step(x)[0, 2, 2, 0]) == 73


def test_it_is_never_called_in_the_main_thread(monkeypatch):
    # Where Python's handlers of signals run: what they raise would leave XLA an answer unwritten.
    x, kernel = jnp.ones((2, 8, 8, 32)), jnp.full((3, 3, 32, 32), 0.01)
    seen = set()
    programs = [
        lambda x: layers.conv(x, kernel, 1, 1),
        lambda x: jnp.sin(layers.conv(jnp.sin(layers.conv(x, kernel, 1, 1)), kernel, 1, 1)),
        lambda x: jax.grad(lambda k: layers.conv(x, k, 1, 1).sum())(kernel),
    ]

    in_thread = onednn._in_thread

    def noted(task):
        seen.add(threading.current_thread() is threading.main_thread())
        return in_thread(task)

    monkeypatch.setattr(onednn, "_in_thread", noted)
    for program in programs:
        compiled = jax.jit(program).lower(x).compile()
        seen.clear()
        for _ in range(3):
            compiled(x).block_until_ready()
        assert seen == {False}


def test_what_goes_wrong_is_an_error_of_the_program(monkeypatch):
    x, kernel = jnp.ones((2, 6, 6, 16)), jnp.ones((3, 3, 16, 16))
    program = jax.jit(lambda x: jnp.sin(layers.conv(x, kernel, 1, 1))).lower(x).compile()

    def broken(text):
        raise onednn.Failed("out of memory")

    monkeypatch.setattr(onednn, "_ready", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="oneDNN: out of memory"):
        program(x).block_until_ready()
    monkeypatch.undo()
    program(x).block_until_ready()


def test_what_cannot_be_loaded_is_said_once_and_done_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "libdnnl.so.3").write_bytes(b"no library")
    monkeypatch.setattr(process, "onednn", str(tmp_path / "libdnnl.so.3"))
    monkeypatch.setattr(process, "applied", ["malloc", "oneDNN 3"])
    monkeypatch.setattr(onednn, "_library", None)
    x, kernel = jnp.ones((8, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
    with caplog.at_level(logging.WARNING):
        for stride in (1, 2):
            assert calls(lambda x, k, s=stride: layers.conv(x, k, s), x, kernel) == (0, 1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "oneDNN is not used" in line
    assert "libdnnl.so.3" in line
    assert process.applied == ["malloc"]


PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
from imgclass import process
process.tune()
import jax, jax.numpy as jnp
from imgclass.models import layers, onednn
x, kernel = jnp.ones((64, 32, 32, 64)), jnp.full((3, 3, 64, 64), 1e-3)
step = jax.jit(lambda x: layers.conv(x, kernel, 1, 1) + x * 0.5)
assert onednn.TARGET in step.lower(x).as_text()
{then}
"""


def start(then, **settings):
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "IMGCLASS_TUNE")}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM.format(then=then)],
        cwd=tiny.ROOT,
        env=env | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("what", ["x = step(x)", "step(x)"], ids=["awaited", "dropped"])
def test_a_process_may_end_while_it_is_worked_out(what):
    running = start(f"step(x).block_until_ready()\nfor _ in range(30): {what}")
    out, err = running.communicate(timeout=100)
    assert (running.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.23])
def test_ctrl_c_is_not_lost(delay):
    loop = "try:\n    while True: x = step(x).block_until_ready()\nexcept KeyboardInterrupt: pass"
    running = start(f"step(x).block_until_ready()\nprint('ready')\n{loop}")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(delay)
    running.send_signal(signal.SIGINT)
    try:
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, out, err) == (0, "", "")


def test_a_program_that_was_kept_is_the_same_in_the_next_process(tmp_path):
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    said, files = set(), []
    for _ in range(2):
        running = start("print(os.environ['GOMP_SPINCOUNT'], float(step(x).sum()))", **kept)
        out, err = running.communicate(timeout=100)
        assert (running.returncode, err) == (0, "")
        said.add(out)
        files.append({path.name for path in tmp_path.glob("*-cache")})
    assert len(said) == 1
    assert out.startswith("3000 ")  # `tune` has said how long to spin
    assert files[0] == files[1]
    assert any("lambda" in name for name in files[0])
