"""Losses and metrics of labels, computed over all workers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.nn.losses import LOSSES
from graphtheta.partition.store.manifest import LabelKind, LabelSpec
from graphtheta.task.auroc import area_under_curve, round_scores

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["MAIN_METRIC", "MainMetric", "main_metric", "mean_loss", "metrics_for"]

_IGNORED = -1


@dataclass(frozen=True)
class MainMetric:
    """Metric for early stopping and for the choice of the best epoch."""

    name: str
    higher_is_better: bool = True


MAIN_METRIC: dict[LabelKind, MainMetric] = {
    "multiclass": MainMetric("accuracy"),
    "binary": MainMetric("auroc"),
    "multilabel": MainMetric("f1"),
    "regression": MainMetric("rmse", higher_is_better=False),
}


def main_metric(spec: LabelSpec) -> MainMetric:
    """Return the main metric of a label; that of two classes is the metric of binary labels."""
    return MAIN_METRIC["binary" if _has_two_classes(spec) else spec.task]


def _has_two_classes(spec: LabelSpec) -> bool:
    return spec.task == "multiclass" and spec.num_classes == 2


def _metrics_of(task: LabelKind, classes: int, **sync: Any) -> dict[str, Metric]:
    # Imported only when it is used: torchmetrics takes as long to load as torch, since it also
    # loads scipy and matplotlib if they are installed.
    import torchmetrics.classification as of_classes
    from torchmetrics import MeanAbsoluteError, MeanSquaredError

    if task == "multiclass":
        return {
            "accuracy": of_classes.MulticlassAccuracy(classes, average="micro", **sync),
        }  # its macro F1 makes a matrix of all pairs of classes; `_macro_f1` does not
    if task == "binary":
        return {
            "accuracy": of_classes.BinaryAccuracy(**sync),
            "f1": of_classes.BinaryF1Score(**sync),
            "precision": of_classes.BinaryPrecision(**sync),
            "recall": of_classes.BinaryRecall(**sync),
        }
    if task == "multilabel":
        return {
            "f1": of_classes.MultilabelF1Score(classes, average="micro", **sync),
            "accuracy": of_classes.MultilabelAccuracy(classes, average="micro", **sync),
        }
    return {"rmse": MeanSquaredError(squared=False, **sync), "mae": MeanAbsoluteError(**sync)}


def mean_loss(loss: Tensor, count: float, comm: Communicator) -> float:
    """Return the mean loss over all workers from this worker's sum and count; collective.

    The count may be a summed weight. The mean is NaN if there is none.
    """
    sums = np.array([float(loss), count], np.float64)
    comm.all_reduce(sums, stage="evaluate loss")
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _macro_f1(outputs: Tensor, labels: Tensor, comm: Communicator) -> float:
    """Return the mean F1 score of the classes that are labels or predictions; collective.

    Shape:
        outputs: (T, C). labels: (T,).
    """
    classes, predicted = outputs.shape[1], outputs.argmax(1)
    right = labels[predicted == labels]
    kinds = (right, predicted, labels)
    counts = torch.stack([torch.bincount(kind, minlength=classes) for kind in kinds]).cpu().numpy()
    comm.all_reduce(counts, stage="metrics")
    hits, either = torch.from_numpy(counts[0]), torch.from_numpy(counts[1] + counts[2])
    occurs = either > 0
    return float((2 * hits[occurs] / either[occurs] / occurs.sum()).sum())


def metrics_for(spec: LabelSpec, comm: Communicator) -> Callable[..., dict[str, float]]:
    """Return a function from (outputs, targets) of each worker to loss and metrics of all workers.

    The function is collective: every worker calls it, also with no rows. It takes the sum of this
    worker's loss and its count or weight as a third argument, if the loss is not that of the
    label's kind. AUROC and average precision are left out if a class has no rows. Labels of two
    classes have the metrics of binary labels, of the difference of their two logits.

    Shape:
        outputs: (T, C) logits, (T, 1) for binary labels. targets: (T,) or (T, K).

    Communication:
        That of `area_under_curve` for AUROC, and a few counters per class for other metrics.
    """

    def gather(state: Tensor, group: Any = None) -> list[Tensor]:
        rows = state.detach().cpu().reshape(-1, *state.shape[1:]).contiguous()
        blocks = comm.all_gather(rows.numpy(), stage="metrics")
        tensors = [torch.from_numpy(block).to(state.device) for block in blocks]
        return tensors if state.dim() else [tensor[0] for tensor in tensors]

    sync: dict[str, Any] = {} if spec.task == "regression" else {"ignore_index": _IGNORED}
    if comm.size > 1:
        sync |= {"dist_sync_fn": gather, "distributed_available_fn": lambda: True}
    has_two = _has_two_classes(spec)
    task: LabelKind = "binary" if has_two else spec.task
    metrics = _metrics_of(task, spec.num_classes, **sync)

    def compute(
        outputs: Tensor, targets: Tensor, loss: tuple[Tensor, float] | None = None
    ) -> dict[str, float]:
        total, count = LOSSES[spec.task](outputs, targets) if loss is None else loss
        mean = mean_loss(total, count, comm)
        result = {} if math.isnan(mean) else {"loss": mean}
        if has_two:
            outputs = outputs[:, 1] - outputs[:, 0]
        if task in ("binary", "regression"):
            outputs = outputs.reshape(targets.shape)
        if task == "binary":
            positive = targets.bool()
            areas = area_under_curve(
                round_scores(outputs[positive]), round_scores(outputs[~positive]), comm
            )
            if not math.isnan(areas.roc):
                result |= {"auroc": areas.roc, "average_precision": areas.precision}
        if task in ("binary", "multilabel"):
            # torchmetrics would take logits for probabilities if all of them were in [0, 1].
            outputs = (outputs > 0).long()
        labels = targets if task == "regression" else targets.long()
        f1 = _macro_f1(outputs, labels, comm) if task == "multiclass" else None
        if task != "regression" and not len(labels):
            # torchmetrics refuses empty updates, so update it with a row that it ignores.
            outputs = outputs.new_zeros((1, *outputs.shape[1:]))
            labels = labels.new_full((1, *labels.shape[1:]), _IGNORED)
        for name, metric in metrics.items():
            metric.to(outputs.device).reset()
            metric.update(outputs.detach(), labels)
            result[name] = float(metric.compute())
        return result if f1 is None else result | {"f1": f1}

    return compute
