"""Durations, problems, and the JSON form of configs. Expected numbers are worked out by hand."""

import importlib.util
import json
import math
import pathlib
from fractions import Fraction

import pytest

from imgclass import combinations, models, schema
from imgclass import config as config_lib
from imgclass.errors import UsageError
from imgclass.models import layers

ROOT = pathlib.Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "configs").glob("*.py"))

MODELS = models.used_keys()


def changed(**values):
    """Returns a resolved config with keys such as train__batch_size changed, of any type."""
    config = config_lib.defaults().copy_and_resolve_references()
    for path, value in values.items():
        section, _, name = path.rpartition("__")
        target = config[section] if section else config
        with target.unlocked(), target.ignore_type():
            target[name] = value
    return config_lib.resolve(config)


# The default CNN on the digits: 1,298 pictures, 32 a step, 10 epochs. An epoch is 1298 / 32 =
# 40.5625 steps, ten are 405.625.
def test_total_steps_of_ten_epochs_of_digits():
    assert config_lib.total_steps(changed(), 1298) == 406


def test_epochs_end_on_the_first_whole_step_at_or_after_each_multiple():
    # 40.5625, 81.125, 121.6875, 162.25, 202.8125, 243.375, 283.9375, 324.5, 365.0625, 405.625
    every = config_lib.interval_of(changed(), "eval.every", 1298, 406)
    assert [step for step in range(407) if every.due(step)] == [
        41, 82, 122, 163, 203, 244, 284, 325, 366, 406,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "amount", "steps"),
    [
        ("steps", 7, 7),
        ("examples", 96, 3),
        ("examples", 97, 4),  # the 97th example needs a fourth step
        ("epochs", 1.0, 41),
        ("epochs", 0.5, 21),  # 20.28125
        ("epochs", 32.0, 1298),  # 32 epochs of 1298 at 32 a step: no remainder
    ],
)
def test_total_in_every_unit(unit, amount, steps):
    config = changed(**{f"train__total_{unit}": amount})
    assert config_lib.problems(config) == []
    assert config_lib.total_steps(config, 1298) == steps


@pytest.mark.parametrize(
    ("unit", "amount", "steps"),
    [
        ("steps", 7, 7),
        ("examples", 320, 10),
        ("examples", 335, 10),  # 10.46875: the nearest, not the next
        ("epochs", 1.0, 41),  # 40.5625
        ("epochs", 2.0, 81),  # 81.125
        ("percent", 5.0, 20),  # of 406: 20.3
        ("percent", 100.0, 406),
    ],
)
def test_warmup_in_every_unit(unit, amount, steps):
    config = changed(**{f"optim__warmup_{unit}": amount})
    assert config_lib.problems(config) == []
    assert config_lib.steps_of(config, "optim.warmup", 1298, 406) == steps


def test_interval_in_percent_of_the_run():
    # A quarter of 406 is 101.5: 101.5, 203, 304.5, 406.
    every = config_lib.interval_of(
        changed(checkpoint__every_percent=25.0), "checkpoint.every", 9, 406
    )
    assert [step for step in range(500) if every.due(step)][:4] == [102, 203, 305, 406]


def test_a_tenth_is_a_tenth():
    # 0.1 in binary is a little more than 1/10, and its ceiling would be a step too many.
    assert config_lib.total_steps(changed(train__total_epochs=0.1), 320) == 1
    assert config_lib.total_steps(changed(train__total_epochs=0.3, train__batch_size=1), 100) == 30


@pytest.mark.parametrize(
    "steps",
    [Fraction(1), Fraction(50), Fraction(649, 16), Fraction(7, 2), Fraction(1, 3), Fraction(999)],
)
def test_interval_against_brute_force(steps):
    interval = config_lib.Interval(steps)
    marks = [m * steps for m in range(1, math.ceil(400 / steps) + 1)]
    due = [any(step - 1 < mark <= step for mark in marks) for step in range(301)]
    due[0] = False  # nothing has been done yet
    assert [interval.due(step) for step in range(301)] == due
    for step in range(200):
        later = [s for s in range(step + 1, 301) if due[s]]
        if later:
            assert interval.next_after(step) == later[0]


def test_interval_of_zero_is_never():
    never = config_lib.interval_of(changed(eval__every_epochs=0.0), "eval.every", 1298, 406)
    assert not any(never.due(step) for step in range(1000))
    assert never.next_after(3) is None


def test_another_unit_replaces_the_default_one():
    config = changed(train__total_steps=7)
    assert config.train.total_steps == 7
    assert config.train.total_epochs is None
    assert config_lib.problems(config) == []


def test_two_units_are_a_problem():
    (problem,) = config_lib.problems(changed(train__total_steps=7, train__total_examples=50))
    assert problem.startswith("train.total_*: give exactly one of")
    assert problem.endswith("given: train.total_steps, train.total_examples")


def test_the_command_line_beats_the_file_even_with_the_default_amount():
    config = changed(train__total_steps=7).copy_and_resolve_references()
    config.train.total_epochs = 10.0  # the default, but asked for
    resolved = config_lib.resolve(config, ["train.total_epochs"])
    assert resolved.train.total_steps is None
    assert config_lib.total_steps(resolved, 1298) == 406


def test_two_units_on_the_command_line_are_a_problem():
    config = config_lib.defaults()
    config.train.total_steps, config.train.total_epochs = 7, 3.0
    resolved = config_lib.resolve(config, ["train.total_epochs", "train.total_steps"])
    assert len(config_lib.problems(resolved)) == 1


def test_resolving_leaves_its_argument_alone():
    config = config_lib.defaults()
    config.train.total_steps = 7
    config_lib.resolve(config)
    assert config.train.total_epochs == 10.0


def test_defaults_are_locked_and_without_problems():
    config = config_lib.defaults()
    assert config_lib.problems(config_lib.resolve(config)) == []
    with pytest.raises(AttributeError, match="lrr"):
        config.optim.lrr = 1.0


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optim__lr", NAN, "a finite number above 0"),
        ("optim__lr", INF, "a finite number above 0"),
        ("optim__lr", -0.1, "a finite number above 0"),
        ("optim__lr", 0.0, "a finite number above 0"),
        ("optim__lr", "fast", "must be float"),
        ("optim__momentum", 1.0, "from 0.0 to below 1.0"),
        ("optim__weight_decay", NAN, "0.0 or more"),
        ("optim__name", "adamm", "did you mean 'adam'?"),
        ("train__batch_size", 0, "1 or more"),
        ("train__batch_size", 1e3, "must be int"),
        ("train__batch_size", "32", "must be int"),
        ("train__batch_size", True, "must be int"),
        ("train__total_epochs", 0.0, "above 0"),
        ("train__total_epochs", NAN, "above 0"),
        ("train__total_epochs", "many", "must be float"),
        ("train__total_steps", 2.5, "must be int"),
        ("train__total_percent", 50.0, "a percentage of itself"),
        ("optim__warmup_percent", 101.0, "at most 100"),
        ("eval__every_epochs", -1.0, "0 or more"),
        ("log__every_steps", 0, "above 0"),
        ("seed", -1, "from 0 to"),
        ("data__name", "", "not empty"),
        ("data__image_size", 64, "must be tuple"),
        ("data__image_size", (64,), "2 values"),
        ("data__image_size", (64.5, 64), "a whole number, 1 or more"),
        ("data__image_size", ("64", 64), "2 values"),
        ("data__channels", 4, "1 or 3"),
        ("data__mean", (NAN,), "from 0.0 to 1.0"),
        ("model__filters", (), "1 or more values"),
        ("model__filters", (32.5,), "a whole number"),
        ("model__hidden", (0,), "a whole number"),
        ("log__progress", 1, "must be True or False"),
        ("eval__best_metric", "f1", "one of accuracy, balanced_accuracy, loss, top5, auroc"),
    ],
)
def test_a_bad_value_is_one_problem_that_names_it(key, value, words):
    (problem,) = config_lib.problems(changed(**{key: value}))
    assert problem.startswith(key.replace("__", ".").removesuffix("_percent"))
    assert words in problem


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data__standardize": "given"}, "needs data.mean and data.std"),
        ({"data__mean": (0.5,)}, "data.mean=(0.5,) is unused with data.standardize='none'"),
        (
            {"data__standardize": "given", "data__mean": (0.5,) * 3, "data__std": (0.2,) * 3,
             "data__channels": 1},
            "data.std has 3 values for data.channels=1",
        ),
        ({"data__crop_fraction": 0.8}, "unused with data.resize='stretch'"),
        ({"data__load_size": (64, 63)}, "smaller than data.image_size=(64, 64)"),
        ({"optim__accumulate": 5}, "optim.accumulate=5 equal parts"),
        ({"model__batch_norm_group": 12}, "does not divide the 32 rows"),
        ({"optim__nesterov": True}, "needs optim.name='sgd'"),
        ({"optim__nesterov": True, "optim__name": "rmsprop"}, "needs optim.name='sgd'"),
        ({"optim__name": "lamb", "optim__eps_hat": True}, "not lamb"),
        ({"augment__random_resized_crop": True, "augment__pad_crop": 4}, "exclude each other"),
        ({"augment__crop_scale": (1.0, 0.5)}, "is not (low, high)"),
        ({"augment__crop_ratio": (2.0, 0.5)}, "is not (low, high)"),
        ({"augment__pad_crop": 64, "augment__pad_mode": "reflect"}, "no less than a side"),
        ({"augment__cutout": 64}, "no less than a side"),
        ({"augment__erase_scale": (0.3, 0.1)}, "augment.erase_scale=(0.3, 0.1) is not (low, high)"),
        (
            {"augment__policy": "rand_increasing", "augment__policy_magnitude": 11.0},
            "augment.policy_magnitude=11.0 is of 10",
        ),
        ({"augment__mix_probability": 0.5}, "unused without augment.mixup_alpha"),
        ({"augment__sizes": (32, 64)}, "augment.size_at=() has to rise"),
        ({"augment__sizes": (8, 16, 32), "augment__size_at": (0.5, 0.5)}, "has to rise"),
        (
            {"augment__pad_crop": 70, "augment__pad_mode": "reflect", "data__load_size": (70, 80)},
            "no less than a side of (70, 80) pictures",
        ),
        ({"loss__logit_adjust": 1.0, "loss__name": "bce"}, "is for loss.name='cross_entropy'"),
        ({"loss__teacher": "runs/a", "loss__distill_weight": 0.0}, "teaches nothing"),
        ({"loss__consistency": 12.0}, "has nothing to compare"),
        (
            {"loss__consistency": 12.0, "augment__policy": "augmix", "augment__mixup_alpha": 0.2},
            "which mixup and cutmix do not leave",
        ),
        ({"data__feed": "stream", "train__steps_per_dispatch": 4}, "needs the resident feed"),
        ({"data__group_by": "(a"}, "data.group_by='(a': not a regular expression"),
        ({"optim__no_decay": "["}, "optim.no_decay='[': not a regular expression"),
    ],
)  # fmt: skip
def test_impossible_combinations(values, words):
    found = config_lib.problems(changed(**values), [key.replace("__", ".") for key in values])
    assert any(words in problem for problem in found), found


def test_a_border_is_reflected_from_the_picture_that_is_padded():
    wide = changed(augment__pad_crop=64, augment__pad_mode="reflect", data__load_size=(70, 70))
    assert config_lib.problems(wide) == []


@pytest.mark.parametrize(
    ("choice", "key", "value"),
    [
        ({"model__name": "resnet18"}, "model.dropout", 0.5),
        ({"model__name": "resnet50"}, "model.filters", (8,)),
        ({"model__name": "resnet18"}, "model.pool_window", 3),
        ({"model__pool": "none"}, "model.pool_stride", 3),
        ({"model__name": "cnn"}, "model.stem", "cifar"),
        ({"model__name": "cnn"}, "model.zero_init_residual", False),
        ({"model__batch_norm": False}, "model.batch_norm_group", 8),
        ({"augment__random_resized_crop": False}, "augment.crop_scale", (0.5, 1.0)),
        ({"augment__pad_crop": 0}, "augment.pad_mode", "reflect"),
        ({"augment__cutout": 0}, "augment.cutout_inside", True),
        ({"augment__policy": "trivial_wide"}, "augment.policy_ops", 3),
        ({"augment__policy": "rand"}, "augment.policy_std", 0.5),
        ({"augment__policy": "none"}, "augment.policy_fill", "mean"),
        ({"augment__policy": "rand"}, "augment.augmix_severity", 1.0),
        ({"augment__erase": 0.0}, "augment.erase_with", "noise"),
        ({"augment__mixup_alpha": 0.0}, "augment.mix_switch", 0.1),
        ({"loss__name": "focal"}, "loss.bce_sum", True),
        ({"loss__name": "bce"}, "loss.focal_gamma", 1.0),
        ({"loss__class_weights": "inverse"}, "loss.effective_beta", 0.9),
        ({"loss__teacher": ""}, "loss.distill_weight", 0.9),
        ({"loss__distill_feature": ""}, "loss.distill_feature_weight", 2.0),
        ({"data__resize": "crop"}, "data.pad_value", 7),
        ({"data__resize": "pad"}, "data.crop_fraction", 0.9),
        ({"data__validation_split": "train[90%:]"}, "data.validation_fraction", 0.2),
        ({"data__test_split": ""}, "data.test_fraction", 0.2),
        ({"data__standardize": "train"}, "data.std", (0.2,)),
        ({"data__feed": "stream"}, "data.resident_mb", 8),
        ({"optim__schedule": "step"}, "optim.end_factor", 0.1),
        ({"optim__schedule": "cosine"}, "optim.step_at", (0.1,)),
        ({"optim__schedule": "linear"}, "optim.step_factor", 0.5),
        ({"optim__name": "adamw"}, "optim.momentum", 0.5),
        ({"optim__name": "rmsprop"}, "optim.beta2", 0.99),
        ({"optim__name": "sgd"}, "optim.eps", 1e-7),
        ({"optim__name": "lamb"}, "optim.rmsprop_decay", 0.5),
    ],
)
def test_an_override_without_effect_is_a_problem_and_a_files_is_not(choice, key, value):
    config = changed(**choice, **{key.replace(".", "__"): value})
    ((chosen, at),) = choice.items()
    assert config_lib.problems(config, [key], MODELS) == [
        f"{key}={value!r} is unused with {chosen.replace('__', '.')}={at!r}"
    ]
    assert config_lib.problems(config, [chosen.replace("__", ".")], MODELS) == []
    as_default = changed(**choice)
    assert config_lib.problems(as_default, [key], MODELS) == []


def test_another_optimizer_for_one_run_leaves_the_files_forms_of_the_first_unused():
    keras = changed(optim__name="sgd", optim__eps_hat=True, optim__eps=1e-7)
    assert config_lib.problems(keras, ["optim.name"]) == []
    assert len(config_lib.problems(keras, ["optim.eps_hat"])) == 1
    adam = changed(optim__name="adam", optim__nesterov=True)
    assert config_lib.problems(adam, ["optim.name"]) == []


def test_every_key_that_combinations_speak_of_exists():
    known = config_lib.kinds()
    for choice, _, keys in combinations.USED_WITH:
        assert {choice, *keys.split()} <= known.keys()


def test_the_model_is_one_of_those_there_are():
    config = changed(model__name="resnet19", optim__lr=-1.0, model__stem="cifar")
    found = config_lib.problems(config, ["model.stem"], MODELS)
    assert found == [
        "model.name='resnet19': no such model; see `imgclass models`; did you mean 'resnet18'?",
        "optim.lr=-1.0: must be a finite number above 0.0",
    ]


def test_every_activation_may_be_asked_for_and_no_other():
    rule = schema.SCHEMA["model"]["activation"].rule
    assert sorted(rule.words.removeprefix("one of ").split(", ")) == sorted(layers.ACTIVATIONS)


def test_every_problem_is_reported_at_once():
    config = changed(optim__lr=-1.0, train__batch_size=0, data__resize="cropp", seed=-3)
    with pytest.raises(UsageError) as caught:
        config_lib.check(config)
    lines = str(caught.value).splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "seed", "data.resize", "optim.lr", "train.batch_size",
    ]  # fmt: skip
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("train.bach_size", "train.batch_size"),
        ("optim.Lr", "optim.lr"),
        ("train.lr", "optim.lr"),  # the right key in the wrong section
        ("data.batch_size", "train.batch_size"),
        ("image_size", "data.image_size"),
        ("optim.total_epochs", "train.total_epochs"),
        ("train.epochs", "train.total_epochs"),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(asked, meant):
    assert config_lib.nearest(asked, config_lib.kinds()) == f"; did you mean {meant!r}?"


def test_nothing_near_is_said_as_nothing():
    assert config_lib.nearest("zzz", config_lib.kinds()) == ""
    # A common suffix is no likeness between files.
    assert config_lib.nearest("/data/other.py", ["configs/cnn.py"]) == ""


def test_a_config_of_other_making_is_one_line_not_ninety():
    config = config_lib.config_dict.ConfigDict({"a": 1})
    found = config_lib.problems(config)
    assert found[0].startswith("a: no such key")
    assert len(found) == 2
    assert "start from imgclass.config.defaults()" in found[1]


def test_json_round_trip_is_exact():
    config = changed(data__image_size=(28, 30), train__total_steps=7, optim__lr=1e-7, seed=2**62)
    back = config_lib.from_json(config_lib.to_json(config))
    assert config_lib.flatten(back) == config_lib.flatten(config)
    assert back.data.image_size == (28, 30)  # a tuple again
    assert back.train.total_epochs is None
    assert config_lib.difference(config, back) == {}


def test_the_schema_lists_every_key_of_a_config():
    listed = list(schema.paths())
    assert sorted(listed) == sorted(config_lib.flatten(config_lib.defaults()))
    assert [path for path in listed if path.startswith("train.total")] == [
        "train.total_steps", "train.total_examples", "train.total_epochs", "train.total_percent",
    ]  # fmt: skip
    assert [p for p, key in schema.entries() if p.startswith("train.total")] == ["train.total"]


def test_from_json_takes_todays_defaults_for_keys_that_are_newer():
    back = config_lib.from_json('{"train": {"batch_size": 8}}')
    assert back.train.batch_size == 8
    assert back.optim.lr == 0.001


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"optim": {"lrr": 1}, "x": 2}',
            r"optim.lrr: no such key; did you mean 'optim.lr'\?\nx: ",
        ),
        ('{"optim": {"lr": "abc"}}', "optim.lr='abc': must be float"),
        ('{"train": {"total_epochs": "abc"}}', "train.total_epochs='abc': must be float"),
        ('{"data": 3}', "data: no such key"),
        ("[1, 2]", "not a JSON object"),
    ],
)
def test_from_json_refuses_what_it_does_not_know(text, words):
    with pytest.raises(config_lib.ConfigError, match=words):
        config_lib.from_json(text)


def test_difference_names_what_differs_and_how():
    old, new = changed(optim__lr=0.1), changed(optim__lr=0.2, train__total_steps=7)
    assert config_lib.difference(old, new) == {
        "optim.lr": (0.1, 0.2),
        "train.total_epochs": (10.0, None),
        "train.total_steps": (None, 7),
    }
    as_list = changed(data__image_size=[64, 64])
    assert config_lib.difference(changed(), as_list) == {}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_builds_is_valid_and_says_how_to_run_it(path):
    spec = importlib.util.spec_from_file_location("experiment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    needs_data = f"configs/{path.name}:PATH" in module.__doc__
    config = config_lib.resolve(module.get_config("PATH") if needs_data else module.get_config())
    config_lib.check(config)
    json.loads(config_lib.to_json(config))
    assert f"python main.py --config=configs/{path.name}" in module.__doc__
    assert any(line.startswith("Run ") for line in module.__doc__.splitlines())


def test_there_are_experiments():
    assert "cnn" in {path.stem for path in EXPERIMENTS}
