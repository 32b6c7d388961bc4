"""Edge prediction: classes, yes or no, or numbers of edges that are there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.inference.whole import infer
from graphtheta.nn.losses import LOSSES
from graphtheta.shard.shard import Shard
from graphtheta.task.base import SPLITS, count_splits
from graphtheta.task.edge_columns import (
    choose,
    edge_label,
    edge_split,
    num_relations,
    relation_column,
)
from graphtheta.task.edge_targets import EdgeTargets, ends_of, in_rounds
from graphtheta.task.metrics import MAIN_METRIC, metrics_for, summed
from graphtheta.task.pair_scorer import PairScorer

__all__ = ["BoundEdgeTask", "EdgePrediction"]

_ROUND = 1 << 15  # edges at a time, of each worker


class EdgePrediction:
    """Learn a label of edges, with an `EdgeModel`.

    Every edge carries messages, those of validation and test as well: what is hidden is the label,
    not the edge. No layer reads a label; a column that tells it, such as a rating whose sign is
    the label, must not be among the graph's `attr` or `weight`.

    Args:
        label: Which label of edges; the only one, or "y", if None.
        split: Which split of edges; the only one, or "split", if None.
        relation: Edge column that the decoder reads, of integers from 0; None: none.
        exclude_targets: Whether a mini- or cluster-batch passes no messages along its targets and
            all other edges between the same two nodes.
    """

    def __init__(
        self,
        label: str | None = None,
        split: str | None = None,
        *,
        relation: str | None = None,
        exclude_targets: bool = False,
    ) -> None:
        self.label, self.split = label, split
        self.relation, self.exclude_targets = relation, exclude_targets

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundEdgeTask:
        """See `Task.bind`."""
        return BoundEdgeTask(self, model, shard)

    def num_outputs(self, shard: Shard) -> int:
        """Return how many outputs a decoder needs."""
        label = choose("label", self.label, shard.manifest.edge_labels, "y")
        return shard.manifest.edge_labels[label].num_outputs


class BoundEdgeTask:
    """Learning a label of one graph's edges; see `BoundTask`.

    Args:
        task: Its options.
        model: An `EdgeModel`.
        shard: Storage.

    Attributes:
        spec: What the label holds.
    """

    def __init__(self, task: EdgePrediction, model: nn.Module, shard: Shard) -> None:
        manifest = shard.manifest
        label = choose("label", task.label, manifest.edge_labels, "y")
        split = choose("split", task.split, manifest.edge_splits, "split")
        self.chosen = {"label": label, "split": split}
        self.spec = manifest.edge_labels[label]
        self._model, self.messages = model, shard
        self._target, known = edge_label(shard, label)
        self._relation = None
        if task.relation is not None:
            self._relation = relation_column(shard, task.relation)
        relations = 0 if task.relation is None else num_relations(shard, task.relation)
        self._scorer = PairScorer(model, relations)
        outputs = task.num_outputs(shard)
        if self._scorer.decoder.outputs != outputs:
            raise ConfigError(
                f"task: label '{label}' ({self.spec.task}) of edges needs {outputs} outputs, the "
                f"decoder gives {self._scorer.decoder.outputs}. Make it with outputs={outputs}."
            )
        column = edge_split(shard, split)
        self._edges = {
            name: torch.nonzero((column == code) & known).flatten().cpu().numpy()
            for name, code in SPLITS.items()
        }
        self._counts = count_splits(self._edges, shard.comm)
        if not self._counts["train"]:
            raise GraphFormatError(
                f"trainer: no edge with a '{label}' label is in the training split. Mark some as "
                "train."
            )
        self._loss = LOSSES[self.spec.task]
        self.metric = MAIN_METRIC[self.spec.task]
        self._metrics = metrics_for(self.spec, shard.comm)
        self.targets = EdgeTargets(
            shard, self._edges["train"], self._loss_of, masked_edges=task.exclude_targets
        )

    def _scores(self, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> Tensor:
        at = self.messages.to_device(edges)
        return self._scorer(src, dst, None if self._relation is None else self._relation[at])

    def _loss_of(self, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> tuple[Tensor, int]:
        scores = self._scores(edges, src[:, 0], dst[:, 0])
        return self._loss(scores, self._target[self.messages.to_device(edges)])

    def check(self, outputs: Tensor) -> None:
        """See `BoundTask.check`."""
        self._scorer.check(outputs)

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics of every split that has edges; see `BoundTask.evaluate`."""
        shard = self.messages
        outputs = infer(self._model, shard)
        result = {}
        for name, edges in self._edges.items():
            if not self._counts[name]:
                continue
            scores = outputs.new_empty((len(edges), self._scorer.decoder.outputs))
            owner_locations = shard.owner_locations[ends_of(shard, edges)]
            for some, src, dst in in_rounds(owner_locations, outputs, shard, _ROUND):
                with torch.no_grad():
                    scores[some] = self._scores(edges[some], src, dst)
            target = self._target[shard.to_device(edges)]
            result[f"{name}_loss"] = summed(*self._loss(scores, target), shard.comm)
            for metric, value in self._metrics(scores, target).items():
                result[f"{name}_{metric}"] = value
        return result
