"""Optimizers, learning-rate schedules and averages of weights, each a pure function of the config.

An update is what an optimizer returns times minus the learning rate at the state's step, so there
is one count of steps, also where an update was skipped. Gradients are averaged over
accumulated batches by the step, not here.
"""

from imgclass.optim.averaging import averages, keeps_slow
from imgclass.optim.masks import check_patterns, frozen_modules, stop_frozen
from imgclass.optim.optimizers import create
from imgclass.optim.schedules import Schedule, schedule
from imgclass.optim.sharpness import sharpness_aware
from imgclass.optim.update import Update, make_update

__all__ = [
    "Schedule",
    "Update",
    "averages",
    "check_patterns",
    "create",
    "frozen_modules",
    "keeps_slow",
    "make_update",
    "schedule",
    "sharpness_aware",
    "stop_frozen",
]
