"""Exact areas under the curves of scores that are distributed over the workers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.exchange.rows import send_rows

__all__ = ["CurveAreas", "area_under_curve", "round_scores"]

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


def area_under_curve(
    positive: NDArray[np.float64], negative: NDArray[np.float64], comm: Communicator
) -> CurveAreas:
    """Return the areas under the ROC curve and the curve of precision and recall; collective.

    Each worker sorts one range of the scores, chosen so that the ranges are about equally
    large.

    Args:
        positive: Scores of this worker's positives.
        negative: Scores of this worker's negatives.
        comm: The workers.

    Returns:
        Two numbers in [0, 1], or NaN if there are no positives or no negatives on any worker.

    Communication:
        256 numbers from each worker to all, and every score to one worker.
    """
    scores = np.concatenate([positive, negative]) + 0.0  # turns -0 into 0
    is_positive = np.arange(len(scores)) < len(positive)
    at = np.linspace(0, max(len(scores) - 1, 0), min(_SAMPLES, len(scores))).astype(np.int64)
    samples = np.sort(np.concatenate(comm.all_gather(np.sort(scores)[at], stage=_STAGE)))
    cuts = samples[np.arange(1, comm.size) * len(samples) // comm.size if len(samples) else []]
    rows = np.stack([scores.view(np.int64), is_positive.astype(np.int64)], axis=1)
    received = send_rows(comm, np.searchsorted(cuts, scores, side="right"), rows, stage=_STAGE)
    bits, classes = np.concatenate(received).T
    mine = np.ascontiguousarray(bits).view(np.float64)
    values, inverse = np.unique(mine, return_inverse=True)
    positives = np.bincount(inverse, classes, len(values)).astype(np.int64)
    negatives = np.bincount(inverse, minlength=len(values)) - positives
    totals = comm.all_gather(np.array([positives.sum(), negatives.sum()]), stage=_STAGE)
    all_positives, all_negatives = np.sum(totals, axis=0).tolist()
    lower = np.sum([np.zeros(2, np.int64), *totals[: comm.rank]], axis=0)  # in ranges before this
    positives_below = lower[0] + np.cumsum(positives) - positives
    negatives_below = lower[1] + np.cumsum(negatives) - negatives
    hits, misses = all_positives - positives_below, all_negatives - negatives_below  # at or above
    sums = np.array(
        [
            (positives * (2 * negatives_below + negatives)).sum() / 2,
            (positives * hits / np.maximum(hits + misses, 1)).sum(),
        ]
    )
    comm.all_reduce(sums, stage=_STAGE)
    if not all_positives or not all_negatives:
        return CurveAreas(float("nan"), float("nan"))
    return CurveAreas(sums[0] / (all_positives * all_negatives), sums[1] / all_positives)
