"""Optimisers, schedules of the learning rate, clipping, and updates of learned rows."""

from graphtheta.optim.clipping import clip_gradients
from graphtheta.optim.learning_rate import LearningRate, TorchSchedule
from graphtheta.optim.optimizers import OPTIMIZERS, make_optimizer
from graphtheta.optim.row_optimizer import RowOptimizer
from graphtheta.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Linear,
    RateList,
    Schedule,
    StepDecay,
    WarmupStableDecay,
    read_rates,
)

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Constant",
    "Cosine",
    "LearningRate",
    "Linear",
    "RateList",
    "RowOptimizer",
    "Schedule",
    "StepDecay",
    "TorchSchedule",
    "WarmupStableDecay",
    "clip_gradients",
    "make_optimizer",
    "read_rates",
]
