"""What a config key is: its default, its meaning, and what it may be."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

UNITS = ("steps", "examples", "epochs", "percent")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value may be: a test and the words for it."""

    words: str
    test: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key. The default's type is the key's type; an int may stand for a float."""

    default: Any
    meaning: str
    rule: Rule


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training, given in exactly one unit as `<name>_<unit>`.

    Steps are optimizer updates, examples and epochs are of the training split, percent is of the
    whole run. Giving another unit replaces the default one.
    """

    unit: str
    default: float
    meaning: str
    rule: Rule


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def at_least(low: float) -> Rule:
    return Rule(f"a finite number, {low} or more", lambda v: _finite(v) and v >= low)


def above(low: float) -> Rule:
    return Rule(f"a finite number above {low}", lambda v: _finite(v) and v > low)


def within(low: float, high: float, below: bool = False) -> Rule:
    if below:
        return Rule(f"from {low} to below {high}", lambda v: low <= v < high)
    return Rule(f"from {low} to {high}", lambda v: low <= v <= high)


def one_of(*names: str) -> Rule:
    return Rule("one of " + ", ".join(names), lambda v: v in names)


def each(rule: Rule, sizes: tuple[int, ...] = (), shortest: int = 0) -> Rule:
    """A tuple whose members all follow `rule`, of one of `sizes`, or any size from `shortest`."""
    count = " or ".join(map(str, sizes)) or (f"{shortest} or more" if shortest else "any number of")

    def test(value: Any) -> bool:
        fits = len(value) in sizes if sizes else len(value) >= shortest
        return fits and all(_is_number(v) and rule.test(v) for v in value)

    return Rule(f"{count} values, each {rule.words}", test)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


ANY = Rule("anything", lambda v: True)
NOT_EMPTY = Rule("not empty", bool)
COUNT = Rule("a whole number, 1 or more", lambda v: isinstance(v, int) and v >= 1)
PIXELS = each(COUNT, sizes=(2,))
TEXTS = Rule("any number of texts", lambda v: all(isinstance(text, str) for text in v))


def factor_of(text: str) -> tuple[re.Pattern[str], float]:
    """Returns the expression and the number of 'REGEX=FACTOR'. Raises ValueError if it is not."""
    pattern, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not pattern or not 0.0 <= factor < math.inf:
        raise ValueError(f"{text!r} is not 'REGEX=FACTOR', FACTOR a finite number, 0 or more")
    try:
        return re.compile(pattern), factor
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
