"""What a sweep's file may say, and what is said of one that is wrong."""

import pytest

from imgclass.errors import UsageError
from imgclass.sweep import Ablation, Search, choice, declare, integers, log_uniform, uniform
from tests import tiny


def written(folder, returned):
    path = folder / "sweep.py"
    path.write_text(f"from imgclass.sweep import *\ndef get_sweep():\n    return {returned}\n")
    return str(path)


def test_an_ablation_and_its_seeds(tmp_path):
    found = declare.load(written(tmp_path, "Ablation('a.py', {'plain': {}}, seeds=3)"))
    assert found == Ablation("a.py", {"plain": {}}, seeds=3)
    assert found.each_seed == (0, 1, 2)
    assert Ablation("a.py", {}, seeds=(7, 3)).each_seed == (7, 3)


def test_a_space():
    assert uniform(0, 1) == declare.Range(0.0, 1.0)
    assert log_uniform(1e-4, 1) == declare.Range(1e-4, 1.0, log=True)
    assert integers(1, 8, log=True) == declare.Range(1, 8, log=True, whole=True)
    assert choice("a", (1, 2)) == declare.Choice(("a", (1, 2)))


@pytest.mark.parametrize("name", ["digits", "digits_search"])
def test_the_committed_ones_can_be_read(name):
    found = declare.load(str(tiny.ROOT / f"configs/ablations/{name}.py"))
    assert isinstance(found, Search if name.endswith("search") else Ablation)


WRONG = {
    "Ablation('a.py', {}, seeds=2)": "changes: none",
    "Ablation('a.py', {'a/b': {}})": "'a/b' cannot name a folder",
    "Ablation('a.py', {'-a': {}})": "'-a' cannot name a folder",
    "Ablation('a.py', {'a': {}}, seeds=0)": "seeds=0: must be",
    "Ablation('a.py', {'a': {}}, seeds=(1, 1))": r"seeds=\(1, 1\): must be",
    "Ablation('a.py', {'a': {'seed': 3}})": "seed: give it as seeds=",
    "Ablation('a.py', {'a': {}}, metric='f1')": "metric='f1': must be one of accuracy",
    "Search('a.py', {}, trials=3)": "space: empty",
    "Search('a.py', {'optim.lr': 0.1}, trials=3)": "optim.lr: must be uniform",
    "Search('a.py', {'optim.lr': log_uniform(0, 1)}, trials=3)": "with low above 0",
    "Search('a.py', {'optim.lr': uniform(1, 1)}, trials=3)": "optim.lr: must be uniform",
    "Search('a.py', {'optim.lr': choice()}, trials=3)": "optim.lr: must be uniform",
    "Search('a.py', {'optim.lr': choice(1)}, trials=0)": "trials=0: must be 1 or more",
    "Search('a.py', {'a': choice(1)}, trials=1, sampler='x')": "sampler='x': must be one of tpe",
    "Search('a.py', {'a': choice(1)}, trials=1, pruner='x')": "pruner='x': must be one of hyper",
    "Search('a.py', {'a': choice(1)}, trials=1, always={'a': 1})": "a: in space and in always",
    "3": r"get_sweep\(\) has to return",
    "Ablation('a.py', {'a': None})": r"changes: 'a': must be \{'section.key': value\}, not None",
    "Ablation('a.py', {'a': [('optim.lr', 1)]})": "changes: 'a': must be",
    "Ablation('a.py', {1: {}})": "changes: 1: must be",
    "Ablation('a.py', {'a': {}}, seeds=['x'])": r"seeds=\['x'\]: must be whole numbers",
    "Ablation('a.py', {'a': {}}, seeds=1.5)": "seeds=1.5: of another type",
    "Search('a.py', [], trials=3)": r"space=\[\]: of another type",
    "Search('a.py', {}, trials=2.5)": "trials=2.5: of another type",
    "Search('a.py', {}, trials=3, seed='x')": "seed='x': of another type",
    "Search('a.py', {}, trials=3, always=['x'])": r"always=\['x'\]: of another type",
    "exit(0)": "line 3: SystemExit: 0",
    "1 / 0": "line 3: ZeroDivisionError: division by zero",
    "Ablation()": "line 3: TypeError",
}


@pytest.mark.parametrize("returned", WRONG)
def test_what_is_wrong_is_said(returned, tmp_path, monkeypatch):
    written(tmp_path, returned)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=WRONG[returned]):
        declare.load("sweep.py")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such file; a sweep is a Python file with get_sweep"):
        declare.load(str(tmp_path / "none.py"))
