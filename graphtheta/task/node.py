"""Node prediction: classification, multi-label classification or regression of nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.data.types import qualified
from graphtheta.errors import ConfigError
from graphtheta.inference.whole import infer
from graphtheta.shard.shard import Shard
from graphtheta.shard.target_columns import TargetColumn, target_column
from graphtheta.strategy import NodeTargets
from graphtheta.task.base import SPLITS, count_splits
from graphtheta.task.class_weights import ClassWeight, class_counts, positive_class
from graphtheta.task.loss import LossFunction, TaskLoss, check_row_weights
from graphtheta.task.metrics import Metrics, Split, SplitMetrics, main_metric
from graphtheta.wording import call_text, counted

__all__ = ["BoundNodeTask", "NodePrediction"]


class NodePrediction:
    """Task of predicting a label of nodes.

    Args:
        label: Name of the label. If None, "y" or the only label.
        split: Name of the split column. If None, "split" or the only one of the label's node type.
        target_type: Node type to predict, in a graph of several. If None, that of the label. With
            it, the name of the label may be plain: `section` instead of `package.section`.
        loss: Loss function: a key of `NAMED_LOSSES`, an object of `graphtheta.nn.losses`, or a
            function from outputs and labels to the loss of each row or entry, or to
            (sum, weight) of these rows. If None, the cross-entropy of classes or the squared error
            of numbers. The loss of a step is the weighted sum over all workers divided by the sum
            of the weights.
        class_weight: Weight of each class in the loss: "balanced" for those that make all classes
            of the training split count the same; by name or number, 1 for others; or a list. Those
            of a multi-label are of its positive entries. If None, 1.
        loss_weight: Name of a node column, or of a label of numbers, >= 0 that weigh the rows in
            the loss. If None, 1.
        metrics: Metrics of each split, in addition to the loss: names of `METRICS` and of
            torchmetrics, such as "auroc,f1,recall@0.9precision"; a list of names and objects of
            torchmetrics; or a dictionary of these. If None, those of the label's kind.
        monitor: Metric of the validation split that chooses the best epoch, or "loss". If None,
            `accuracy`, `f1` (multi-label), `rmse`, or for yes-or-no labels `auroc`, or
            `average_precision` if less than a tenth of the training targets are positive.
        positive: Class of two that is yes in metrics: its name or number. If None, the second one,
            or the first if less than a tenth of the training targets, and only they, are of it.
    """

    def __init__(
        self,
        label: str | None = None,
        split: str | None = None,
        *,
        target_type: str | None = None,
        loss: str | LossFunction | None = None,
        class_weight: ClassWeight | None = None,
        loss_weight: str | None = None,
        metrics: Metrics | None = None,
        monitor: str | None = None,
        positive: str | int | None = None,
    ) -> None:
        self.label, self.split, self.target_type = label, split, target_type
        self.loss, self.class_weight, self.loss_weight = loss, class_weight, loss_weight
        self.metrics, self.monitor, self.positive = metrics, monitor, positive

    __repr__ = call_text

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundNodeTask:
        label = self._label(shard)
        split = target_column(shard.manifest, "nodes", "split", self.split, label.owner)
        return BoundNodeTask(self, model, shard, label, split.name)

    def num_outputs(self, shard: Shard) -> int:
        """Return the number of outputs that the model needs."""
        return shard.num_outputs(self._label(shard).name)

    def _label(self, shard: Shard) -> TargetColumn:
        return target_column(shard.manifest, "nodes", "label", self.label, self.target_type)


class BoundNodeTask:
    """Prediction of a label of one graph's nodes.

    Args:
        task: Options.
        model: Model with the number of outputs that the label needs.
        shard: Graph to train on.
        of: The label.
        split: Name of the split column.

    Attributes:
        spec: Kind and size of the label.
        positive: Class of two that is yes in metrics.
        warnings: None.
    """

    warnings: tuple[str, ...] = ()

    def __init__(
        self, task: NodePrediction, model: nn.Module, shard: Shard, of: TargetColumn, split: str
    ) -> None:
        self._model, self.message_shard, label = model, shard, of.name
        self.resolved = {"label": label, "split": split}
        self.spec = shard.label_spec(label)
        self._outputs = shard.num_outputs(label)
        self._target, known = shard.label(label)
        column = shard.split(split)
        self._rows = {
            name: torch.nonzero((column == code) & known).flatten() for name, code in SPLITS.items()
        }
        expected = f"nodes with a label '{label}' in the training split '{split}'"
        self.counts = count_splits(self._rows, shard.comm, expected)
        train = self._rows["train"]
        weights = None
        if task.loss_weight is not None:
            weights = _row_weights(shard, task.loss_weight, of.owner)
            used = torch.cat(list(self._rows.values()))
            check_row_weights(weights, task.loss_weight, train, used, shard.comm)
        classes = class_counts(self._target[train], self.spec, shard.comm)
        self._loss = TaskLoss(self.spec, task.loss, task.class_weight, classes, weights)
        self.positive = yes = positive_class(self.spec, classes, task.positive)
        self.metric = main_metric(self.spec, classes, task.monitor, task.metrics, yes)
        self._metrics = SplitMetrics(self.spec, shard.comm, task.metrics, self.metric, yes)
        self.targets = NodeTargets(shard, self._rows["train"], self._loss_of)

    def _loss_of(self, outputs: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        return self._loss(outputs, self._target[rows], rows)

    def check(self, outputs: Tensor) -> None:
        if outputs.dim() != 2 or outputs.shape[1] != self._outputs:
            raise ConfigError(
                f"trainer: expected {counted(self._outputs, 'output')} for each node, as label "
                f"'{self.resolved['label']}' ({self.spec.task}) needs, got "
                f"{tuple(outputs.shape[1:])}. Change out_channels of the model."
            )

    def evaluate(self) -> dict[str, float]:
        return self._metrics.of_splits(self._splits())

    def report(self) -> dict[str, Any]:
        return self._metrics.report(self._splits())

    def _splits(self) -> Iterator[Split]:
        """Yield the outputs, labels and loss of each split that has targets; collective."""
        outputs = infer(self._model, self.message_shard)
        for name, rows in self._rows.items():
            if self.counts[name]:
                of_rows = outputs[rows]
                yield name, of_rows, self._target[rows], self._loss_of(of_rows, rows)


def _row_weights(shard: Shard, name: str, owner: str) -> Tensor:
    """Return a column of the masters, or a label of numbers with that name, NaN where unknown."""
    manifest = shard.manifest
    label = manifest.node_type(owner).labels.get(name)
    if label is None or label.task != "regression":
        return shard.node_column(name, owner)
    values, known = shard.label(qualified(owner, name, len(manifest.node_types)))
    return values.masked_fill(~known, torch.nan) if values.dim() == 1 else values
