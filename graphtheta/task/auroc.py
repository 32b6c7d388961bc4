"""The area under the ROC curve, exactly, of scores that no worker holds together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.exchange.rows import send_rows

__all__ = ["area_under_curve", "settled"]

_STAGE = "area under curve"
_SAMPLES = 256


def settled(scores: Tensor) -> NDArray[np.float64]:
    """Return scores without their last 6 bits (of 1, below 1), where rounding is all they hold.

    What is equal but for the order of a sum is then a tie, on any number of workers.

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
) -> float:
    """Return how often a positive scores higher than a negative, a tie counting half; collective.

    Scores are sorted by ranges of equal size, one a worker; equal ones meet at one of them.

    Args:
        positive: Scores of this worker.
        negative: The same.
        comm: The workers.

    Returns:
        In [0, 1]; NaN without a positive or a negative on any worker.

    Communication:
        256 numbers of each worker to all, and every score once to one.
    """
    scores = np.concatenate([positive, negative]) + 0.0  # so that -0 equals 0 in every bit
    is_positive = np.arange(len(scores)) < len(positive)
    at = np.linspace(0, max(len(scores) - 1, 0), min(_SAMPLES, len(scores))).astype(np.int64)
    samples = np.sort(np.concatenate(comm.all_gather(np.sort(scores)[at], stage=_STAGE)))
    cuts = samples[np.arange(1, comm.size) * len(samples) // comm.size if len(samples) else []]
    rows = np.stack([scores.view(np.int64), is_positive.astype(np.int64)], axis=1)
    heard = send_rows(comm, np.searchsorted(cuts, scores, side="right"), rows, stage=_STAGE)
    bits, classes = np.concatenate(heard).T
    mine = np.ascontiguousarray(bits).view(np.float64)
    values, which = np.unique(mine, return_inverse=True)
    positives = np.bincount(which, classes, len(values)).astype(np.int64)
    negatives = np.bincount(which, minlength=len(values)) - positives
    totals = comm.all_gather(np.array([positives.sum(), negatives.sum()]), stage=_STAGE)
    before = sum(int(total[1]) for total in totals[: comm.rank])
    below = before + np.cumsum(negatives) - negatives
    twice = np.array([(positives * (2 * below + negatives)).sum()], np.float64)
    comm.all_reduce(twice, stage=_STAGE)
    pairs = 2 * np.prod(np.sum(totals, axis=0).astype(np.float64))
    return float(twice[0] / pairs) if pairs else float("nan")
