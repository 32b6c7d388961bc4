"""Node prediction: classification, multi-label classification or regression of nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.inference.whole import infer
from graphtheta.nn.losses import LOSSES
from graphtheta.shard.shard import Shard
from graphtheta.shard.target_columns import TargetColumn, target_column
from graphtheta.strategy import NodeTargets
from graphtheta.task.base import SPLITS, count_splits
from graphtheta.task.metrics import main_metric, metrics_for
from graphtheta.wording import call_text, counted

__all__ = ["BoundNodeTask", "NodePrediction"]


class NodePrediction:
    """Task of predicting a label of nodes.

    Args:
        label: Name of the label. If None, "y" or the only label.
        split: Name of the split column. If None, "split" or the only one of the label's node type.
        target_type: Node type to predict, in a graph of several. If None, that of the label. With
            it, the name of the label may be plain: `section` instead of `package.section`.
    """

    def __init__(
        self,
        label: str | None = None,
        split: str | None = None,
        *,
        target_type: str | None = None,
    ) -> None:
        self.label, self.split, self.target_type = label, split, target_type

    __repr__ = call_text

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundNodeTask:
        label = self._label(shard)
        split = target_column(shard.manifest, "nodes", "split", self.split, label.owner)
        return BoundNodeTask(model, shard, label.name, split.name)

    def num_outputs(self, shard: Shard) -> int:
        """Return the number of outputs that the model needs."""
        return shard.num_outputs(self._label(shard).name)

    def _label(self, shard: Shard) -> TargetColumn:
        return target_column(shard.manifest, "nodes", "label", self.label, self.target_type)


class BoundNodeTask:
    """Prediction of a label of one graph's nodes.

    Args:
        model: Model with the number of outputs that the label needs.
        shard: Graph to train on.
        label: Name of the label.
        split: Name of the split column.

    Attributes:
        spec: Kind and size of the label.
        warnings: None.
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, shard: Shard, label: str, split: str) -> None:
        self._model, self.message_shard = model, shard
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
        self._loss = LOSSES[self.spec.task]
        self.metric = main_metric(self.spec)
        self._metrics = metrics_for(self.spec, shard.comm)
        self.targets = NodeTargets(shard, self._rows["train"], self._loss_of)

    def _loss_of(self, outputs: Tensor, rows: Tensor) -> tuple[Tensor, int]:
        return self._loss(outputs, self._target[rows])

    def check(self, outputs: Tensor) -> None:
        if outputs.dim() != 2 or outputs.shape[1] != self._outputs:
            raise ConfigError(
                f"trainer: expected {counted(self._outputs, 'output')} for each node, as label "
                f"'{self.resolved['label']}' ({self.spec.task}) needs, got "
                f"{tuple(outputs.shape[1:])}. Change out_channels of the model."
            )

    def evaluate(self) -> dict[str, float]:
        outputs = infer(self._model, self.message_shard)
        result: dict[str, float] = {}
        for name, rows in self._rows.items():
            if not self.counts[name]:
                continue
            found = self._metrics(outputs[rows], self._target[rows])
            result |= {f"{name}_{metric}": value for metric, value in found.items()}
        return result
