"""Loss functions that return (sum, count) over this worker's targets.

The loss of a step is the sum over all workers divided by the count over all workers, so that it
does not depend on how targets are distributed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from graphtheta.partition.store.manifest import LabelKind

__all__ = ["LOSSES", "binary_cross_entropy", "cross_entropy", "mean_squared_error"]


def cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of classes, and the number of targets.

    Shape:
        logits: (T, C). target: (T,) int64.
    """
    return F.cross_entropy(logits, target, reduction="sum"), target.shape[0]


def binary_cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of binary labels, and the number of labels.

    Shape:
        logits: (T, K), or (T, 1) for one label. target: (T, K) or (T,) bool; or (T, K) int8, in
        which -1 is an unknown entry that does not count.
    """
    flat = target.reshape(logits.shape).to(logits.dtype)
    if target.dtype != torch.int8:
        loss = F.binary_cross_entropy_with_logits(logits, flat, reduction="sum")
        return loss, target.numel()
    known = (target >= 0).reshape(logits.shape)
    losses = F.binary_cross_entropy_with_logits(logits, flat.clamp(min=0), known, reduction="sum")
    return losses, int(known.sum())


def mean_squared_error(outputs: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """Return the summed squared error, and the number of values.

    Shape:
        outputs: (T, K). target: (T, K), or (T,) for one output.
    """
    flat = target.reshape(outputs.shape).to(outputs.dtype)
    return F.mse_loss(outputs, flat, reduction="sum"), target.numel()


LOSSES: dict[LabelKind, Callable[[Tensor, Tensor], tuple[Tensor, int]]] = {
    "multiclass": cross_entropy,
    "binary": binary_cross_entropy,
    "multilabel": binary_cross_entropy,
    "regression": mean_squared_error,
}
