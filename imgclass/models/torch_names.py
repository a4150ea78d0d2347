"""Where each of our variables stands in a PyTorch `state_dict`, and in which layout.

Pure functions of names, shapes and NumPy arrays, exact in both directions. A family file says how
its modules are called in torchvision or timm (`TORCH`); this file turns that into a table and
changes layouts by it. It reads no file and never imports PyTorch.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

# (pattern, replacement): the first pattern that matches the whole path of one of our modules, such
# as 'stage1_block1/conv1', gives the name of theirs, 'layer1.0.conv1'. A replacement is a template
# for `re.Match.expand`, or a function of the match.
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

# Our leaf: theirs. Any other leaf, a class token say, has a rule for its own whole path.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# Convolution kernels: ours are HWIO, theirs OIHW.
_OIHW = (3, 2, 0, 1)
_HWIO = (2, 3, 1, 0)


@dataclasses.dataclass(frozen=True)
class Slot:
    """One of our variables.

    Attributes:
      path: from the root of the variables: ('params', 'stage1_block1', 'conv1', 'kernel').
      shape: ours.
      flattened: (height, width, channels) of the map that a dense kernel takes flattened. We
        flatten in this order, PyTorch channels first. None for anything else.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    flattened: tuple[int, int, int] | None = None


def slots(
    variables: Mapping[str, Any],
    rules: Rules,
    flattened: Mapping[str, tuple[int, int, int]] | None = None,
) -> dict[str, Slot]:
    """Returns where each tensor of a `state_dict` belongs, by its name there.

    A batch norm's `num_batches_tracked` has no counterpart, and is not in the result.

    Args:
      variables: {'params': ..., 'batch_stats': ...}, nested dicts of arrays or of shapes.
      rules: see `Rules`. A replacement that ends in '_' is joined to the leaf without a dot: the
        kernel of 'attention.in_proj_' is 'attention.in_proj_weight'.
      flattened: for the modules that take a flattened map, its shape; see `Slot`.

    Raises:
      ValueError: no rule for a path, or two paths of one name.
    """
    flattened = flattened or {}
    found: dict[str, Slot] = {}
    for path, leaf in _leaves(variables):
        name = _torch_name(path, rules)
        if name in found:
            raise ValueError(f"{'/'.join(path)} and {'/'.join(found[name].path)} are both {name!r}")
        is_kernel = path[-1] == "kernel"
        taken = flattened.get("/".join(path[1:-1])) if is_kernel else None
        found[name] = Slot(path, tuple(leaf.shape), taken)
    return found


def torch_shape(slot: Slot) -> tuple[int, ...]:
    """Returns the shape that a variable has in PyTorch, axes of length 1 aside.

    >>> torch_shape(Slot(("params", "conv1", "kernel"), (7, 7, 3, 64)))
    (64, 3, 7, 7)
    """
    if slot.path[-1] != "kernel":
        return slot.shape
    if len(slot.shape) == 4:
        return tuple(slot.shape[axis] for axis in _OIHW)
    return slot.shape[::-1]


def fits(slot: Slot, shape: tuple[int, ...]) -> bool:
    """Tells whether a tensor of that shape is this variable, up to axes of length 1.

    A squeeze-and-excitation's weights are (out, in, 1, 1) there, and (in, out) here.
    """
    return _long(shape) == _long(torch_shape(slot))


def to_ours(slot: Slot, array: np.ndarray) -> np.ndarray:
    """Returns PyTorch's tensor in our layout.

    Args:
      slot: what it becomes.
      array: their tensor, any dtype.

    Returns:
      slot.shape, of the same dtype; a view where that is enough.

    Raises:
      ValueError: the shape does not fit.
    """
    if not fits(slot, array.shape):
        raise ValueError(f"{'/'.join(slot.path)}: {_mismatch(slot, array.shape)}")
    array = array.reshape(torch_shape(slot))
    if slot.path[-1] != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose(_HWIO)
    if slot.flattened:
        height, width, channels = slot.flattened
        maps = array.reshape(-1, channels, height, width)
        return maps.transpose(2, 3, 1, 0).reshape(slot.shape)
    return array.T


def to_torch(slot: Slot, array: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns one of our variables in PyTorch's layout.

    Args:
      slot: what it is.
      array: slot.shape, any dtype.
      shape: theirs, where it has axes of length 1 more than `torch_shape` tells.

    Raises:
      ValueError: a shape does not fit.
    """
    if array.shape != slot.shape or not fits(slot, shape or torch_shape(slot)):
        raise ValueError(f"{'/'.join(slot.path)}: {_mismatch(slot, shape or array.shape)}")
    if slot.path[-1] == "kernel":
        if array.ndim == 4:
            array = array.transpose(_OIHW)
        elif slot.flattened:
            array = array.reshape(*slot.flattened, -1).transpose(3, 2, 0, 1)
            array = array.reshape(torch_shape(slot))
        else:
            array = array.T
    return array.reshape(shape or torch_shape(slot))


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _torch_name(path: tuple[str, ...], rules: Rules) -> str:
    leaf = _LEAVES.get(path[-1])
    ours = "/".join(path[1:-1] if leaf else path[1:])
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, ours)
        if match:
            theirs = replacement(match) if callable(replacement) else match.expand(replacement)
            if leaf is None:
                return theirs
            return theirs + leaf if theirs.endswith("_") else f"{theirs}.{leaf}"
    raise ValueError(f"no rule names {ours!r}, of {'/'.join(path)}")


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _mismatch(slot: Slot, shape: tuple[int, ...]) -> str:
    return f"{tuple(shape)} there does not fit {slot.shape} here"
