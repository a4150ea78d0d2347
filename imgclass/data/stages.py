"""Progressive resizing: the size of training pictures as a step function of the run.

Each size is a program of its own, so there are as many compilations as stages. Sizes alone; the
resizing is `augment.augment`'s.
"""

import bisect
import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of the run with pictures of one size.

    Attributes:
      first: updates done before it.
      size: (height, width) of its training pictures.
    """

    first: int
    size: tuple[int, int]


def stages(
    heights: Sequence[int], starts: Sequence[float], image_size: tuple[int, int], total: int
) -> tuple[Stage, ...]:
    """Returns the stages of a run, the first of which begins at step 0.

    Args:
      heights: of the pictures of each stage; empty: `image_size` throughout.
      starts: where each stage after the first begins, as parts of the run, rising.
      image_size: (height, width), whose shape the widths follow, rounded.
      total: steps of the run.

    >>> stages((160, 224), (0.5,), (224, 224), 99)
    (Stage(first=0, size=(160, 160)), Stage(first=50, size=(224, 224)))
    """
    height, width = image_size
    firsts = [0, *(round(start * total) for start in starts)]
    return tuple(
        Stage(first, (h, max(1, round(h * width / height))))
        for first, h in zip(firsts, heights or (height,), strict=True)
    )


def place(all_stages: Sequence[Stage], step: int) -> int:
    """Returns which stage a step belongs to; of stages that begin at one step, the last.

    >>> both = stages((160, 224), (0.5,), (224, 224), 99)
    >>> [place(both, step) for step in (0, 49, 50, 98)]
    [0, 0, 1, 1]
    """
    return bisect.bisect_right([stage.first for stage in all_stages], step) - 1
