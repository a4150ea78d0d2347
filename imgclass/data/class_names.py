"""Class names for weights that come without any: ImageNet's thousand, or a text file's.

The names of a data set that is trained on are its own, and no business of this file.
"""

import pathlib
from importlib import resources

from imgclass.errors import UsageError


def read(source: str) -> tuple[str, ...]:
    """Returns class names by label.

    Args:
      source: 'imagenet', or a text file with a name a line.

    Raises:
      UsageError: there is no such file, or a name comes twice.
    """
    if source == "imagenet":
        return imagenet()
    try:
        lines = pathlib.Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(
            f"{source}: no class names ({reason}); give 'imagenet' or a text file, a name a line"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    twice = {name for name in names if names.count(name) > 1}
    if twice or len(names) < 2:
        what = f"{sorted(twice)[0]!r} comes twice" if twice else "fewer than two names"
        raise UsageError(f"{source}: {what}")
    return tuple(names)


def imagenet() -> tuple[str, ...]:
    """Returns the classes of ILSVRC 2012 by label, such as 'n01440764 tench'.

    Labels are in the order of the WordNet ids, as everywhere. The words are the first of each
    synset; they repeat ('maillot'), the ids do not. Both lists come with tensorflow_datasets.
    """
    from tensorflow_datasets.datasets.siscore import labels

    home = resources.files("tensorflow_datasets.datasets.imagenet2012")
    ids = home.joinpath("labels.txt").read_text().split()
    words = [names.split(",")[0] for names in labels.IMAGENET_LABELS_LIST]
    return tuple(f"{one} {word}" for one, word in zip(ids, words, strict=True))
