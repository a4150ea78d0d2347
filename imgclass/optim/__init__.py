"""Optimizers, learning-rate schedules and averages of weights, each a pure function of the config.

An update is what an optimizer returns times minus the learning rate at the state's step, so there
is one count of steps, also where an update was skipped. Gradients are averaged over
accumulated batches by the step, not here.
"""

from imgclass.optim.adam import scale_by_adam
from imgclass.optim.averaging import average, averages, ema_update, keeps_slow, lookahead
from imgclass.optim.depth import layer_factors
from imgclass.optim.masks import check_patterns, decay_mask, lr_factors, stop_frozen
from imgclass.optim.muon import orthogonalize, project
from imgclass.optim.optimizers import create
from imgclass.optim.schedules import Schedule, schedule
from imgclass.optim.sharpness import sharpness_aware
from imgclass.optim.update import Update, make_update

__all__ = [
    "Schedule",
    "Update",
    "average",
    "averages",
    "check_patterns",
    "create",
    "decay_mask",
    "ema_update",
    "keeps_slow",
    "layer_factors",
    "lookahead",
    "lr_factors",
    "make_update",
    "orthogonalize",
    "project",
    "scale_by_adam",
    "schedule",
    "sharpness_aware",
    "stop_frozen",
]
