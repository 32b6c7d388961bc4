"""Schedule of learning rates with the lowest predicted final loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from graphtheta.loss_law.law import MultiPowerLaw

__all__ = ["best_schedule"]

_LOWEST = 1e-3  # share of the peak that the learning rate does not fall below

_Vector = NDArray[np.float64]


def best_schedule(law: MultiPowerLaw, epochs: int, peak: float, *, warmup: int = 0) -> _Vector:
    """Return the schedule that minimises the predicted loss of the last epoch.

    The learning rate rises linearly during the warm-up and never rises afterwards.

    Args:
        law: Law that was fitted to runs of the same model and data.
        epochs: Number of epochs, more than `warmup`.
        peak: Largest learning rate. The law is no guide beyond the rates of the fitted runs.
        warmup: Number of epochs before the peak.

    Returns:
        (epochs,) learning rates, between the peak and a thousandth of it after the warm-up.
    """
    rise = peak * np.arange(1, warmup + 1) / (warmup + 1)
    floor = _LOWEST * peak

    def schedule(decays: _Vector) -> _Vector:
        share = np.exp(-np.cumsum(np.concatenate([[0.0], decays])))
        return np.concatenate([rise, floor + (peak - floor) * share])

    def objective(decays: _Vector) -> tuple[float, _Vector]:
        lr = schedule(decays)
        loss, slope = _final_loss(law, lr, warmup)
        # A decay in epoch k scales what is above the floor in all epochs from k on.
        above = slope[warmup + 1 :] * (lr[warmup + 1 :] - floor)
        return loss, -np.cumsum(above[::-1])[::-1]

    length = epochs - warmup
    if length == 1:  # only the peak follows the warm-up
        return schedule(np.empty(0))
    start = np.full(length - 1, np.log(10) / max(1, length - 1))  # to a tenth of the peak
    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * (length - 1),
        options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-14, "gtol": 1e-12},
    )
    return schedule(found.x)


def _final_loss(law: MultiPowerLaw, lr: _Vector, warmup: int) -> tuple[float, _Vector]:
    """Return the predicted loss of the last epoch, and its derivative by each learning rate."""
    total = lr.sum()
    loss = law.l0 + law.a * total**-law.alpha
    slope = np.full(len(lr), -law.alpha * law.a * total ** (-law.alpha - 1))
    rate, drop = lr[warmup + 1 :], lr[warmup:-1] - lr[warmup + 1 :]
    left = np.cumsum(rate[::-1])[::-1]  # from this epoch to the last
    scale = rate**-law.gamma
    inner = law.c * scale * left + 1
    reduction = 1 - inner**-law.beta
    # Derivative of the sum of drop * reduction by the sum `left` of each term.
    steep = drop * law.beta * law.c * inner ** (-law.beta - 1) * scale
    by_rate = np.cumsum(steep) - reduction - law.gamma * steep * left / rate
    by_rate[:-1] += reduction[1:]
    loss -= law.b * float(drop @ reduction)
    slope[warmup + 1 :] -= law.b * by_rate
    if len(rate):
        slope[warmup] -= law.b * reduction[0]
    return float(loss), slope
