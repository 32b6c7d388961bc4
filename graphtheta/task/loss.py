"""Loss of a task: a function of outputs and labels, weighed by classes and by rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn.losses import LOSSES, NAMED_LOSSES, CrossEntropy, SquaredError
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.task.class_weights import ClassWeight, class_weights

__all__ = ["LossFunction", "TaskLoss", "check_row_weights"]

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Any]]


class TaskLoss:
    """Weighted sum of the losses of this worker's targets, and the sum of the weights.

    The mean loss of a step is the first sum divided by the second, each over all workers.

    Args:
        spec: Label that is predicted.
        loss: A key of `NAMED_LOSSES`; or a function from outputs and labels to the loss of each
            row or entry, or to (sum, weight) of this worker's rows. If None, the cross-entropy of
            classes or the squared error of numbers.
        class_weight: Weights for `class_weights`. If None, 1.
        counts: Result of `class_counts` for the training targets.
        row_weights: Weight of each row of the shard. If None, 1.

    Shape:
        row_weights: (M,) of masters or (E,) of edges.

    Raises:
        ConfigError: If an option does not fit the label.
    """

    def __init__(
        self,
        spec: LabelSpec,
        loss: str | LossFunction | None,
        class_weight: ClassWeight | None,
        counts: NDArray[np.int64] | None,
        row_weights: Tensor | None = None,
    ) -> None:
        self._kind, self._loss = spec.task, _function(loss, spec)
        self._row_weights, self._class_weights = row_weights, None
        if class_weight is not None:
            self._class_weights = class_weights(class_weight, spec, counts)
        if self._loss is None and (class_weight is not None or row_weights is not None):
            self._loss = SquaredError() if spec.task == "regression" else CrossEntropy()

    def __call__(self, outputs: Tensor, target: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        """Return the weighted sum of the losses, and the sum of the weights.

        Shape:
            outputs: (T, C). target: (T,) or (T, K). rows: (T,) int64 rows of the shard.
        """
        if self._loss is None:
            return LOSSES[self._kind](outputs, target)
        found = self._loss(outputs, target)
        if isinstance(found, tuple):
            return self._checked_sums(found)
        losses, count = found, len(target)
        if not isinstance(found, Tensor) or found.dim() not in (1, 2) or len(found) != count:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"loss: expected a loss for each of {count} rows, or a sum and a weight, got "
                f"{got}. Use reduction='none', without a mean."
            )
        is_unknown = None
        if target.dtype == torch.int8 and losses.numel() == target.numel():
            is_unknown = (target < 0).reshape(losses.shape)
            losses = losses.masked_fill(is_unknown, 0)
        if self._class_weights is None and self._row_weights is None:
            unknown = 0 if is_unknown is None else int(is_unknown.sum())
            return losses.sum(), losses.numel() - unknown
        weights = self._weights(losses, target, rows)
        if is_unknown is not None:
            weights = weights.masked_fill(is_unknown, 0)
        return (losses * weights.to(losses.dtype)).sum(), float(weights.sum())

    def _weights(self, losses: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the weight of each entry of the losses, in float64."""
        weights = torch.ones(losses.shape, dtype=torch.float64, device=losses.device)
        if self._row_weights is not None:
            of_rows = self._row_weights[rows].double()
            weights *= of_rows.reshape(-1, *(1,) * (losses.dim() - 1))
        if self._class_weights is not None:
            table = self._class_weights = self._class_weights.to(losses.device)
            if self._kind == "multilabel":
                of_classes = torch.where(target > 0, table[:, 1], table[:, 0])
            else:
                of_classes = table[target.reshape(-1).long()]
            if of_classes.numel() != losses.numel():
                raise ConfigError(
                    f"loss: expected a loss for each label, as class weights need, got "
                    f"{list(losses.shape)}. Return {list(target.shape)}, or leave the class "
                    "weights out."
                )
            weights *= of_classes.reshape(losses.shape)
        return weights

    def _checked_sums(self, sums: tuple[Any, ...]) -> tuple[Tensor, float]:
        """Return the sum and the weight of a function that returns both."""
        if self._class_weights is not None or self._row_weights is not None:
            raise ConfigError(
                "loss: expected the loss of each row, as weights of classes or rows need, got a "
                "sum and a weight. Return the losses, or leave the weights out."
            )
        is_pair = len(sums) == 2 and isinstance(sums[0], Tensor) and sums[0].dim() == 0
        weight = float(sums[1]) if is_pair else -1.0
        if not 0 <= weight < float("inf"):
            raise ConfigError(
                "loss: expected a sum and a weight >= 0 of this worker's rows, got "
                f"{'a weight of ' + str(weight) if is_pair else 'another tuple'}. Correct it."
            )
        return sums[0], weight


def _function(loss: str | LossFunction | None, spec: LabelSpec) -> LossFunction | None:
    """Return a loss function; None for that of the label's kind."""
    if isinstance(loss, str):
        need_name(loss, NAMED_LOSSES, "loss (--loss)")
        loss = NAMED_LOSSES[loss]()
    if loss is not None and not callable(loss):
        raise ConfigError(
            f"loss: expected a name or a function, got {type(loss).__name__}. Use one of "
            f"{', '.join(NAMED_LOSSES)}, or a function of outputs and labels."
        )
    kinds = getattr(loss, "kinds", (spec.task,))
    if spec.task not in kinds:
        fitting = [name for name, cls in NAMED_LOSSES.items() if spec.task in cls.kinds]
        raise ConfigError(
            f"loss (--loss): expected one for a {spec.task} label, got {loss!r}. Choose among "
            f"{', '.join(fitting)}."
        )
    return loss


def check_row_weights(
    weights: Tensor, name: str, train: Tensor | None, used: Tensor, comm: Communicator
) -> None:
    """Check the weights of rows; collective.

    Args:
        weights: Column of the weights.
        name: Its name.
        train: Rows of the training split, of which one must have a weight. If None, not checked.
        used: Rows of all splits.
        comm: The workers.

    Raises:
        ConfigError: If it is not a column of numbers, one is negative or not finite, or those of
            all training rows are 0.
    """
    if weights.dim() != 1 or weights.is_complex():
        raise ConfigError(
            f"loss weight (--loss-weight): expected a number for each row in '{name}', got "
            f"{list(weights.shape[1:])}. Choose a column of numbers."
        )
    values = weights[used].double()
    bad = values[~((values >= 0) & (values < torch.inf))]
    of_train = 1.0
    if train is not None:
        of_train = float(weights[train].double().clamp(min=0).nan_to_num().sum())
    found = np.array([len(bad), of_train])
    comm.all_reduce(found, stage="check weights")
    if found[0]:
        example = f", such as {float(bad[0])}" if len(bad) else ""
        raise ConfigError(
            f"loss weight (--loss-weight): expected finite numbers >= 0 in '{name}', got "
            f"{int(found[0]):,} others{example}. Correct them."
        )
    if not found[1]:
        raise ConfigError(
            f"loss weight (--loss-weight): expected a weight above 0 in '{name}' for some row of "
            "the training split, got none. Choose another column."
        )
