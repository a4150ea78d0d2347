"""Histograms of a tree: counts, edges and sums worked out by hand."""

import numpy as np

from imgclass import histograms


def test_a_tree_by_hand():
    """0 to 63 in 64 bins of 63/64 are one a bin; their sum is 2016, of the squares 85344."""
    tree = {
        "head": {"kernel": np.arange(64, dtype=np.float32).reshape(8, 8)},
        "bias": np.array([np.nan, 1.0, np.inf, 1.0], np.float32),
        "empty": np.array([np.nan], np.float32),
    }
    found = histograms.of_tree(tree)
    assert set(found) == {"head/kernel", "bias"}
    kernel = found["head/kernel"]
    assert kernel.counts.tolist() == [1] * 64
    np.testing.assert_allclose(kernel.edges, np.arange(65) * 63 / 64, rtol=1e-12)
    assert (kernel.sum, kernel.sum_squares) == (2016.0, 85344.0)
    assert found["bias"].counts.sum() == 2
    assert (found["bias"].sum, found["bias"].sum_squares) == (2.0, 2.0)
