"""Histograms of a tree of arrays, for those who draw them. NumPy only; nothing is written here."""

import dataclasses
from typing import Any

import jax
import numpy as np

BINS = 64


@dataclasses.dataclass(frozen=True)
class Histogram:
    """The values of one array that are finite.

    Attributes:
      counts: int64[bins].
      edges: f64[bins + 1], from the least value to the greatest.
      sum: of the values.
      sum_squares: of their squares.
    """

    counts: np.ndarray
    edges: np.ndarray
    sum: float
    sum_squares: float


def of_tree(tree: Any) -> dict[str, Histogram]:
    """Returns a histogram for each array of a tree on the host, named 'head/kernel'.

    An array without a finite value has none.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.asarray(leaf).astype(np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size:
            counts, edges = np.histogram(values, BINS)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[name] = Histogram(
                counts, edges, float(values.sum()), float(np.square(values).sum())
            )
    return found
