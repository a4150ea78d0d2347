"""The run in steps, for the default CNN on the digits: 1,298 pictures, 32 a step, 10 epochs."""

import pytest

from imgclass import config as config_lib
from imgclass import plan as plan_lib


def make(examples=1298, **values):
    config = config_lib.defaults()
    for path, value in values.items():
        section, name = path.split("__")
        config[section][name] = value
    return plan_lib.make_plan(config_lib.resolve(config), examples)


def test_default_plan():
    plan = make()
    assert (plan.total, plan.warmup, plan.batch_size, plan.examples) == (406, 0, 32, 1298)
    assert [s for s in range(407) if plan.log.due(s)] == [50, 100, 150, 200, 250, 300, 350, 400]
    assert [s for s in range(130) if plan.save.due(s)] == [41, 82, 122]  # 40.5625, 81.125, 121.6875


def test_epoch_counts_passes_over_the_training_split():
    plan = make(examples=64)
    assert plan.epoch(0) == 0.0
    assert plan.epoch(1) == 0.5
    assert plan.epoch(20) == 10.0 == plan.epoch(plan.total)


def test_warmup_of_a_percentage_is_of_the_whole_run():
    assert make(optim__warmup_percent=10.0).warmup == 41  # 40.6


def test_steps_until_due_stops_at_every_mark():
    # Marks: epochs 41, 82, ...; logs 50, 100, ...; end 406. Dispatches of at most 16.
    plan = make()
    step, stops = 0, []
    while step < plan.total:
        count = plan.steps_until_due(step, 16)
        assert 1 <= count <= 16
        step += count
        stops.append(step)
    assert stops[:8] == [16, 32, 41, 50, 66, 82, 98, 100]
    assert stops[-1] == 406
    marks = {s for s in range(407) if plan.evaluate.due(s) or plan.save.due(s) or plan.log.due(s)}
    assert marks <= set(stops)


def test_steps_until_due_without_marks_goes_to_the_end():
    plan = make(train__total_steps=10, eval__every_epochs=0.0, checkpoint__every_epochs=0.0,
                log__every_steps=1000)  # fmt: skip
    assert [plan.steps_until_due(step, 4) for step in (0, 4, 8)] == [4, 4, 2]


@pytest.mark.parametrize("examples", [1, 31, 32, 33])
def test_one_epoch_leaves_no_example_out(examples):
    plan = make(examples=examples, train__total_epochs=1.0)
    assert plan.total == {1: 1, 31: 1, 32: 1, 33: 2}[examples]
