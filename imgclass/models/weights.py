"""Weights of other libraries as variables of our models, and ours under their names.

A library is recognised by what it calls its tensors: 'torchvision', 'timm' and the like by the
rules in the family files, 'keras' by the order of the cnn's layers, 'imgclass' by our own names.
Pure functions of names and NumPy arrays; files are `weight_files.py`'s.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imgclass.errors import UsageError
from imgclass.models import registry, torch_names
from imgclass.models.torch_names import Slot

# Names that torchvision's files of DenseNet and ViT still have, and its models no longer.
_RENAMED = (
    (r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"\1\2"),
    (r"(.*\.mlp)\.linear_1\.(.*)", r"\1.0.\2"),
    (r"(.*\.mlp)\.linear_2\.(.*)", r"\1.3.\2"),
)
# (library, models, tensors) that are 1x1 convolutions or per-channel factors there, with two axes
# of length 1 at the end that ours do not have.
_LONGER = (
    ("torchvision", ".*", r".*\.fc[12]\.weight|.*\.layer_scale"),
    ("timm", ".*", r".*\.se\.(fc1|fc2|conv_reduce|conv_expand)\.weight"),
    ("timm", "mobilenet_v3_.*", r"conv_head\.weight"),
    ("timm", "resnetv2_.*", r"head\.fc\.weight"),
    ("timm", "convnext_(atto|femto|pico|nano)", r".*\.mlp\.fc[12]\.weight"),
)
# What a Keras layer's arrays are, by the layer's class. A normalisation may lack its scale.
_KERAS = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("scale", "bias", "mean", "var"),
}
_SHOWN = 10  # names in a list of what does not fit


@dataclasses.dataclass(frozen=True)
class Matched:
    """Weights that fit a model.

    Attributes:
      library: whose names the tensors had.
      arrays: f32 by our names, 'params.conv1.kernel'; the head's are left out where it is new.
      new_head: why the head's weights are not there, '' where they are.
      resampled: names, there, of those made to fit another size of picture.
    """

    library: str
    arrays: dict[str, np.ndarray]
    new_head: str
    resampled: tuple[str, ...] = ()


def libraries(name: str) -> tuple[str, ...]:
    """Returns whose names the weights of a model may have, the first being the first choice."""
    return (*registry.sources(name), *(["keras"] if name == "cnn" else []), "imgclass")


def export_libraries(name: str) -> tuple[str, ...]:
    """Returns whose names the weights of a model can be given, the first being the first choice."""
    return tuple(library for library in libraries(name) if library != "keras")


def library_of(name: str, shapes: registry.Variables, tensors: Iterable[str]) -> str:
    """Returns the library that most of the names are of; the first of them, if there are more."""
    given = {_renamed(key) for key in tensors}
    counts = {
        library: len(_slots(name, library, shapes, given).keys() & given)
        for library in libraries(name)
    }
    return max(counts, key=lambda library: counts[library])


def match(
    name: str,
    shapes: registry.Variables,
    tensors: Mapping[str, np.ndarray],
    source: str,
    *,
    square: bool = False,
) -> Matched:
    """Finds out whose weights these are, and returns them as ours.

    A head for another number of classes is left out, and one that is missing too. What depends on
    the size of the picture is resampled, where the family can and `square` is true.

    Args:
      name: the model's.
      shapes: its variables, or their shapes.
      tensors: arrays by the names they have there.
      source: where they are from, for the error.
      square: whether the model's pictures are.

    Raises:
      UsageError: listing the tensors that are missing, left over or of another shape.
    """
    library = library_of(name, shapes, tensors)
    given = {_renamed(key): array for key, array in tensors.items()}
    given = {key: array for key, array in given.items() if not key.endswith("num_batches_tracked")}
    slots = _slots(name, library, shapes, given)
    if not slots.keys() & given.keys():
        some = ", ".join(list(given)[:3])
        raise UsageError(
            f"{source} has no weights of model.name={name!r}: its {len(given)} tensors are called "
            f"{some}, ...; known are the names of {', '.join(libraries(name))}"
        )
    head = {key: slot for key, slot in slots.items() if slot.path[1] == "head"}
    new_head = _new_head(library, head, given)
    if new_head:
        slots = {key: slot for key, slot in slots.items() if key not in head}
        given = {key: array for key, array in given.items() if key not in head}
    resampled = _resampled(name, slots, given) if square else {}
    given |= resampled
    problems = _problems(library, slots, given)
    if problems:
        lines = [f"{source} does not fit model.name={name!r}, by the names of {library}:"]
        raise UsageError("\n".join([*lines, *problems]))
    arrays = {}
    for key, slot in slots.items():
        ours = torch_names.to_ours(slot, given[key]) if _is_torch(library) else given[key]
        arrays[".".join(slot.path)] = np.ascontiguousarray(ours, np.float32)
    return Matched(library, arrays, new_head, tuple(resampled))


def to_library(name: str, library: str, variables: registry.Variables) -> dict[str, np.ndarray]:
    """Returns a model's variables by a library's names, in its layouts; exact.

    `num_batches_tracked` is left out: PyTorch does without it, also when it loads strictly.

    Args:
      name: the model's.
      library: one of `export_libraries(name)`.
      variables: {'params', 'batch_stats'} of NumPy arrays.

    Raises:
      UsageError: the library has no such model.
    """
    known = export_libraries(name)
    if library not in known:
        raise UsageError(f"{name} has no names in {library}; there are {', '.join(known)}")
    found = {}
    for key, slot in _slots(name, library, variables, {}).items():
        array: Any = variables
        for part in slot.path:
            array = array[part]
        array = np.asarray(array)
        if _is_torch(library):
            array = torch_names.to_torch(slot, array, _torch_shape(name, library, key, slot))
        found[key] = array
    return found


def _is_torch(library: str) -> bool:
    return library not in ("keras", "imgclass")


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMED:
        found = re.fullmatch(pattern, key)
        if found:
            return found.expand(replacement)
    return key


def _torch_shape(name: str, library: str, key: str, slot: Slot) -> tuple[int, ...]:
    shape = torch_names.torch_shape(slot)
    longer = len(slot.shape) < 3 and any(
        library == of and re.fullmatch(models, name) and re.fullmatch(tensors, key)
        for of, models, tensors in _LONGER
    )
    return (*shape, 1, 1) if longer else shape


def _slots(
    name: str, library: str, shapes: registry.Variables, given: Iterable[str]
) -> dict[str, Slot]:
    if _is_torch(library):
        return registry.torch_slots(name, library, shapes)
    ours = {".".join(path): Slot(path, shape) for path, shape in _leaves(shapes)}
    return ours if library == "imgclass" else _keras(ours, given)


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[Any, Any]]:
    if hasattr(tree, "shape"):
        return [(path, tuple(tree.shape))]
    return [found for key, value in tree.items() for found in _leaves(value, (*path, key))]


def _keras(ours: dict[str, Slot], given: Iterable[str]) -> dict[str, Slot]:
    """Pairs the cnn's layers with a Keras file's: each kind in order, whatever they are called."""
    kinds: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("conv2d", lambda module: "_conv" in module),
        ("batch_normalization", lambda module: "_bn" in module),
        ("dense", lambda module: module == "head" or module.startswith("hidden")),
    )
    modules = sorted({slot.path[1] for slot in ours.values()}, key=_in_order)
    given = list(given)
    found: dict[str, Slot] = {}
    for kind, belongs in kinds:
        layers = {re.fullmatch(rf"((?:.*/)?{kind}(?:_\d+)?)/\d+", key) for key in given}
        theirs = sorted({layer[1] for layer in layers if layer}, key=_in_order)
        chosen = [module for module in modules if belongs(module)]
        # A layer that the file does not have gets the name it would have there.
        names = theirs + [f"{kind}_{n}" for n in range(len(theirs), len(chosen))]
        for module, layer in zip(chosen, names, strict=False):
            leaves = {slot.path[-1]: slot for slot in ours.values() if slot.path[1] == module}
            present = [leaf for leaf in _KERAS[kind] if leaf in leaves]
            found |= {f"{layer}/{n}": leaves[leaf] for n, leaf in enumerate(present)}
    return found


def _in_order(name: str) -> tuple[bool, list[int]]:
    """Sorts 'conv2d', 'conv2d_1', ..., and of ours the head last."""
    return name == "head", [int(n) for n in re.findall(r"\d+", name)]


def _new_head(library: str, head: dict[str, Slot], given: Mapping[str, np.ndarray]) -> str:
    """Returns why a model needs a head of its own, '' where it takes the file's."""
    if not head.keys() & given.keys():
        return "there is none in the file"
    key, slot = next((key, slot) for key, slot in head.items() if slot.path[-1] == "kernel")
    if key not in given or not given[key].ndim:
        return ""
    here, there = slot.shape[-1], given[key].shape[0 if _is_torch(library) else -1]
    inputs_differ = given[key].size * here != math.prod(slot.shape) * there
    if here == there or inputs_differ:
        return ""
    return f"the file's is for {there} classes, and here are {here}"


def _resampled(
    name: str, slots: dict[str, Slot], given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns those tensors that fit another size of picture, made to fit this one."""
    found = {}
    for key, slot in slots.items():
        if key in given and given[key].shape != slot.shape:
            made = registry.resample(name, slot, given[key])
            if made is not None:
                found[key] = made
    return found


def _problems(library: str, slots: dict[str, Slot], given: Mapping[str, np.ndarray]) -> list[str]:
    """Returns a line for each way in which tensors do not fit."""
    missing = [key for key in slots if key not in given]
    extra = [key for key in given if key not in slots]
    wrong = []
    for key, slot in slots.items():
        if key not in given:
            continue
        shape = given[key].shape
        fits = torch_names.fits(slot, shape) if _is_torch(library) else shape == slot.shape
        if not fits:
            here = torch_names.torch_shape(slot) if _is_torch(library) else slot.shape
            wrong.append(f"{key} {shape} there, {here} here")
    lists = (("missing", missing), ("left over", extra), ("of another shape", wrong))
    return [f"  {len(found)} {what}: {_some(found)}" for what, found in lists if found]


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
