"""CNN architectures behind one small interface: `create(...)` gives a `Model`."""

from imgclass.models.registry import Model, count_parameters, create, names

__all__ = ["Model", "count_parameters", "create", "names"]
