"""CNN architectures behind one small interface: `create(...)` gives a `Model`."""

from imgclass.models.count import multiply_adds
from imgclass.models.registry import (
    Model,
    count_parameters,
    create,
    input_size,
    names,
    sources,
    used_keys,
)

__all__ = [
    "Model",
    "count_parameters",
    "create",
    "input_size",
    "multiply_adds",
    "names",
    "sources",
    "used_keys",
]
