"""Several trained models as one: the mean of their probabilities, or the mean of their weights.

A model is one more `Restored`, or its outcomes, so that it is measured as a run is. Nothing is
trained here, batch statistics are not estimated anew, and no member is chosen or weighed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from imgclass import config as config_lib
from imgclass import parallel
from imgclass.errors import UsageError
from imgclass.evaluate.outcomes import Outcomes
from imgclass.evaluate.restore import Restored

# Keys of `model` that change training and not what trained weights compute.
_TRAINING = {
    "pretrained",
    "batch_norm_momentum",
    "batch_norm_group",
    "dropout",
    "drop_path",
    "zero_init_residual",
}


def check_same_data(members: Sequence[Restored]) -> None:
    """Raises UsageError, naming the first run whose data or classes are not those of the first."""
    first = members[0]
    for other in members[1:]:
        if other.data["class_names"] != first.data["class_names"]:
            raise UsageError(
                f"{other.folder}: its classes are not those of {first.folder}, so their "
                "probabilities cannot be averaged; take runs of one data set"
            )
        then, now = _splits(first), _splits(other)
        changed = sorted(role for role in then | now if then.get(role) != now.get(role))
        if changed:
            raise UsageError(
                f"{other.folder}: its data is not that of {first.folder} ({', '.join(changed)} "
                "differ); take runs whose data.json has the same fingerprints"
            )


def _splits(member: Restored) -> dict[str, Any]:
    return {
        role: (about["fingerprint"], [bad["index"] for bad in about["bad_files"]])
        for role, about in member.data["splits"].items()
    }


def average(parts: Sequence[Outcomes]) -> Outcomes:
    """Returns the outcomes of the ensemble: the mean of the members' probabilities.

    Args:
      parts: of the same examples in the same order.
    """
    first = parts[0]
    if not all(np.array_equal(part.index, first.index) for part in parts):
        raise ValueError("these are not outcomes of the same examples")
    said = np.stack([part.probabilities for part in parts]).mean(axis=0, dtype=np.float64)
    return Outcomes(said.astype(np.float32), first.labels, first.index)


def soup(members: Sequence[Restored]) -> Restored:
    """Returns the uniform soup (Wortsman et al. 2022, arXiv:2203.05482): the mean of the weights.

    Batch statistics are averaged like the weights. The rest is the first member's.

    Raises:
      UsageError: naming a member whose architecture or preprocessing is not that of the first.
    """
    first = members[0]
    for other in members[1:]:
        where = f"{other.folder}: cannot be in a soup with {first.folder}, for"
        differs = config_lib.difference(first.task.config, other.task.config)
        keys = [
            key
            for key in differs
            if key.startswith("model.") and key.removeprefix("model.") not in _TRAINING
        ]
        if keys:
            raise UsageError(f"{where} {', '.join(keys)} differ; leave out --soup")
        if other.task.prepare != first.task.prepare:
            raise UsageError(f"{where} their pictures are prepared differently; leave out --soup")
    trees = [parallel.fetch(member.variables) for member in members]

    def mean(*leaves: Any) -> np.ndarray:
        return np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype)

    return dataclasses.replace(first, variables=jax.tree.map(mean, *trees))
