"""Loss functions, of the sums over this worker's targets and of single entries.

The loss of a step is the sum over all workers divided by the count, or the summed weight, over all
workers, so that it does not depend on how targets are distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import LabelKind
from graphtheta.runtime.numbers import need_real
from graphtheta.wording import call_text

__all__ = [
    "LOSSES",
    "NAMED_LOSSES",
    "AbsoluteError",
    "CrossEntropy",
    "Focal",
    "Huber",
    "SquaredError",
    "binary_cross_entropy",
    "cross_entropy",
    "mean_squared_error",
]


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

_OF_CLASSES: tuple[LabelKind, ...] = ("multiclass", "binary", "multilabel")


class CrossEntropy:
    """Cross-entropy of each class or yes-or-no label.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).

    Shape:
        outputs: (T, C), with targets (T,) int64; or (T, K), with targets (T, K) or (T,), of which
        -1 is unknown. Returns (T,) or (T, K).
    """

    kinds = _OF_CLASSES

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if need_real(label_smoothing, "loss: label_smoothing", is_positive=False) >= 1:
            raise ConfigError(
                f"loss: label_smoothing: expected a number in [0, 1), got {label_smoothing}. "
                "Lower it."
            )
        self.label_smoothing = label_smoothing

    __repr__ = call_text

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        if target.dtype == torch.int64:
            smoothing = self.label_smoothing
            return F.cross_entropy(outputs, target, reduction="none", label_smoothing=smoothing)
        flat = target.reshape(outputs.shape).to(outputs.dtype).clamp(min=0)
        flat = flat * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, flat, reduction="none")


class Focal:
    """Focal loss, in which targets that are predicted with confidence count less.

    It is (1 - p)^gamma times the cross-entropy, where p is the predicted probability of the target.

    Args:
        gamma: Exponent; 0 is the cross-entropy.

    Shape:
        As `CrossEntropy`.

    Source:
        Lin et al., "Focal loss for dense object detection", ICCV 2017. Its alpha is a class weight.
    """

    kinds = _OF_CLASSES

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = need_real(gamma, "loss: gamma", is_positive=False)

    __repr__ = call_text

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        losses = CrossEntropy()(outputs, target)
        # The clamp keeps gradients finite where p rounds to 1 and gamma is below 1.
        wrong = -torch.expm1(-losses)
        return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** self.gamma * losses


class SquaredError:
    """Squared error of each number.

    Shape:
        outputs: (T, K). target: (T, K), or (T,) for one output. Returns (T, K).
    """

    kinds: tuple[LabelKind, ...] = ("regression",)

    __repr__ = call_text

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self._of_difference(outputs - target.reshape(outputs.shape).to(outputs.dtype))

    def _of_difference(self, difference: Tensor) -> Tensor:
        return difference**2


class AbsoluteError(SquaredError):
    """Absolute error of each number; shapes as for `SquaredError`."""

    def _of_difference(self, difference: Tensor) -> Tensor:
        return difference.abs()


class Huber(SquaredError):
    """Huber loss of each number: half the squared error up to delta, and linear beyond.

    Args:
        delta: Error at which the loss becomes linear.

    Source:
        Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 1964.
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = need_real(delta, "loss: delta", is_positive=True)

    def _of_difference(self, difference: Tensor) -> Tensor:
        zeros = torch.zeros_like(difference)
        return F.huber_loss(difference, zeros, reduction="none", delta=self.delta)


NAMED_LOSSES: dict[str, Any] = {
    "cross-entropy": CrossEntropy,
    "focal": Focal,
    "mse": SquaredError,
    "mae": AbsoluteError,
    "huber": Huber,
}
