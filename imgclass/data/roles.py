"""Which examples train, which validate and which test.

No example ever has two roles, and nothing is substituted for a split that is not there: it is
carved out of the training examples, or absent, or an error.
"""

import re
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from imgclass.data.carve import TEST_TAG, VALIDATION_TAG, carve
from imgclass.data.imbalance import long_tail
from imgclass.data.source import ROLES, Native, Split
from imgclass.data.splits import VALIDATION_NAMES, Subset, by_parent, select
from imgclass.errors import UsageError


def assign_roles(
    native: Native, data: ml_collections.ConfigDict
) -> tuple[dict[str, Subset], tuple[str, ...]]:
    """Gives a data set's splits the roles 'train', 'validation' and 'test'.

    'auto' stands for the data set's own split of that role if it has one. If it has none,
    validation is carved from the training examples; so is test, but only for a data set that comes
    without any split. `validation_fraction` and `test_fraction` are fractions of the training
    examples before anything is carved from them. An empty string means no such split.

    Args:
      native: the data set.
      data: the config; reads `*_split`, `*_fraction`, `split_seed`, `group_by` and `long_tail`.

    Returns:
      roles: the splits by role.
      notes: remarks for the user.

    Raises:
      UsageError: a split is missing or unlabelled, roles overlap, or a class has no training
        example.
    """
    if data.train_split in ("", "auto"):
        raise UsageError(f"data.train_split={data.train_split!r}: name a split, such as 'train'")
    roles = {"train": select(data.train_split, native.splits, "data.train_split", "train")}
    notes: list[str] = []
    to_carve = []
    for role, own_names in (("test", ("test",)), ("validation", VALIDATION_NAMES)):
        spec = data[f"{role}_split"]
        if spec == "auto":
            own = next((name for name in own_names if name in native.splits), None)
            if own is None:
                if role == "validation" or native.flat:
                    to_carve.append(role)
            elif _unlabelled(native.splits[own], len(native.class_names)):
                notes.append(f"split '{own}' has no labels and is not used")
            else:
                roles[role] = Subset(
                    role, [(native.splits[own], np.arange(len(native.splits[own])))]
                )
        elif spec:
            roles[role] = select(spec, native.splits, f"data.{role}_split", role)
    for role, subset in roles.items():
        unlabelled = _unlabelled(subset, len(native.class_names))
        if unlabelled:
            spec = data[f"{role}_split"]
            raise UsageError(
                f"data.{role}_split={spec!r}: {unlabelled} of {len(subset)} examples have no label"
            )
    _check_disjoint(roles, data)
    _carve_roles(roles, to_carve, data)
    if data.long_tail > 1:  # what is held out stays as it is
        kept = long_tail(roles["train"].labels, data.long_tail, data.split_seed)
        roles["train"] = roles["train"].take(kept, "train")
    notes += _check_classes(native, roles)
    return {role: roles[role] for role in ROLES if role in roles}, tuple(notes)


def _unlabelled(split: Split, num_classes: int) -> int:
    return int(((split.labels < 0) | (split.labels >= num_classes)).sum())


def _check_disjoint(roles: Mapping[str, Subset], data: ml_collections.ConfigDict) -> None:
    names = list(roles)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            mine, theirs = by_parent(roles[first]), by_parent(roles[second])
            shared = sum(
                len(np.intersect1d(mine[parent], theirs[parent]))
                for parent in mine.keys() & theirs.keys()
            )
            if shared:
                raise UsageError(
                    f"data.{first}_split={data[f'{first}_split']!r} and "
                    f"data.{second}_split={data[f'{second}_split']!r} share {shared} examples: "
                    "choose slices that do not overlap, such as 'train[:90%]' and 'train[90%:]', "
                    "or '' for no such split"
                )


def _carve_roles(
    roles: dict[str, Subset], to_carve: Sequence[str], data: ml_collections.ConfigDict
) -> None:
    """Moves the roles in `to_carve` out of `roles['train']`."""
    tags = {"test": TEST_TAG, "validation": VALIDATION_TAG}
    remaining = 1.0  # share of the training examples that is still there
    for role in to_carve:
        fraction = data[f"{role}_fraction"]
        if fraction == 0:
            continue
        if fraction >= remaining:
            raise UsageError(
                "data.validation_fraction and data.test_fraction leave nothing to train on: "
                f"{data.validation_fraction} + {data.test_fraction}"
            )
        train = roles["train"]
        groups = _groups(train, data.group_by) if data.group_by else None
        held = carve(train.labels, fraction / remaining, data.split_seed, tags[role], groups)
        if not len(held):
            raise UsageError(
                f"data.{role}_fraction={fraction} of {len(train)} training examples is none: "
                f"raise it, or set data.{role}_split='' to do without"
            )
        rest = np.setdiff1d(np.arange(len(train)), held)
        roles[role], roles["train"] = train.take(held, role), train.take(rest, "train")
        remaining -= fraction


def _groups(subset: Subset, pattern: str) -> np.ndarray:
    """Returns each example's group number, int64[n]."""
    regex = re.compile(pattern)
    names = subset.example_names(range(len(subset)))
    matches = [regex.search(name) for name in names]
    missed = [name for name, match in zip(names, matches, strict=True) if match is None]
    if missed:
        raise UsageError(
            f"data.group_by={pattern!r} matches nothing in {len(missed)} of {len(names)} example "
            f"names, such as {missed[0]!r}"
        )
    keys = [match.group(1 if regex.groups else 0) or "" for match in matches if match]
    return np.unique(np.array(keys), return_inverse=True)[1]


def _check_classes(native: Native, roles: Mapping[str, Subset]) -> list[str]:
    """Checks that every class can be learnt, and returns notes on those that cannot be scored."""
    notes = []
    for role, subset in roles.items():
        counts = np.bincount(subset.labels, minlength=len(native.class_names))
        missing = [native.class_names[label] for label in np.flatnonzero(counts == 0)]
        if not missing:
            continue
        shown = ", ".join(repr(name) for name in missing[:5])
        shown += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        # A tfds set is stored shuffled and declares its classes; small slices are a common trial.
        if role == "train" and native.kind not in ("tfds", "digits"):
            raise UsageError(
                f"no training example of {shown}: it could never be learnt. Add some, or remove "
                "the class; a slice such as 'train[:50%]' takes examples in order of their names"
            )
        notes.append(f"no {role} example of {shown}")
    return notes
