"""Prediction of loss curves from learning rates, and schedules that minimise the final loss."""

from graphtheta.loss_law.curves import LossCurve, read_curve
from graphtheta.loss_law.law import FitError, MultiPowerLaw, fit_law
from graphtheta.loss_law.law_file import LawFile
from graphtheta.loss_law.optimise import best_schedule

__all__ = [
    "FitError",
    "LawFile",
    "LossCurve",
    "MultiPowerLaw",
    "best_schedule",
    "fit_law",
    "read_curve",
]
