"""What the tests of models share: a config of the model section at its defaults."""

from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from imgclass import config


@pytest.fixture
def model_config() -> Callable[..., ConfigDict]:
    """Returns a function of keyword overrides that gives config.model."""

    def build(**overrides) -> ConfigDict:
        model = config.defaults().model
        model.update(overrides)
        return model

    return build
