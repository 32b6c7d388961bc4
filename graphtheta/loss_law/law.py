"""Law of loss curves under any schedule of learning rates, and its fit to runs.

Source: Luo et al. 2025, "A Multi-Power Law for Loss Curve Prediction Across Learning Rate
Schedules" (arXiv:2503.12811).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from graphtheta.errors import ConfigError
from graphtheta.loss_law.curves import LossCurve

__all__ = ["FitError", "MultiPowerLaw", "fit_law"]

_MOST_POINTS = 200  # of a curve that are fitted, evenly spaced
_TINY = 1e-12
# Residuals of the logarithm of the loss beyond which an epoch counts as an outlier.
_OUTLIER = 1e-3


@dataclass(frozen=True)
class MultiPowerLaw:
    """Multi-power law: the loss of each epoch from the learning rates up to it.

    With learning rates r(1), ..., r(t) and S(k, t) = r(k) + ... + r(t):

        loss(t) = l0 + a * S(1, t)^-alpha
                  - b * sum over k of (r(k-1) - r(k)) * G(r(k)^-gamma * S(k, t))
        G(x) = 1 - (c * x + 1)^-beta

    The sum goes over the epochs after the warm-up, which ends with the first epoch of the largest
    learning rate. A decay of the learning rate from r(k-1) to r(k) thus lowers the loss, the more
    the longer training continues with the lower rate.

    Attributes:
        l0: Loss that is left however long training lasts.
        a: Scale of the power law of the sum of learning rates.
        alpha: Its exponent.
        b: Scale of the reduction by decays.
        c: Speed of that reduction.
        beta: Exponent of that reduction.
        gamma: Exponent of the learning rate in it.
    """

    l0: float
    a: float
    alpha: float
    b: float
    c: float
    beta: float
    gamma: float

    def predict(
        self, lr: NDArray[np.float64], epochs: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the loss of epochs under a schedule.

        Args:
            lr: (T,) learning rate of each epoch, above 0.
            epochs: (M,) epochs to predict, counted from 0; if None, all.

        Returns:
            (M,) float64. Time and memory grow with M x T.
        """
        at = np.arange(len(lr)) if epochs is None else epochs
        total = np.cumsum(lr)
        first = int(np.argmax(lr)) + 1  # epochs before are the warm-up
        before = total[at, None] - (total - lr)[None, first:]  # (M, K): S(k, t)
        rate = np.maximum(lr[first:], _TINY)
        reached = np.maximum(before, 0) * rate**-self.gamma
        drop = lr[first - 1 : -1] - lr[first:]
        reduction = (1 - (self.c * reached + 1) ** -self.beta) @ drop
        return self.l0 + self.a * total[at] ** -self.alpha - self.b * reduction


@dataclass(frozen=True)
class FitError:
    """Difference between a predicted and a measured loss curve, after the warm-up.

    Attributes:
        name: Name of the curve.
        mean: Mean absolute error relative to the measured loss.
        largest: Largest such error of an epoch.
        predicted: Predicted loss, a mean of the last epochs (5 % of them).
        measured: Measured loss of the same epochs.
    """

    name: str
    mean: float
    largest: float
    predicted: float
    measured: float

    @classmethod
    def of(cls, law: MultiPowerLaw, curve: LossCurve) -> FitError:
        """Return the error of a law on a curve."""
        at = _fitted_epochs(curve)
        found, seen = law.predict(curve.lr, at), curve.loss[at]
        error = np.abs(found - seen) / seen
        last = slice(-max(1, len(at) // 20), None)
        return cls(
            curve.name,
            float(error.mean()),
            float(error.max()),
            float(found[last].mean()),
            float(seen[last].mean()),
        )


def fit_law(curves: Sequence[LossCurve]) -> MultiPowerLaw:
    """Fit the law to the loss curves of runs with different schedules.

    Minimises a robust loss of the difference of logarithms from several starting points, each
    curve with equal weight, and returns the best. Deterministic.

    Args:
        curves: At least one curve whose learning rate decays. More schedules determine the law
            better; the paper takes a constant, a cosine and a two-stage schedule.

    Raises:
        ConfigError: If no curve decays, a loss is not above 0, or there are too few epochs.
    """
    at = [_fitted_epochs(curve) for curve in curves]
    num_points, num_parameters = sum(map(len, at)), len(fields(MultiPowerLaw))
    if num_points < 2 * num_parameters:
        raise ConfigError(
            f"schedule: expected at least {2 * num_parameters} epochs after the warm-up in all "
            f"runs, got {num_points}. Train longer, or give more runs."
        )
    if all(np.all(np.diff(curve.lr[np.argmax(curve.lr) :]) == 0) for curve in curves):
        raise ConfigError(
            "schedule: expected a run whose learning rate decays, got constant ones only. Add a "
            "run with --schedule cosine or step."
        )
    points = [_evenly(epochs) for epochs in at]
    logs = [np.log(curve.loss[p]) for curve, p in zip(curves, points, strict=True)]
    weights = [len(p) ** -0.5 for p in points]

    def residuals(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        law = MultiPowerLaw(*np.exp(theta))
        parts = [
            weight * (np.log(np.maximum(law.predict(curve.lr, p), _TINY)) - log)
            for curve, p, log, weight in zip(curves, points, logs, weights, strict=True)
        ]
        return np.concatenate(parts)

    scale = float(np.mean(weights)) * _OUTLIER
    best = min(
        (
            least_squares(residuals, start, bounds=_BOUNDS, loss="soft_l1", f_scale=scale)
            for start in _starts(curves, points)
        ),
        key=lambda result: float(result.cost),
    )
    return MultiPowerLaw(*np.exp(best.x).tolist())


# Bounds of the logarithms of the parameters, in the order of the fields of the law. n epochs of
# rate r add n * r^(1 - gamma) to what lowers the loss, so that gamma stays below 1: otherwise the
# law would promise the whole reduction for one epoch with a rate of almost 0.
_BOUNDS = (
    np.log([1e-6, 1e-9, 1e-3, 1e-9, 1e-6, 1e-2, 1e-3]),
    np.log([1e6, 1e9, 5.0, 1e9, 1e9, 2.0, 0.9]),
)


def _starts(
    curves: Sequence[LossCurve], points: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    """Return starting points: logarithms of the parameters."""
    lowest = min(float(curve.loss[p].min()) for curve, p in zip(curves, points, strict=True))
    highest = max(float(curve.loss[p].max()) for curve, p in zip(curves, points, strict=True))
    peak = max(float(curve.lr.max()) for curve in curves)
    total = max(float(curve.lr.sum()) for curve in curves)
    starts = []
    for alpha, speed, share in product((0.3, 0.8), (1.0, 10.0), (0.02, 0.2)):
        l0 = 0.9 * lowest
        a = max(highest - l0, 1e-6) * peak**alpha
        b = max(share * lowest, 1e-6) / peak
        c = speed / (total * peak**-0.5)
        start = np.log(astuple(MultiPowerLaw(l0, a, alpha, b, c, 0.5, 0.5)))
        starts.append(np.clip(start, _BOUNDS[0] + 1e-6, _BOUNDS[1] - 1e-6))
    return starts


def _fitted_epochs(curve: LossCurve) -> NDArray[np.int64]:
    """Return the epochs of a curve with a loss, from the end of its warm-up: (M,) int64."""
    at = np.flatnonzero(np.isfinite(curve.loss))
    at = at[at >= int(np.argmax(curve.lr))]
    if len(at) and float(curve.loss[at].min()) <= 0:
        raise ConfigError(
            f"{curve.name}: expected losses above 0, got {curve.loss[at].min():g}. The law is of "
            "losses such as cross-entropy."
        )
    if not len(at):
        raise ConfigError(
            f"{curve.name}: expected epochs with a loss after the warm-up, got none. Train longer."
        )
    return at


def _evenly(epochs: NDArray[np.int64]) -> NDArray[np.int64]:
    positions = np.linspace(0, len(epochs) - 1, min(len(epochs), _MOST_POINTS))
    return epochs[np.unique(positions.round().astype(np.int64))]
