"""oneDNN's convolutions, called from XLA's programs on the CPU. Only `cpu_conv` uses it.

The library comes in a package without Python code, so its C interface, that of oneDNN 3, is called
with ctypes, and so is that of XLA for foreign functions. Nothing here knows JAX's arrays: what is
given is addresses, and a `Convolution` tells what to do with them. Sources: oneDNN's dnnl.h and
dnnl_types.h; include/xla/ffi/api/c_api.h of jaxlib, API 0.3.
"""

import ast
import atexit
import ctypes
import functools
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.ffi

TARGET = "imgclass_onednn_convolution"

DTYPES = {"float32": 3, "bfloat16": 2}  # dnnl_data_type_t

# What is worked out, from which two arrays, and each one's index (DNNL_ARG_*).
FORWARD, INPUT, KERNEL = "y", "x", "kernel"
_ARRAYS = {
    FORWARD: (("x", 1), ("kernel", 33), ("y", 17)),
    INPUT: (("y", 145), ("kernel", 33), ("x", 129)),
    KERNEL: (("x", 1), ("y", 145), ("kernel", 161)),
}
_FROM, _TO, _SCRATCH = 1, 17, 80
# dnnl_types.h
_CPU = 1
_IN_ORDER = 1
_DIRECT = 1  # dnnl_convolution_direct; Winograd's would round otherwise
_TRAINING = 64
_ANY = 1  # dnnl_format_tag_any: the kernel's layout is the library's to choose
_OURS = 1  # dnnl_scratchpad_mode_user: the library's own scratch belongs to one thread
_NAME, _WEIGHTS, _DIFF_WEIGHTS, _SCRATCHPAD = 8, 131, 132, 136  # dnnl_query_*
_ALLOCATE = ctypes.c_void_p(-1)

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
    """libdnnl. Its quick calls keep the interpreter's lock; the one that works lets it go."""

    def __init__(self, path: str) -> None:
        self.quick = ctypes.PyDLL(path)
        self.quick.dnnl_primitive_desc_query_md.restype = _Handle
        self.execute = ctypes.CDLL(path).dnnl_primitive_execute
        self.engine = self.make("engine_create", _CPU, ctypes.c_size_t(0))

    def call(self, name: str, *args: Any) -> None:
        status = getattr(self.quick, f"dnnl_{name}")(*args)
        if status:
            raise Failed(f"dnnl_{name} returned {status}")

    def make(self, name: str, *args: Any) -> _Handle:
        handle = _Handle()
        self.call(name, ctypes.byref(handle), *args)
        return handle


_library: _Library | None = None


def load(path: str) -> None:
    """Loads libdnnl and tells XLA of it, once. OSError or Failed where it does not work."""
    global _library
    if _library is None:
        _library = _Library(path)
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_handler), platform="cpu")
        atexit.register(_finish)


def can(convolution: Convolution) -> bool:
    """Returns whether the loaded library has a fast form of it for this processor."""
    try:
        return "ref" not in _ready(convolution.text()).name
    except Failed:
        return False


class _Arg(ctypes.Structure):
    _fields_ = (("index", ctypes.c_int), ("memory", _Handle))


class _Ready:
    """A convolution made ready; several threads may run it at once."""

    def __init__(self, library: _Library, c: Convolution) -> None:
        self.library, engine, make = library, library.engine, library.make
        layouts = {
            "x": _layout(library, c.x, c.x_strides, c.dtype),
            "kernel": _layout(library, *_by_group(c), c.dtype),
            "y": _layout(library, c.y, c.y_strides, c.dtype),
        }
        self.arrays = [(layouts[name], index) for name, index in _ARRAYS[c.what]]
        self.kernel = [name for name, _ in _ARRAYS[c.what]].index("kernel")
        described = _described(library, c, layouts["x"], layouts["y"])
        name = ctypes.c_char_p()
        library.call("primitive_desc_query", described, _NAME, 0, ctypes.byref(name))
        self.name = (name.value or b"ref").decode()
        self.code = make("primitive_create", described)
        layout_of = functools.partial(library.quick.dnnl_primitive_desc_query_md, described)
        self.scratch = _Handle(layout_of(_SCRATCHPAD, 0))
        self.chosen = _Handle(layout_of(_DIFF_WEIGHTS if c.what == KERNEL else _WEIGHTS, 0))
        self.copy = None  # between the kernel's layout and the one chosen
        if not library.quick.dnnl_memory_desc_equal(layouts["kernel"], self.chosen):
            pair = layouts["kernel"], engine, self.chosen, engine
            if c.what == KERNEL:
                pair = self.chosen, engine, layouts["kernel"], engine
            self.copy = make("primitive_create", make("reorder_primitive_desc_create", *pair, None))

    def __call__(self, *addresses: int) -> None:
        """Runs it on the two arrays that are given and the one that is worked out."""
        library, lent = self.library, []
        stream = library.make("stream_create", library.engine, _IN_ORDER)

        def memory(layout: _Handle, address: _Handle) -> _Handle:
            lent.append(library.make("memory_create", layout, library.engine, address))
            return lent[-1]

        def run(code: _Handle, *args: tuple[int, _Handle]) -> None:
            given = (_Arg * len(args))(*(_Arg(*each) for each in args))
            status = library.execute(code, stream, len(args), given)
            if status:
                raise Failed(f"dnnl_primitive_execute returned {status}")

        try:
            args = [
                (index, memory(layout, _Handle(address)))
                for (layout, index), address in zip(self.arrays, addresses, strict=True)
            ]
            index, outer = args[self.kernel]
            inner = memory(self.chosen, _ALLOCATE) if self.copy else outer
            args[self.kernel] = index, inner
            if self.copy and self.kernel == 1:
                run(self.copy, (_FROM, outer), (_TO, inner))
            run(self.code, *args, (_SCRATCH, memory(self.scratch, _ALLOCATE)))
            if self.copy and self.kernel == 2:
                run(self.copy, (_FROM, inner), (_TO, outer))
        finally:
            for handle in lent:
                library.call("memory_destroy", handle)
            library.call("stream_destroy", stream)


@functools.cache
def _ready(text: str) -> _Ready:
    assert _library is not None
    return _Ready(_library, Convolution(*ast.literal_eval(text)))


def _described(library: _Library, c: Convolution, x: _Handle, y: _Handle) -> _Handle:
    """Returns oneDNN's primitive descriptor of it, the kernel's layout left free."""
    make, first = library.make, (library.engine, _DIRECT)
    shape, _ = _by_group(c)
    kernel = make("memory_desc_create_with_tag", len(shape), _ints(shape), DTYPES[c.dtype], _ANY)
    attributes = make("primitive_attr_create")
    library.call("primitive_attr_set_scratchpad_mode", attributes, _OURS)
    window = (*map(_ints, (c.stride, [d - 1 for d in c.dilation], c.before, c.after)),)
    create = "convolution_{}_primitive_desc_create"
    arrays = x, kernel, None, y  # None: no bias
    forward = make(
        create.format("forward"), library.engine, _TRAINING, _DIRECT, *arrays, *window, attributes
    )
    if c.what == FORWARD:
        return forward
    if c.what == INPUT:
        return make(
            create.format("backward_data"), *first, x, kernel, y, *window, forward, attributes
        )
    return make(create.format("backward_weights"), *first, *arrays, *window, forward, attributes)


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


_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
TRIES = 10


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))
def _handler(pointer: Any) -> int | None:
    """Runs one convolution for XLA; returns None, or the address of an XLA_FFI_Error."""
    frame = pointer.contents
    if frame.extension:  # asked which version of the interface this is
        extension = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension)).contents
        version = extension.metadata.contents.version
        version.major, version.minor = 0, 3
        return None
    for _ in range(TRIES):
        try:
            text = ctypes.cast(frame.attributes.values[0], ctypes.POINTER(_Text)).contents
            buffers = *frame.args.values[:2], frame.results.values[0]
            _ready(ctypes.string_at(text.start, text.length).decode())(
                *(ctypes.cast(b, ctypes.POINTER(_Buffer)).contents.data for b in buffers)
            )
            return None
        except BaseException as error:
            if isinstance(error, Failed) or not _in_main_thread():
                return _report(frame, str(error))
            # XLA calls from the main thread, too, where Python runs the handlers of signals. What
            # they raise cannot pass through XLA: so it comes again a little later, until that is
            # outside, and the work is done once more.
            threading.Timer(0.01, _raise_in_main_thread, [type(error)]).start()
    return _report(frame, f"interrupted {TRIES} times")


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise_in_main_thread(kind: type[BaseException]) -> None:
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(kind))


def _report(frame: Any, message: str) -> int | None:
    error = _Error(ctypes.sizeof(_Error), None, f"oneDNN: {message}".encode(), _INTERNAL)
    address: int | None = frame.api.contents.error(ctypes.byref(error))
    return address


def _finish() -> None:
    """Waits for what is being worked out: a thread of XLA cannot call into a Python that ends."""
    for array in jax.live_arrays("cpu"):
        if not array.is_deleted():
            array.block_until_ready()
