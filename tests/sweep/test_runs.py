"""The runs that an ablation declares, and folders that another config began."""

import pathlib

import pytest

from imgclass import config as config_lib
from imgclass import run
from imgclass.errors import UsageError
from imgclass.sweep import Ablation, runs
from tests.sweep.declared import CNN

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
ROOT = pathlib.Path("sweep")


def test_every_change_with_every_seed_seed_by_seed():
    declared = Ablation(CNN, {"a": {}, "b": {"model.dropout": 0.25}}, seeds=2)
    found = runs.of_ablation(declared, ROOT)
    assert [one.name for one in found] == ["a-0", "b-0", "a-1", "b-1"]
    assert [one.change for one in found] == ["a", "b", "a", "b"]
    assert found[3].folder == ROOT / "b-1"
    assert found[3].words == (
        f"--config={CNN}", "--config.eval.final_test=False", "--config.log.report=False",
        "--config.log.images=False", "--config.eval.best_metric=accuracy",
        "--config.model.dropout=0.25", "--config.seed=1", "--workdir=sweep/b-1",
    )  # fmt: skip
    assert (found[3].config.model.dropout, found[3].config.seed) == (0.25, 1)


def test_the_test_split_is_scored_only_where_the_sweep_says_so():
    # configs/cnn.py asks for it by itself.
    for always, expected in (({}, False), ({"eval.final_test": True}, True)):
        (one,) = runs.of_ablation(Ablation(CNN, {"a": {}}, seeds=1, always=always), ROOT)
        assert one.config.eval.final_test is expected


def test_a_value_of_each_kind_reaches_the_config():
    keys = {
        "model.filters": (4, 8), "model.hidden": [16], "optim.name": "sgd", "optim.lr": 1e-7,
        "model.batch_norm": True, "train.total_steps": 5,
    }  # fmt: skip
    config = runs.parse(CNN, keys)
    assert config.model.filters == (4, 8)
    assert config.model.hidden == (16,)
    assert (config.optim.name, config.optim.lr, config.model.batch_norm) == ("sgd", 1e-7, True)
    assert (config.train.total_steps, config.train.total_epochs) == (5, None)


def test_every_change_that_cannot_be_is_named_at_once():
    changes = {"a": {"model.dropuot": 0.1}, "b": {}, "c": {"model.dropout": 2.0}}
    with pytest.raises(UsageError) as caught:
        runs.of_ablation(Ablation(CNN, changes), ROOT)
    first, second = str(caught.value).splitlines()
    assert first == "a: model.dropuot: no such key; did you mean 'model.dropout'?"
    assert second.startswith("c: model.dropout=2.0: must be")


def test_a_folder_of_another_config_is_refused(tmp_path):
    def made(rate):
        return runs.of_ablation(Ablation(CNN, {"a": {"model.dropout": rate}}, seeds=1), tmp_path)

    old, new = made(0.2), made(0.3)
    runs.check(new)  # nothing is there yet
    old[0].folder.mkdir()
    (old[0].folder / "config.json").write_text(config_lib.to_json(old[0].config))
    runs.check(old)
    with pytest.raises(UsageError) as caught:
        runs.check(new)
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'a-0'} was started with another config:",
        "  model.dropout: 0.2 then, 0.3 now",
        "Give a new --root, rename the change, or move that folder away",
    ]


def test_keys_that_move_no_figure_may_differ_and_main_is_told(tmp_path):
    def made(**always):
        return runs.of_ablation(Ablation(CNN, {"a": {}}, seeds=1, always=always), tmp_path)[0]

    old = made()
    assert "--allow_config_change" not in old.words
    old.folder.mkdir()
    (old.folder / "config.json").write_text(config_lib.to_json(old.config))
    keys = {"log.progress": False, "log.every_steps": 7, "data.threads": 3}
    new = made(**keys)
    runs.check([new])
    assert new.words[-1] == "--allow_config_change"
    said = run.check_config(new.folder, new.config, allow_change=True)  # main.py's own look
    assert [line.partition(":")[0] for line in said] == sorted(keys)
    for key, value in (("optim.lr", 0.5), ("data.name", "mnist")):  # one it may not, one it cannot
        with pytest.raises(UsageError, match=f"  {key}: .* then, .* now"):
            runs.check([made(**{key: value, **keys})])


def test_a_change_without_validation_is_refused():
    changes = {"a": {}, "b": {"data.validation_split": ""}}
    with pytest.raises(UsageError, match=r"^b: data.validation_split='': a sweep compares by"):
        runs.of_ablation(Ablation(CNN, changes), ROOT)


@pytest.mark.parametrize(
    ("split", "seen"),
    [("test", True), ("train[90%:]+test[:50%]", True), ("auto", False), ("tested[:9]", False)],
)
def test_validation_on_the_test_split_is_named(split, seen):
    changes = {"a": {}, "b": {"data.validation_split": split}}
    each = runs.of_ablation(Ablation(CNN, changes, seeds=1), ROOT)
    said = runs.on_test({one.change: one.config for one in each})
    assert said.startswith("Validation is the test split in b (") if seen else said == ""
