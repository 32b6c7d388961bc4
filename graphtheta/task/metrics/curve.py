"""Exact curves of scores that are distributed over the workers: areas, precision and recall."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.exchange.rows import send_rows

__all__ = ["CurveAreas", "ScoreCurve", "area_under_curve", "round_scores"]

_STAGE = "area under curve"
_SAMPLES = 256


class CurveAreas(NamedTuple):
    """Areas under curves of a yes-or-no prediction.

    Attributes:
        roc: Area under the ROC curve: the share of pairs in which a positive scores higher than a
            negative, where a tie counts half.
        precision: Average precision: the mean over positives of the precision among all scores
            that are at least as high.
    """

    roc: float
    precision: float


def round_scores(scores: Tensor) -> NDArray[np.float64]:
    """Round scores to multiples of 64 units in the last place, of 1 for scores below 1.

    Scores that differ only by the rounding of sums are then equal, so that ties are the same on
    any number of workers.

    Shape:
        scores: (R,). Returns (R,) float64.
    """
    values = scores.double().cpu().numpy()
    _, exponent = np.frexp(values)
    unit = 64 * torch.finfo(scores.dtype).eps * 2.0 ** np.maximum(exponent, 0)
    rounded: NDArray[np.float64] = np.round(values / unit) * unit
    return rounded


class ScoreCurve:
    """Positives and negatives at or above each score, over all workers.

    Each worker sorts one range of the scores, chosen so that the ranges are about equally
    large. Construction and all methods are collective; results are NaN if there are no positives or
    no negatives on any worker.

    Args:
        positive: Scores of this worker's positives.
        negative: Scores of this worker's negatives.
        comm: The workers.

    Communication:
        256 numbers from each worker to all, and every score to one worker.
    """

    def __init__(
        self, positive: NDArray[np.float64], negative: NDArray[np.float64], comm: Communicator
    ) -> None:
        self._comm = comm
        scores = np.concatenate([positive, negative]) + 0.0  # turns -0 into 0
        is_positive = np.arange(len(scores)) < len(positive)
        at = np.linspace(0, max(len(scores) - 1, 0), min(_SAMPLES, len(scores))).astype(np.int64)
        samples = np.sort(np.concatenate(comm.all_gather(np.sort(scores)[at], stage=_STAGE)))
        cuts = samples[np.arange(1, comm.size) * len(samples) // comm.size if len(samples) else []]
        rows = np.stack([scores.view(np.int64), is_positive.astype(np.int64)], axis=1)
        received = send_rows(comm, np.searchsorted(cuts, scores, side="right"), rows, stage=_STAGE)
        bits, classes = np.concatenate(received).T
        mine = np.ascontiguousarray(bits).view(np.float64)
        self._values, inverse = np.unique(mine, return_inverse=True)
        self._positives = np.bincount(inverse, classes, len(self._values)).astype(np.int64)
        self._negatives = np.bincount(inverse, minlength=len(self._values)) - self._positives
        counts = np.array([self._positives.sum(), self._negatives.sum()])
        totals = comm.all_gather(counts, stage=_STAGE)
        self._all_positives, self._all_negatives = np.sum(totals, axis=0).tolist()
        lower = np.sum([np.zeros(2, np.int64), *totals[: comm.rank]], axis=0)  # in lower ranges
        positives_below = lower[0] + np.cumsum(self._positives) - self._positives
        self._negatives_below = lower[1] + np.cumsum(self._negatives) - self._negatives
        self._hits = self._all_positives - positives_below  # at or above each value
        self._misses = self._all_negatives - self._negatives_below
        self.has_both = bool(self._all_positives and self._all_negatives)

    def areas(self) -> CurveAreas:
        """Return the areas under the ROC curve and the curve of precision and recall."""
        pairs = self._positives * (2 * self._negatives_below + self._negatives)
        sums = np.array([pairs.sum() / 2, (self._positives * self._precision()).sum()])
        self._comm.all_reduce(sums, stage=_STAGE)
        if not self.has_both:
            return CurveAreas(float("nan"), float("nan"))
        return CurveAreas(
            sums[0] / (self._all_positives * self._all_negatives), sums[1] / self._all_positives
        )

    def best_recall(self, precision: float) -> float:
        """Return the highest recall at a threshold with at least this precision; 0 if none has."""
        return self._highest(self._recall()[self._precision() >= precision])

    def best_precision(self, recall: float) -> float:
        """Return the highest precision at a threshold with at least this recall."""
        return self._highest(self._precision()[self._recall() >= recall])

    def best_threshold(self) -> float:
        """Return the threshold of the highest F1 score, and of equal ones the highest.

        It is halfway between two scores. Scores at or above it are predicted as positive.
        """
        f1 = 2 * self._hits / np.maximum(self._hits + self._misses + self._all_positives, 1)
        largest = self._values[-1] if len(self._values) else -np.inf
        below = np.max(self._comm.all_gather(np.array([largest]), stage=_STAGE)[: self._comm.rank],
                       initial=-np.inf)  # fmt: skip
        best = np.array([-1.0, -np.inf, -np.inf])
        if len(f1):
            at = len(f1) - 1 - int(np.argmax(f1[::-1]))
            best[:] = f1[at], self._values[at], self._values[at - 1] if at else below
        found = max(map(tuple, self._comm.all_gather(best, stage=_STAGE)))
        if not self.has_both:
            return float("nan")
        _, value, lower = found
        return float((value + lower) / 2) if np.isfinite(lower) else float(value) - 1

    def _precision(self) -> NDArray[np.float64]:
        return np.asarray(self._hits / np.maximum(self._hits + self._misses, 1))

    def _recall(self) -> NDArray[np.float64]:
        return np.asarray(self._hits / max(self._all_positives, 1))

    def _highest(self, values: NDArray[np.float64]) -> float:
        found = np.array([values.max(initial=0.0)])
        self._comm.all_reduce(found, "max", stage=_STAGE)
        return float(found[0]) if self.has_both else float("nan")


def area_under_curve(
    positive: NDArray[np.float64], negative: NDArray[np.float64], comm: Communicator
) -> CurveAreas:
    """Return the areas under the ROC curve and the curve of precision and recall; collective.

    Args:
        positive: Scores of this worker's positives.
        negative: Scores of this worker's negatives.
        comm: The workers.

    Returns:
        Two numbers in [0, 1], or NaN if there are no positives or no negatives on any worker.

    Communication:
        That of `ScoreCurve`.
    """
    return ScoreCurve(positive, negative, comm).areas()
