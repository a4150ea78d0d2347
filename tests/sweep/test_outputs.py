"""The best config as a file, and the table of trials."""

import runpy
import shlex

import pytest

from imgclass import config as config_lib
from imgclass.sweep import outputs


def test_the_best_config_is_a_file_that_makes_it_again(tmp_path):
    config = config_lib.defaults()
    config.train.total_steps = 7  # and no longer 10 epochs
    config.optim.lr = 0.1 + 0.2  # every digit of it
    config.model.filters = (4, 8)
    config.data.name = "a\\b \"c\" 'd'"
    config = config_lib.resolve(config)
    path = tmp_path / "best.py"
    path.write_text(outputs.recipe(config, 'The best of "x\\y.py".', path))
    made = config_lib.resolve(runpy.run_path(str(path))["get_config"]())
    assert config_lib.difference(config, made) == {}
    lines = [line.strip() for line in path.read_text().splitlines() if "    config." in line]
    assert "config.optim.lr = 0.30000000000000004" in lines
    assert len(lines) == 4  # what differs, and nothing else


def test_a_table_of_trials():
    rows = [
        {"trial": 3, "state": "complete", "value": 0.91234, "values": {"optim.lr": 0.0123456}},
        {"trial": 0, "state": "fail", "value": None, "values": {}},
    ]
    assert outputs.trials_table(rows, "accuracy").splitlines() == [
        "| trial | state | validation accuracy | optim.lr |",
        "| --- | --- | --- | --- |",
        "| 3 | complete | 0.9123 | 0.01235 |",
        "| 0 | fail |  |  |",
    ]


def test_plots_are_written_and_the_same_figures_give_the_same_file(tmp_path):
    for name in ("a", "b"):
        outputs.plot_history([(0, 0.5), (2, 0.7)], [(1, 0.2)], "accuracy", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    outputs.plot_importance({"optim.lr": 0.8, "model.dropout": 0.2}, tmp_path / "c.svg")
    assert "<svg" in (tmp_path / "c.svg").read_text()


@pytest.mark.parametrize("name", ["a b", 'x"""y', "it's", "back\\", "n\\new", "$HOME"])
def test_any_path_makes_a_file_whose_command_a_shell_understands(name, tmp_path):
    path = tmp_path / name / "best.py"
    path.parent.mkdir()
    path.write_text(outputs.recipe(config_lib.resolve(config_lib.defaults()), "It.", path))
    said = runpy.run_path(str(path))["__doc__"].splitlines()[2]
    assert shlex.split(said) == ["Run", "python", "main.py", f"--config={path}"]
