"""Node prediction: classes, yes or no, several labels at once, or numbers of nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.inference.whole import infer
from graphtheta.nn.losses import LOSSES
from graphtheta.shard.shard import Shard
from graphtheta.strategy import NodeTargets
from graphtheta.task.base import SPLITS, count_splits
from graphtheta.task.metrics import MAIN_METRIC, metrics_for, summed

__all__ = ["BoundNodeTask", "NodePrediction"]


class NodePrediction:
    """Learn a label of nodes.

    Args:
        label: Which label; the only one, or "y", if None.
        split: Which split column; the only one, or "split", if None.
    """

    def __init__(self, label: str | None = None, split: str | None = None) -> None:
        self.label, self.split = label, split

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundNodeTask:
        """See `Task.bind`."""
        return BoundNodeTask(
            model, shard, self.label or shard.default_label, self.split or shard.default_split
        )


class BoundNodeTask:
    """Learning a label of one graph's nodes; see `BoundTask`.

    Args:
        model: Gives an output a class, or what the label needs.
        shard: Storage.
        label: Which label.
        split: Which split column.

    Attributes:
        spec: What the label holds.
    """

    def __init__(self, model: nn.Module, shard: Shard, label: str, split: str) -> None:
        self._model, self.messages = model, shard
        self.chosen = {"label": label, "split": split}
        self.spec = shard.label_spec(label)
        self._outputs = shard.num_outputs(label)
        self._target, known = shard.label(label)
        column = shard.split(split)
        self._rows = {
            name: torch.nonzero((column == code) & known).flatten() for name, code in SPLITS.items()
        }
        self._counts = count_splits(self._rows, shard.comm)
        if not self._counts["train"]:
            raise GraphFormatError(
                f"trainer: no node with a '{label}' label is in the training split. Mark some "
                "as train."
            )
        self._loss = LOSSES[self.spec.task]
        self.metric = MAIN_METRIC[self.spec.task]
        self._metrics = metrics_for(self.spec, shard.comm)
        self.targets = NodeTargets(shard, self._rows["train"], self._loss_of)

    def _loss_of(self, outputs: Tensor, rows: Tensor) -> tuple[Tensor, int]:
        return self._loss(outputs, self._target[rows])

    def check(self, outputs: Tensor) -> None:
        """See `BoundTask.check`."""
        if outputs.dim() != 2 or outputs.shape[1] != self._outputs:
            raise ConfigError(
                f"trainer: label '{self.chosen['label']}' ({self.spec.task}) needs {self._outputs} "
                f"outputs a node, the model gives {tuple(outputs.shape[1:])}."
            )

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics of every split that has nodes; see `BoundTask.evaluate`."""
        outputs = infer(self._model, self.messages)
        result = {}
        for name, rows in self._rows.items():
            if not self._counts[name]:
                continue
            out, target = outputs[rows], self._target[rows]
            result[f"{name}_loss"] = summed(*self._loss(out, target), self.messages.comm)
            for metric, value in self._metrics(out, target).items():
                result[f"{name}_{metric}"] = value
        return result
