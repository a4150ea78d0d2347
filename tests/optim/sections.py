"""The `optim` section of the default config, changed. Not a test."""

from typing import Any

import ml_collections

from imgclass import config


def section(**changes: Any) -> ml_collections.ConfigDict:
    """Returns `config.optim` with these keys changed."""
    cfg = config.defaults().optim
    cfg.update(changes)
    return cfg
