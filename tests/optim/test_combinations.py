"""Keys of `optim` that are fine alone: what cannot be together, and what would have no effect."""

import pytest

from imgclass import config

ALONE = "optim.schedule_free averages by itself: no ema_decay, swa_start or lookahead_steps"
NEEDS = "optim.schedule_free needs optim.name='sgd' or 'adamw', and optim.schedule='constant'"


def problems(overrides, **changes):
    """What is wrong with these changes, all of them given on the command line or none."""
    changed = config.defaults()
    changed.optim.update(changes)
    given = [f"optim.{name}" for name in changes] if overrides else []
    return config.problems(config.resolve(changed, given), given)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"freeze": "("}, "optim.freeze='(': not a regular expression"),
        ({"name": "muon", "muon_params": "("}, "optim.muon_params='(': not a regular expression"),
        (
            {"ema_decay": 0.9, "swa_start": 0.5},
            "optim.ema_decay and optim.swa_start exclude each other: set ema_decay=0 or "
            "swa_start=1",
        ),
        ({"schedule_free": True}, NEEDS),  # with adam
        ({"name": "adamw", "schedule_free": True, "schedule": "cosine"}, NEEDS),
        ({"name": "adamw", "schedule_free": True, "lookahead_steps": 5}, ALONE),
        ({"name": "adamw", "schedule_free": True, "ema_decay": 0.5}, ALONE),
        (
            {"name": "sgd", "schedule_free": True, "nesterov": True},
            "optim.schedule_free has no nesterov form",
        ),
    ],
)
def test_what_cannot_be_is_one_line_wherever_it_is_given(changes, line):
    assert problems(True, **changes) == [line]
    assert problems(False, **changes) == [line]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"warmup_factor": 0.2},
            "optim.warmup_factor=0.2 is unused without optim.warmup_*",
        ),
        (
            {"schedule": "one_cycle", "warmup_factor": 0.2, "warmup_steps": 5},
            "optim.warmup_factor=0.2 is unused with optim.schedule='one_cycle'",
        ),
        (
            {"average_every": 32},
            "optim.average_every=32 is unused without optim.ema_decay or optim.swa_start",
        ),
        ({"ema_start": 0.1}, "optim.ema_start=0.1 is unused with optim.ema_decay=0.0"),
        ({"lookahead_power": 0.0}, "optim.lookahead_power=0.0 is unused with "
         "optim.lookahead_steps=0"),
        ({"sgd_momentum": 0.8}, "optim.sgd_momentum=0.8 is unused with optim.name='adam'"),
        ({"name": "lion", "eps": 0.1}, "optim.eps=0.1 is unused with optim.name='lion'"),
        ({"name": "sgd", "rmsprop_tf": True}, "optim.rmsprop_tf=True is unused with "
         "optim.name='sgd'"),
        ({"name": "lars", "nesterov": True}, "optim.nesterov needs optim.name='sgd' or 'muon', and "
         "a momentum"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_refused_on_the_command_line_only(changes, line):
    assert problems(True, **changes) == [line]
    assert problems(False, **changes) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "muon", "momentum": 0.6, "nesterov": True, "muon_steps": 3, "sgd_momentum": 0.8},
        {"name": "lars", "momentum": 0.8, "lars_coefficient": 0.01},
        {"name": "lion", "beta1": 0.95, "beta2": 0.98},
        {"name": "sgd", "schedule": "linear", "warmup_percent": 23.0, "warmup_factor": 0.2},
        {"name": "adamw", "schedule_free": True, "warmup_steps": 5, "beta1": 0.95},
        {"swa_start": 0.75, "average_every": 10},
        {"ema_decay": 0.99, "ema_start": 0.1, "ema_warmup": True, "average_every": 32},
        {"lookahead_steps": 5, "lookahead_power": 0.0, "sam_rho": 0.05, "layer_decay": 0.75},
    ],
)
def test_what_goes_together(changes):
    assert problems(True, **changes) == []
