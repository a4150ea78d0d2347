"""oneDNN's convolutions, called from XLA's programs on the CPU. Only `cpu_conv` uses it.

The library comes in a package without Python code, so its C interface, that of oneDNN 3, is called
with ctypes, and so is that of XLA for foreign functions. Nothing here knows JAX's arrays: what is
given is addresses, and a `Convolution` tells what to do with them. Sources: oneDNN's dnnl.h and
dnnl_types.h; include/xla/ffi/api/c_api.h of jaxlib, API 0.3.

All of oneDNN's work is done in one thread of ours, for XLA calls from any of its own: OpenMP keeps
a team of threads for each that calls it, and oneDNN's scratch memory belongs to a thread. XLA must
not call from the main thread: there Python runs the handlers of signals, even before the first line
of `_handler`, and what they raise cannot pass through XLA. See `cpu_conv`.
"""

import ast
import atexit
import contextlib
import ctypes
import functools
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.ffi
import numpy as np

TARGET = "imgclass_onednn_convolution"

# dnnl_data_type_t. Not bfloat16: a kernel's gradient of stride 2 over maps of one pixel held NaN.
DTYPES = {"float32": 3}

# What is worked out, from which two arrays, and each one's index (DNNL_ARG_*).
FORWARD, INPUT, KERNEL = "y", "x", "kernel"
_ARRAYS = {
    FORWARD: (("x", 1), ("kernel", 33), ("y", 17)),
    INPUT: (("y", 145), ("kernel", 33), ("x", 129)),
    KERNEL: (("x", 1), ("y", 145), ("kernel", 161)),
}
_FROM, _TO = 1, 17
# dnnl_types.h
_CPU = 1
_IN_ORDER = 1
_DIRECT = 1  # dnnl_convolution_direct; Winograd's would round otherwise
_TRAINING = 64
_ALIGNED = 64  # bytes; a line of the cache
_ANY = 1  # dnnl_format_tag_any: the kernel's layout is the library's to choose
_NAME, _WEIGHTS, _DIFF_WEIGHTS = 8, 131, 132  # dnnl_query_*

_Ints = tuple[int, ...]
_Handle = ctypes.c_void_p


class Convolution(NamedTuple):
    """y[n, o, p] = sum over i, k of x[n, i, p * stride + k * dilation - before] * kernel[o, i, k].

    Shapes have batch (or out) and channels first, whatever the layout in memory: that is told by
    the strides, in elements. `what` is the array that is worked out from the other two.
    """

    what: str
    dtype: str
    groups: int
    x: _Ints
    kernel: _Ints  # [out, in / groups, ...]
    y: _Ints
    x_strides: _Ints
    kernel_strides: _Ints
    y_strides: _Ints
    stride: _Ints
    dilation: _Ints
    before: _Ints
    after: _Ints

    def text(self) -> str:
        """Returns what the custom call carries."""
        return repr(tuple(self))


class Failed(Exception):
    """oneDNN would not or could not."""


class _Library:
    """libdnnl. Its quick calls keep the interpreter's lock; those that work let it go."""

    def __init__(self, path: str) -> None:
        self.quick = ctypes.PyDLL(path)
        self.quick.dnnl_primitive_desc_query_md.restype = _Handle
        self.quick.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self.execute = ctypes.CDLL(path).dnnl_primitive_execute
        self.engine = self.make("engine_create", _CPU, ctypes.c_size_t(0))
        self.stream = self.make("stream_create", self.engine, _IN_ORDER)
        self.scratch = np.empty(0, np.uint8)

    def call(self, name: str, *args: Any) -> None:
        status = getattr(self.quick, f"dnnl_{name}")(*args)
        if status:
            raise Failed(f"dnnl_{name} returned {status}")

    def scratch_of(self, size: int) -> int:
        """Returns the address of so many bytes, the same ones for everybody."""
        if self.scratch.size < size + _ALIGNED:
            self.scratch = np.empty(size + _ALIGNED, np.uint8)
        address = self.scratch.ctypes.data
        return address + -address % _ALIGNED

    def make(self, name: str, *args: Any) -> _Handle:
        handle = _Handle()
        self.call(name, ctypes.byref(handle), *args)
        return handle


_Task = Callable[[], Any]
_Reply = queue.SimpleQueue  # of what a task returned and what it raised
_library: _Library | None = None
_loading = threading.Lock()
_tasks: queue.SimpleQueue[tuple[_Task, _Reply]] = queue.SimpleQueue()


def load(path: str) -> None:
    """Loads libdnnl and tells XLA of it, once. OSError, RuntimeError or Failed if it cannot be."""
    global _library
    with _loading:
        if _library is None:
            library = _Library(path)
            threading.Thread(target=_work, name="onednn", daemon=True).start()
            jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_handler), platform="cpu")
            atexit.register(_finish)
            _library = library


@functools.cache
def can(convolution: Convolution) -> bool:
    """Returns whether the loaded library has a fast form of it for this processor."""
    try:
        return "ref" not in _in_thread(lambda: _ready(convolution.text()).name)
    except Failed:
        return False


def _work() -> None:
    while True:
        task, reply = _tasks.get()
        try:
            reply.put((task(), None))
        except Exception as error:
            reply.put((None, error))


def _in_thread(task: _Task) -> Any:
    """Returns what the task does in the thread for oneDNN, or raises what it raises."""
    reply: _Reply = _Reply()  # lighter than a Future
    _tasks.put((task, reply))
    result, error = reply.get()
    if error is not None:
        raise error
    return result


class _Arg(ctypes.Structure):
    _fields_ = (("index", ctypes.c_int), ("memory", _Handle))


_Run = tuple[_Handle, int, ctypes.Array]  # a primitive, and what it is given


class _Ready:
    """A convolution made ready."""

    def __init__(self, library: _Library, c: Convolution) -> None:
        self.library, engine, make = library, library.engine, library.make
        layouts = {
            "x": _layout(library, c.x, c.x_strides, c.dtype),
            "kernel": _layout(library, *_by_group(c), c.dtype),
            "y": _layout(library, c.y, c.y_strides, c.dtype),
        }
        described = _described(library, c, layouts["x"], layouts["y"])
        name = ctypes.c_char_p()
        library.call("primitive_desc_query", described, _NAME, 0, ctypes.byref(name))
        self.name = (name.value or b"ref").decode()
        query = _DIFF_WEIGHTS if c.what == KERNEL else _WEIGHTS
        chosen = _Handle(library.quick.dnnl_primitive_desc_query_md(described, query, 0))

        # Their addresses are set anew in each call.
        def memory(layout: _Handle) -> _Handle:
            return make("memory_create", layout, engine, None)

        given = {name: memory(layouts[name]) for name, _ in _ARRAYS[c.what]}
        self.given, self.size = list(given.values()), 0
        self.inner: _Handle | None = None
        convolved = dict(given)
        copy: list[_Run] = []
        if not library.quick.dnnl_memory_desc_equal(layouts["kernel"], chosen):
            outer, self.inner = given["kernel"], memory(chosen)
            self.size = library.quick.dnnl_memory_desc_get_size(chosen)
            convolved["kernel"] = self.inner
            pair = (layouts["kernel"], outer), (chosen, self.inner)
            (before, source), (after, target) = pair if c.what != KERNEL else pair[::-1]
            ends = before, engine, after, engine, None
            code = make("primitive_create", make("reorder_primitive_desc_create", *ends))
            copy = [(code, 2, _args((_FROM, source), (_TO, target)))]
        args = _args(*((index, convolved[name]) for name, index in _ARRAYS[c.what]))
        convolve = make("primitive_create", described), len(given), args
        self.runs = [convolve, *copy] if c.what == KERNEL else [*copy, convolve]

    def __call__(self, addresses: Iterable[int]) -> None:
        """Runs it on the two arrays that are given and the one that is worked out."""
        library = self.library
        for memory, address in zip(self.given, addresses, strict=True):
            library.call("memory_set_data_handle", memory, _Handle(address))
        if self.inner is not None:
            # One place for every kernel: memory that was used just now is still in the cache.
            where = library.scratch_of(self.size)
            library.call("memory_set_data_handle", self.inner, _Handle(where))
        for code, count, args in self.runs:
            status = library.execute(code, library.stream, count, args)
            if status:
                raise Failed(f"dnnl_primitive_execute returned {status}")
        library.call("stream_wait", library.stream)


def _args(*args: tuple[int, _Handle]) -> ctypes.Array:
    return (_Arg * len(args))(*(_Arg(*each) for each in args))


@functools.cache
def _ready(text: str) -> _Ready:
    assert _library is not None
    return _Ready(_library, Convolution(*ast.literal_eval(text)))


def _described(library: _Library, c: Convolution, x: _Handle, y: _Handle) -> _Handle:
    """Returns oneDNN's primitive descriptor of it, the kernel's layout left free."""
    shape, _ = _by_group(c)
    tag = len(shape), _ints(shape), DTYPES[c.dtype], _ANY
    kernel = library.make("memory_desc_create_with_tag", *tag)
    window = [_ints(v) for v in (c.stride, [d - 1 for d in c.dilation], c.before, c.after)]
    arrays = x, kernel, None, y  # None: no bias

    def make(kind: str, *args: Any) -> _Handle:
        name = f"convolution_{kind}_primitive_desc_create"
        return library.make(name, library.engine, *args, None)

    forward = make("forward", _TRAINING, _DIRECT, *arrays, *window)
    if c.what == FORWARD:
        return forward
    if c.what == INPUT:
        return make("backward_data", _DIRECT, x, kernel, y, *window, forward)
    return make("backward_weights", _DIRECT, *arrays, *window, forward)


def _by_group(c: Convolution) -> tuple[_Ints, _Ints]:
    """Returns the kernel's shape and strides; with groups, [groups, out / groups, ...]."""
    (out, *shape), (stride, *strides) = c.kernel, c.kernel_strides
    if c.groups == 1:
        return c.kernel, c.kernel_strides
    each = out // c.groups
    return (c.groups, each, *shape), (stride * each, stride, *strides)


def _layout(library: _Library, shape: _Ints, strides: _Ints, dtype: str) -> _Handle:
    what = (len(shape), _ints(shape), DTYPES[dtype], _ints(strides))
    return library.make("memory_desc_create_with_strides", *what)


def _ints(values: Iterable[int]) -> Any:
    return (ctypes.c_int64 * 12)(*values)  # dnnl_dims_t


# XLA's side: the structures of c_api.h as far as they are read.


def _struct(*fields: tuple[str, Any]) -> type[ctypes.Structure]:
    head = (("size", ctypes.c_size_t), ("extension", ctypes.c_void_p))
    return type("Struct", (ctypes.Structure,), {"_fields_": (*head, *fields)})


_Values = _struct(
    ("count", ctypes.c_int64),
    ("types", ctypes.c_void_p),
    ("values", ctypes.POINTER(ctypes.c_void_p)),
)
_Named = _struct(
    ("count", ctypes.c_int64),
    ("types", ctypes.c_void_p),
    ("names", ctypes.c_void_p),
    ("values", ctypes.POINTER(ctypes.c_void_p)),
)
_Buffer = _struct(("dtype", ctypes.c_int), ("data", ctypes.c_void_p))
_Version = _struct(("major", ctypes.c_int), ("minor", ctypes.c_int))
_Error = _struct(("message", ctypes.c_char_p), ("code", ctypes.c_int))
_CreateError = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Error))
_Api = _struct(("version", _Version), ("internal", ctypes.c_void_p), ("error", _CreateError))
_Frame = _struct(
    ("api", ctypes.POINTER(_Api)),
    ("context", ctypes.c_void_p),
    ("stage", ctypes.c_int),
    ("args", _Values),
    ("results", _Values),
    ("attributes", _Named),
)


class _Text(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Metadata(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("version", _Version))


class _MetadataExtension(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(_Metadata)),
    )


_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))
def _handler(pointer: Any) -> int | None:
    """Runs one convolution for XLA; returns None, or the address of an XLA_FFI_Error."""
    frame = pointer.contents
    try:
        if frame.extension:  # asked which version of the interface this is
            asked = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension)).contents
            if asked.type == _METADATA:
                version = asked.metadata.contents.version
                version.major, version.minor = 0, 3
                return None
        text = ctypes.cast(frame.attributes.values[0], ctypes.POINTER(_Text)).contents
        buffers = *frame.args.values[:2], frame.results.values[0]
        what = ctypes.string_at(text.start, text.length).decode()
        where = [ctypes.cast(b, ctypes.POINTER(_Buffer)).contents.data for b in buffers]
        _in_thread(lambda: _ready(what)(where))
        return None
    except Exception as error:
        message = f"oneDNN: {error}".encode()
        report = _Error(ctypes.sizeof(_Error), None, message, _INTERNAL)
        address: int | None = frame.api.contents.error(ctypes.byref(report))
        return address


def _finish() -> None:
    """Waits for what is being worked out: a thread of XLA cannot call into a Python that ends."""
    for array in jax.live_arrays("cpu"):
        with contextlib.suppress(Exception):
            array.block_until_ready()
    # Programs whose results nobody holds. A device takes its programs in turn, but for those of
    # under a thousand operations.
    for device in jax.local_devices(backend="cpu"):
        square = jax.device_put(np.ones((32, 32), np.float32), device)
        jax.block_until_ready(square @ square)
