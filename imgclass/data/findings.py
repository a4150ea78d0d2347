"""What a user should know about a data set before training on it, judged from its survey.

Pure: no picture is read here, and nothing shown.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import ml_collections

from imgclass.data.inspect import Example, SplitSurvey, Survey

# Past these a finding is made; all but the first two are rules of thumb.
MOST_IMBALANCE = 10
SMALL_SIDE = 64  # the ImageNet stem leaves a 32nd of each side: under 64 pixels, one position
MOST_SHRINK, MOST_STRETCH = 8, 4


@dataclasses.dataclass(frozen=True)
class Finding:
    """A remark. `code` is for machines; `level` is 'warning' or 'note'."""

    level: str
    code: str
    text: str


def judge(found: Survey, config: ml_collections.ConfigDict) -> tuple[Finding, ...]:
    """Returns what a user should know before training with `config`, warnings first."""
    warnings = [*_class_warnings(found), *_duplicate_warnings(found)]
    bad = sum(len(split.bad_files) for split in found.splits.values())
    if bad:
        fate = (
            "training leaves them out (data.bad_files='skip')"
            if config.data.bad_files == "skip"
            else "training stops at the first; mend them, or set data.bad_files='skip'"
        )
        warnings.append(("bad_files", f"{_count(bad, 'picture')} cannot be read: {fate}"))
    model, size = config.model, tuple(config.data.image_size)
    if model.name.startswith("resnet") and model.stem == "imagenet" and min(size) < SMALL_SIDE:
        warnings.append(
            (
                "imagenet_stem",
                f"model.stem='imagenet' shrinks pictures of data.image_size={size} to almost "
                "nothing before the first block: use model.stem='cifar'",
            )
        )
    if "validation" not in found.splits:
        warnings.append(
            ("no_validation", "no validation split: nothing to choose settings or a checkpoint by")
        )
    if "test" not in found.splits:
        warnings.append(
            ("no_test", "no test split: a score on validation, which chose the best, flatters")
        )
    notes = [*_size_notes(found.splits["train"], size)]
    for role in found.carved:
        fraction = config.data[f"{role}_fraction"]
        apart = "" if config.data.group_by else "; data.group_by keeps a patient or video together"
        notes.append(
            ("carved", f"{role} is carved out of train (data.{role}_fraction={fraction}){apart}")
        )
    # The source's notes on classes say what the warnings above say.
    own = [note for note in found.notes if not note.startswith(("no train ", "no val", "no test "))]
    notes += [("source", note) for note in own]
    return tuple(
        Finding(level, code, text)
        for level, remarks in (("warning", warnings), ("note", notes))
        for code, text in remarks
    )


def _class_warnings(found: Survey) -> Iterator[tuple[str, str]]:
    counts = found.splits["train"].class_counts
    if sum(count > 0 for count in counts) < 2:
        yield "one_class", "fewer than 2 classes have training examples: nothing to tell apart"
    for role, split in found.splits.items():
        zipped = zip(found.class_names, split.class_counts, strict=True)
        missing = [repr(name) for name, count in zipped if not count]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            yield "missing_class", f"no {role} example of {', '.join(missing[:5])}{more}"
    if found.imbalance > MOST_IMBALANCE:
        largest = counts.index(max(counts))
        smallest = counts.index(min(count for count in counts if count))
        yield (
            "imbalance",
            f"train has {found.imbalance:.1f} times as many of {found.class_names[largest]!r} "
            f"({counts[largest]:,}) as of {found.class_names[smallest]!r} ({counts[smallest]:,}): "
            "accuracy alone hides the rare classes",
        )


def _duplicate_warnings(found: Survey) -> Iterator[tuple[str, str]]:
    for shared in found.duplicates:
        if len(shared.splits) == 2:
            first, second = shared.splits
            differ = f", {shared.labels_differ} with differing labels" * bool(shared.labels_differ)
            yield (
                "shared_pictures",
                f"{_count(shared.pictures, 'picture')} both in {first} and in {second}{differ}: "
                f"the score on {second} flatters",
            )
    if found.conflicts.pictures:
        one, other = _two_labels(found.conflicts.shown[0])
        yield (
            "label_conflict",
            f"{_count(found.conflicts.pictures, 'picture')} with more than one label, such as "
            f"{one.name} ({one.label}) and {other.name} ({other.label})",
        )


def _size_notes(train: SplitSurvey, size: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    if not train.heights:
        return
    height, width = train.heights[1], train.widths[1]
    words = f"train's median picture is {height}x{width} and data.image_size is {size[0]}x{size[1]}"
    if height > MOST_SHRINK * size[0] or width > MOST_SHRINK * size[1]:
        yield "large_pictures", f"{words}: detail is lost, and most of the decoding is for nothing"
    if size[0] > MOST_STRETCH * height or size[1] > MOST_STRETCH * width:
        yield "upscaled", f"{words}: enlarging adds computation and no detail"


def _two_labels(examples: Sequence[Example]) -> tuple[Example, Example]:
    return examples[0], next(e for e in examples if e.label != examples[0].label)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
