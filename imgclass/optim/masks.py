"""Which parameters a pattern of the config means, and what follows for them.

A parameter's name is its keys joined by '/', as 'stage1_block1/conv1/kernel'; every pattern is a
regular expression that is searched for in it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from imgclass.errors import UsageError
from imgclass.schema.rules import factor_of


def map_named(function: Callable[[str, Any], Any], params: Any) -> Any:
    """Returns `params` with each leaf replaced by function(name, leaf)."""

    def named(path: tuple[Any, ...], leaf: Any) -> Any:
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(named, params)


def matching(params: Any, pattern: str, key: str) -> Any:
    """Says which parameters a pattern is found in.

    Args:
      params: tree of arrays.
      pattern: regular expression; '' is found in none.
      key: the config key it comes from, for the error.

    Returns:
      A tree like `params` of bool.

    Raises:
      UsageError: `pattern` is no regular expression.

    >>> matching({'stem': {'kernel': 0.0}, 'head': {'kernel': 0.0}}, '^stem/', 'optim.freeze')
    {'head': {'kernel': False}, 'stem': {'kernel': True}}
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{key}={pattern!r} is not a regular expression: {error}.") from None
    # An empty pattern would be found in every name.
    return map_named(lambda name, _: bool(pattern and compiled.search(name)), params)


def decay_mask(params: Any, no_decay: str) -> Any:
    """Says which parameters weight decay applies to.

    Args:
      params: tree of arrays.
      no_decay: regular expression; '' excludes nothing.

    Returns:
      A tree like `params` of bool, true where the parameter decays.

    Raises:
      UsageError: `no_decay` is no regular expression.

    >>> decay_mask({'dense': {'kernel': 0.0, 'bias': 0.0}}, r'(^|/)(bias|scale)$')
    {'dense': {'bias': False, 'kernel': True}}
    """
    return jax.tree.map(lambda found: not found, matching(params, no_decay, "optim.no_decay"))


def lr_factors(params: Any, factors: Sequence[str]) -> Any:
    """Returns the factor on each parameter's learning rate.

    Args:
      params: tree of arrays.
      factors: 'REGEX=FACTOR' each; the first whose expression is found in a name counts, and a
        parameter none is found in has factor 1.

    Returns:
      A tree like `params` of float.

    Raises:
      UsageError: one of them cannot be read.

    >>> lr_factors({'dense': {'kernel': 0.0, 'bias': 0.0}}, ('bias$=64', 'dense=0.5'))
    {'dense': {'bias': 64.0, 'kernel': 0.5}}
    """
    try:
        pairs = [factor_of(text) for text in factors]
    except ValueError as error:
        raise UsageError(f"optim.lr_factors: {error}.") from None

    def factor(name: str, _: Any) -> float:
        return next((number for pattern, number in pairs if pattern.search(name)), 1.0)

    return map_named(factor, params)


def scale_by_lr_factors(factors: Sequence[str]) -> optax.GradientTransformation:
    """Multiplies each parameter's update by its factor; see `lr_factors`."""

    def scaled(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda u, f: u * f, updates, lr_factors(updates, factors))

    return optax.stateless(scaled) if factors else optax.identity()


def stop_frozen(cfg: Any, params: Any) -> Any:
    """Returns `params`, those that optim.freeze matches as constants of a differentiation.

    Their gradients are then zeros that cost nothing and add nothing to the gradient's norm.

    Args:
      cfg: the config's `optim` section.
      params: tree of arrays.
    """
    frozen = matching(params, cfg.freeze, "optim.freeze")
    return jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen)


def frozen_modules(params: Any, freeze: str) -> frozenset[str]:
    """Returns the modules none of whose own parameters is trained, as 'stage1_block1/bn1'.

    Args:
      params: tree of arrays or of their shapes.
      freeze: optim.freeze.

    >>> params = {'bn': {'scale': 0.0, 'bias': 0.0}, 'head': {'kernel': 0.0, 'bias': 0.0}}
    >>> sorted(frozen_modules(params, '^bn/|kernel'))
    ['bn']
    """
    found: dict[str, list[bool]] = {}
    frozen = matching(params, freeze, "optim.freeze")
    map_named(lambda name, f: found.setdefault(name.rpartition("/")[0], []).append(f), frozen)
    return frozenset(module for module, leaves in found.items() if all(leaves))


def check_patterns(cfg: Any, params: Any) -> None:
    """Raises UsageError where a pattern that should choose parameters chooses none.

    Args:
      cfg: the config's `optim` section.
      params: tree of arrays or of their shapes.
    """
    names: list[str] = []
    map_named(lambda name, _: names.append(name), params)
    patterns = {f"optim.lr_factors={text!r}": factor_of(text)[0] for text in cfg.lr_factors}
    if cfg.freeze:
        patterns[f"optim.freeze={cfg.freeze!r}"] = re.compile(cfg.freeze)
    if cfg.name == "muon":
        patterns[f"optim.muon_params={cfg.muon_params!r}"] = re.compile(cfg.muon_params)
    unused = [words for words, p in patterns.items() if not any(p.search(n) for n in names)]
    if unused:
        raise UsageError(
            f"{', '.join(unused)}: found in no parameter's name; names are such as "
            f"{names[0]!r} and {names[-1]!r}"
        )
