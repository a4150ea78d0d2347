"""Optuna's study: values of each kind, the same ones again, and never another search's."""

import pytest

optuna = pytest.importorskip("optuna")

from imgclass.errors import UsageError, UserError  # noqa: E402
from imgclass.sweep import Search, choice, integers, log_uniform, study, uniform  # noqa: E402
from tests.sweep import declared as tiny_sweeps  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections calls it
SPACE = {
    "optim.lr": log_uniform(1e-4, 1e-1),
    "model.dropout": uniform(0.0, 0.5),
    "model.depth": integers(1, 3),
    "model.filters": choice((4,), (4, 8)),
    "model.batch_norm": choice(True, False),
}


def declared(**changes):
    return Search(tiny_sweeps.CNN, **{"space": SPACE, "trials": 5, "sampler": "random", **changes})


def begin(search, folder):
    study.check(search)
    return study.begin(search, tiny_sweeps.root(folder), "")


def test_values_of_each_kind_are_within_what_was_declared(tmp_path):
    search = declared()
    begun = begin(search, tmp_path)
    for _ in range(5):
        found = study.suggest(study.ask(search, begun), SPACE)
        assert 1e-4 <= found["optim.lr"] <= 1e-1
        assert 0.0 <= found["model.dropout"] <= 0.5
        assert found["model.depth"] in (1, 2, 3)
        assert found["model.filters"] in ((4,), (4, 8))
        assert isinstance(found["model.batch_norm"], bool)


def test_a_trial_that_has_values_keeps_them(tmp_path):
    search = declared()
    begun = begin(search, tmp_path)
    first = study.suggest(study.ask(search, begun), SPACE)
    (frozen,) = begun.get_trials()
    assert study.suggest(optuna.trial.Trial(begun, frozen._trial_id), SPACE) == first


def test_what_is_proposed_is_the_same_whether_or_not_the_sweep_was_begun_anew(tmp_path):
    search = declared()

    def three(folder, anew):
        begun, found = begin(search, folder), []
        for _ in range(3):
            begun = begin(search, folder) if anew else begun
            trial = study.ask(search, begun)
            found.append(study.suggest(trial, SPACE))
            begun.tell(trial, 0.5)
        return found

    once, again = three(tmp_path / "a", False), three(tmp_path / "b", True)
    assert once == again
    assert once[0]["optim.lr"] != once[1]["optim.lr"] != once[2]["optim.lr"]
    other = begin(declared(seed=1), tmp_path / "c")
    assert study.suggest(study.ask(declared(seed=1), other), SPACE) not in once


def test_a_loss_is_minimised_and_all_else_maximised(tmp_path):
    for metric, direction in (("loss", "MINIMIZE"), ("top5", "MAXIMIZE")):
        begun = begin(declared(metric=metric), tmp_path / metric)
        assert begun.direction.name == direction


def test_another_search_is_refused_in_its_folder(tmp_path):
    begin(declared(), tmp_path)
    begin(declared(trials=9, sampler="tpe", pruner="median"), tmp_path)  # may change
    changed = {**SPACE, "model.dropout": uniform(0.0, 0.6)}
    with pytest.raises(UsageError) as caught:
        begin(declared(space=changed, always={"optim.beta1": 0.8}), tmp_path)
    assert str(caught.value).splitlines() == [
        f"{tmp_path} was begun as another search:",
        "  model.dropout: Range(low=0.0, high=0.5, log=False, whole=False) then, "
        "Range(low=0.0, high=0.6, log=False, whole=False) now",
        "  optim.beta1: 0.9 then, 0.8 now",
        "Give a new --root",
    ]


def test_keys_that_move_no_figure_may_differ(tmp_path):
    begin(declared(), tmp_path)
    begin(declared(always={"log.progress": False, "checkpoint.every_steps": 7}), tmp_path)


def test_a_search_without_validation_is_refused():
    with pytest.raises(UsageError, match=r"data.validation_split='': a sweep compares by"):
        study.check(declared(always={"data.validation_split": ""}))


@pytest.mark.parametrize("name", ["a?b=c", "100% #1", "{x} y"])
def test_the_memory_is_in_the_folder_whatever_its_name(name, tmp_path):
    root = tmp_path / name
    before = tiny_sweeps.root(root).joinpath("study.db").read_bytes()
    study.begin(declared(), root, "")
    assert (root / "study.db").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_space_that_makes_no_config_is_refused_before_anything_runs():
    wrong = {"model.dropuot": uniform(0.0, 0.5), "model.depth": uniform(1.0, 2.0)}
    with pytest.raises(UsageError) as caught:
        study.check(declared(space=wrong))
    said = str(caught.value)
    assert "model.dropuot: no such key; did you mean 'model.dropout'?" in said
    assert "model.depth=1.0: must be a whole number" in said


def test_a_storage_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="--storage=nonsense: cannot be used"):
        study.begin(declared(), tmp_path, "nonsense")
