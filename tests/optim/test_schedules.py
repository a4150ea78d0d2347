"""Schedules by hand at their boundaries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgclass import optim
from imgclass.errors import UsageError
from tests.optim.sections import section

HALF = math.sqrt(0.5)  # cos(pi/4)

# (settings, total, warm-up, {step: learning rate}); the peak is 1 throughout.
SCHEDULES = {
    "constant": ({"schedule": "constant"}, 10, 0, {0: 1, 5: 1, 9: 1, 10: 1, 99: 1}),
    # 1/4 at 0, 1 at 4, so 3/16 a step.
    "constant_warm": (
        {"schedule": "constant"},
        10,
        4,
        {0: 0.25, 1: 0.4375, 2: 0.625, 3: 0.8125, 4: 1, 5: 1, 9: 1},
    ),
    "warm_of_one_step": ({"schedule": "constant"}, 10, 1, {0: 1, 1: 1}),
    "warm_to_the_end": ({"schedule": "cosine"}, 4, 4, {0: 0.25, 3: 0.8125, 4: 1, 5: 0, 6: 0}),
    "step": (
        {"schedule": "step", "step_at": (0.5, 0.75), "step_factor": 0.1},
        20,
        0,
        {0: 1, 9: 1, 10: 0.1, 14: 0.1, 15: 0.01, 19: 0.01, 50: 0.01},
    ),
    # Fractions are of the whole run: the drop stays at 10, not 2 + 9.
    "step_warm": (
        {"schedule": "step", "step_at": (0.5,), "step_factor": 0.5},
        20,
        2,
        {0: 0.5, 1: 0.75, 2: 1, 9: 1, 10: 0.5},
    ),
    "step_twice_at_once": (
        {"schedule": "step", "step_at": (0.5, 0.5), "step_factor": 0.5},
        4,
        0,
        {1: 1, 2: 0.25},
    ),
    "step_inside_the_warm_up": (
        {"schedule": "step", "step_at": (0.1,), "step_factor": 0.5},
        20,
        4,
        {2: 0.625, 3: 0.8125, 4: 0.5},
    ),
    "step_nowhere": ({"schedule": "step", "step_at": ()}, 4, 0, {0: 1, 4: 1}),
    # (1 + cos(pi u)) / 2 at u = 0, 1/4, 1/2, 3/4, 1.
    "cosine": (
        {"schedule": "cosine"},
        8,
        0,
        {0: 1, 2: (1 + HALF) / 2, 4: 0.5, 6: (1 - HALF) / 2, 8: 0, 9: 0},
    ),
    # 0.2 + 0.8 * the same, from step 2 to 10.
    "cosine_warm_end": (
        {"schedule": "cosine", "end_factor": 0.2},
        10,
        2,
        {0: 0.5, 1: 0.75, 2: 1, 4: 0.6 + 0.4 * HALF, 6: 0.6, 10: 0.2, 11: 0.2},
    ),
    "linear": (
        {"schedule": "linear", "end_factor": 0.5},
        10,
        2,
        {0: 0.5, 1: 0.75, 2: 1, 3: 0.9375, 6: 0.75, 9: 0.5625, 10: 0.5, 30: 0.5},
    ),
    # From a fifth of the peak, as the CIFAR-10 records: 0.2 to 1 over 4, then 1 to 0.07 over 6.
    "triangle": (
        {"schedule": "linear", "warmup_factor": 0.2, "end_factor": 0.07},
        10,
        4,
        {0: 0.2, 1: 0.4, 2: 0.6, 4: 1, 7: 0.535, 9: 0.225, 10: 0.07},
    ),
    "warm_from_the_peak": (
        {"schedule": "constant", "warmup_factor": 1.0},
        4,
        2,
        {0: 1, 1: 1, 2: 1},
    ),
    # Rises over the first 0.3 * 20 = 6 steps from 0.04: half way is 0.52. Falls over 14.
    "one_cycle": (
        {"schedule": "one_cycle"},
        20,
        0,
        {0: 0.04, 3: 0.52, 6: 1, 13: 0.50005, 20: 1e-4, 21: 1e-4},
    ),
    "one_cycle_warm": (
        {"schedule": "one_cycle"},
        12,
        4,
        {0: 0.04, 1: 0.52 - 0.48 * HALF, 2: 0.52, 4: 1, 8: 0.50005, 12: 1e-4},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_by_hand(name):
    changes, total, warmup, table = SCHEDULES[name]
    at = jax.jit(optim.schedule(section(lr=1.0, **changes), total, warmup))
    for step, expected in table.items():
        rate = at(jnp.int32(step))
        assert rate.dtype == jnp.float32
        assert rate.shape == ()
        # 2e-7 absolute: float32 cosines end within an ulp of 1 of their mark.
        np.testing.assert_allclose(rate, expected, rtol=2e-6, atol=2e-7, err_msg=f"step {step}")


def test_schedule_scales_with_the_peak_and_takes_plain_ints():
    at = optim.schedule(section(lr=0.4, schedule="linear"), 10, 2)
    np.testing.assert_allclose([at(0), at(1), at(2), at(6)], [0.2, 0.3, 0.4, 0.2], rtol=1e-6)


def test_schedule_refuses_a_warm_up_longer_than_the_run():
    with pytest.raises(UsageError, match=r"optim\.warmup is 30 steps but the run has 20"):
        optim.schedule(section(), 20, 30)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UsageError, match=r"optim\.schedule='poly' is not one of"):
        optim.schedule(section(schedule="poly"), 10, 0)
