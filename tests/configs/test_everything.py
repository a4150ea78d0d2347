"""Every experiment in configs/: it can be built, its model exists, and it says how to run it."""

import ast
import importlib
import re

import pytest

from imgclass import combinations, models
from imgclass import config as config_lib
from tests.configs.everything import ARGUMENTS, CONFIGS, EXPERIMENTS, experiment

FILES = sorted(path.stem for path in CONFIGS.glob("*.py"))


def test_every_file_is_known_here():
    assert sorted(ARGUMENTS) == FILES


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_can_be_built_and_sets_nothing_that_is_ignored(name):
    config = experiment(name)  # refuses a value or a combination that cannot be
    assert config.model.name in models.names()
    own = config_lib.difference(config_lib.resolve(config_lib.defaults()), config)
    # As if given on the command line, where a key without effect is refused.
    assert combinations.problems(config, [*own], models.used_keys()) == []


@pytest.mark.parametrize("name", FILES)
def test_it_says_how_to_run_it_and_what_to_expect(name):
    words = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert words is not None
    (first,) = re.findall(r"^Run +python main\.py --config=configs/(\w+)\.py", words, re.MULTILINE)
    assert first == name
    assert re.search(r"^(Expected|Published) ", words, re.MULTILINE)
    assert re.search(r"run by us|[Nn]ot run|docs/recipes\.md|docs/", words), "whose figure is it?"
    assert max(map(len, words.splitlines())) <= 100


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("imagenet_")])
def test_an_argument_it_does_not_know_is_refused(name):
    with pytest.raises(ValueError, match=f"'v9': use .*{ARGUMENTS[name][0]}"):
        importlib.import_module(f"configs.{name}").get_config("v9")
