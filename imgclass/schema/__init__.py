"""Every config key: its default, what it means, and what it may be. The only list of keys there is.

`config.py` builds, checks and resolves configs from this table; it holds no key of its own. A
duration stands here once (`Duration`) and may be given in any of its units.
"""

from collections.abc import Iterator

from imgclass.schema.data import DATA
from imgclass.schema.methods import AUGMENT, LOSS, OPTIM
from imgclass.schema.model import MODEL
from imgclass.schema.rules import ANY, UNITS, Duration, Key, Rule, within
from imgclass.schema.running import CHECKPOINT, EVAL, LOG, TRAIN

__all__ = ["SCHEMA", "UNITS", "Duration", "Key", "Rule", "entries", "markdown", "paths"]

SCHEMA: dict[str, dict[str, Key | Duration] | Key] = {
    "seed": Key(
        0,
        "Seeds the initial weights, the order of the examples, augmentation and dropout.",
        within(0, 2**63 - 1),
    ),
    "data": DATA,
    "model": MODEL,
    "loss": LOSS,
    "augment": AUGMENT,
    "optim": OPTIM,
    "train": TRAIN,
    "eval": EVAL,
    "checkpoint": CHECKPOINT,
    "log": LOG,
}


def entries() -> Iterator[tuple[str, Key | Duration]]:
    """Yields every ('section.key', what it is); a duration once, without its unit."""
    for section, entry in SCHEMA.items():
        if isinstance(entry, Key):
            yield section, entry
        else:
            for name, key in entry.items():
                yield f"{section}.{name}", key


def paths() -> Iterator[str]:
    """Yields the path of every key of a config, such as 'optim.lr'; a duration's for each unit.

    >>> [path for path in paths() if path.startswith("train.total")][:2]
    ['train.total_steps', 'train.total_examples']
    """
    for path, key in entries():
        units = [f"_{unit}" for unit in UNITS] if isinstance(key, Duration) else [""]
        yield from (path + unit for unit in units)


def markdown() -> str:
    """Returns docs/config.md: a table of every key, a section each."""
    lines = [
        "# Config keys",
        "",
        "Written by `python -m imgclass.schema > docs/config.md`. On the command line every key is",
        "`--config.<key>=<value>`. A key that ends in `_*` is a duration and is given in exactly",
        f"one unit, one of `{'`, `'.join(f'_{unit}' for unit in UNITS)}`; giving another unit",
        "replaces the default one. Steps are updates, examples and epochs are of the training",
        "split, percent is of the whole run.",
    ]
    header = ["", "| key | default | may be | meaning |", "| --- | --- | --- | --- |"]
    for section, entry in SCHEMA.items():
        if isinstance(entry, Key):
            lines += [*header, _row(section, entry)]
            continue
        lines += ["", f"## {section}", *header]
        lines += [_row(f"{section}.{name}", key) for name, key in entry.items()]
    return "\n".join(lines) + "\n"


def _row(path: str, key: Key | Duration) -> str:
    if isinstance(key, Duration):
        path, default = f"{path}_*", f"{key.default:g} {key.unit}"
    else:
        default = repr(key.default)
    words = key.rule.words
    if words == ANY.words and isinstance(key.default, bool):
        words = "True or False"
    cells = [f"`{path}`", f"`{default}`", words, key.meaning.replace("*", r"\*")]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
