"""Edge prediction: classification or regression of existing edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError
from graphtheta.inference.whole import infer
from graphtheta.shard.shard import Shard
from graphtheta.shard.target_columns import TargetColumn, target_column
from graphtheta.task.base import SPLITS, count_splits
from graphtheta.task.candidates import endpoints
from graphtheta.task.class_weights import ClassWeight, class_counts, positive_class
from graphtheta.task.edge_columns import edge_column, num_relations, relation_column
from graphtheta.task.edge_targets import EdgeTargets, fetch_endpoints
from graphtheta.task.loss import LossFunction, TaskLoss, check_row_weights
from graphtheta.task.metrics import Metrics, Split, SplitMetrics, main_metric
from graphtheta.task.pair_scorer import PairScorer
from graphtheta.task.twins import count_twins, twin_warning
from graphtheta.tgar import ParallelEdges
from graphtheta.wording import call_text, counted

__all__ = ["BoundEdgeTask", "EdgePrediction"]

_CHUNK = 1 << 15  # edges of each worker that are scored at a time


class EdgePrediction:
    """Task of predicting a label of edges, with an `EdgeModel`.

    All edges carry messages, also those of the validation and test splits: only their labels are
    hidden. Layers never read labels, but do not use a column that determines the label (such as a
    rating whose sign is the label) as `attr` or `weight`. A warning counts the edges of the
    validation and test splits with another edge between the same two nodes in the training split.

    Args:
        label: Name of the edge label. If None, "y" or the only label.
        split: Name of the edge split. If None, "split" or the only one of the label's relation.
        target_relation: Relation whose edges to predict, in a graph of several, such as
            `user-rates-item`. If None, that of the label. With it, the name of the label may be
            plain: `stars` instead of `user-rates-item.stars`.
        relation: Name of an edge column of integers from 0 that the decoder reads. If None, none.
        exclude_targets: Whether the targets of a mini-batch or cluster-batch, and all other edges
            between the same two nodes, carry no messages in it.
        loss: Loss function, as for `NodePrediction`.
        class_weight: Weight of each class in the loss, as for `NodePrediction`.
        loss_weight: Name of an edge column, or of a label of numbers, >= 0 that weigh the edges in
            the loss. If None, 1.
        metrics: Metrics of each split, as for `NodePrediction`.
        monitor: Metric that chooses the best epoch, as for `NodePrediction`.
        positive: Class of two that is yes, as for `NodePrediction`.
    """

    def __init__(
        self,
        label: str | None = None,
        split: str | None = None,
        *,
        target_relation: Relation | str | None = None,
        relation: str | None = None,
        exclude_targets: bool = False,
        loss: str | LossFunction | None = None,
        class_weight: ClassWeight | None = None,
        loss_weight: str | None = None,
        metrics: Metrics | None = None,
        monitor: str | None = None,
        positive: str | int | None = None,
    ) -> None:
        self.label, self.split, self.target_relation = label, split, target_relation
        self.relation, self.exclude_targets = relation, exclude_targets
        self.loss, self.class_weight, self.loss_weight = loss, class_weight, loss_weight
        self.metrics, self.monitor, self.positive = metrics, monitor, positive

    __repr__ = call_text

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundEdgeTask:
        return BoundEdgeTask(self, model, shard)

    def num_outputs(self, shard: Shard) -> int:
        """Return the number of outputs that the decoder needs."""
        return shard.manifest.edge_labels[self.label_column(shard).name].num_outputs

    def label_column(self, shard: Shard) -> TargetColumn:
        """Return the label to predict.

        Raises:
            ConfigError: If there is no such label, or several to choose from.
        """
        return target_column(shard.manifest, "edges", "label", self.label, self.target_relation)


class BoundEdgeTask:
    """Prediction of a label of one graph's edges.

    Args:
        task: Options.
        model: An `EdgeModel`.
        shard: Graph to train on.

    Attributes:
        spec: Kind and size of the label.
        positive: Class of two that is yes in metrics.
        warnings: A warning about twins, if there are any.
    """

    def __init__(self, task: EdgePrediction, model: nn.Module, shard: Shard) -> None:
        manifest = shard.manifest
        relation, label = task.label_column(shard)
        split = target_column(manifest, "edges", "split", task.split, relation).name
        self.resolved = {"label": label, "split": split}
        if len(shard.relations) > 1:
            self.resolved = {"relation": relation, **self.resolved}
        self.spec = manifest.edge_labels[label]
        self._model, self.message_shard = model, shard
        self._target = shard.edge_columns[f"label:{label}"]
        known = shard.edge_columns.get(f"known:{label}", torch.tensor(True))
        self._relation = None
        if task.relation is not None:
            self._relation = relation_column(shard, task.relation)
        relations = 0 if task.relation is None else num_relations(shard, task.relation)
        self._scorer = PairScorer(model, relations)
        outputs = task.num_outputs(shard)
        if self._scorer.decoder.outputs != outputs:
            raise ConfigError(
                f"task: expected a decoder with {counted(outputs, 'output')}, as edge "
                f"label '{label}' "
                f"({self.spec.task}) needs, got {self._scorer.decoder.outputs}. Give it "
                f"outputs={outputs}."
            )
        column = shard.edge_columns[f"split:{split}"]
        self._edges = {
            name: torch.nonzero((column == code) & known).flatten().cpu().numpy()
            for name, code in SPLITS.items()
        }
        expected = f"edges with a label '{label}' in the training split '{split}'"
        self.counts = count_splits(self._edges, shard.comm, expected)
        index = {name: shard.to_device(edges) for name, edges in self._edges.items()}
        weights = None
        if task.loss_weight is not None:
            weights = edge_column(shard, task.loss_weight, relation)
            used = torch.cat(list(index.values()))
            check_row_weights(weights, task.loss_weight, index["train"], used, shard.comm)
        classes = class_counts(self._target[index["train"]], self.spec, shard.comm)
        self._loss = TaskLoss(self.spec, task.loss, task.class_weight, classes, weights)
        self.positive = yes = positive_class(self.spec, classes, task.positive)
        self.metric = main_metric(self.spec, classes, task.monitor, task.metrics, yes)
        self._metrics = SplitMetrics(self.spec, shard.comm, task.metrics, self.metric, yes)
        pairs = ParallelEdges(shard, shard.comm)
        self.warnings = self._twins(pairs)
        self.targets = EdgeTargets(
            shard,
            self._edges["train"],
            self._loss_of,
            parallel_edges=pairs if task.exclude_targets else None,
        )

    def _twins(self, pairs: ParallelEdges) -> tuple[str, ...]:
        """Return a warning if edges of the validation or test split have twins in training."""
        comm = self.message_shard.comm
        held_out = np.concatenate([self._edges[name] for name in ("val", "test")])
        twins = count_twins(pairs, held_out, self._edges["train"], comm)
        where = (
            "in the training split, whose label may reveal theirs. Put all edges between two "
            "nodes in the same split."
        )
        total = self.counts["val"] + self.counts["test"]
        return twin_warning("edge prediction", twins, total, where)

    def _scores(self, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> Tensor:
        index = self.message_shard.to_device(edges)
        return self._scorer(src, dst, None if self._relation is None else self._relation[index])

    def _loss_of(self, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> tuple[Tensor, float]:
        scores = self._scores(edges, src[:, 0], dst[:, 0])
        index = self.message_shard.to_device(edges)
        return self._loss(scores, self._target[index], index)

    def check(self, outputs: Tensor) -> None:
        self._scorer.check(outputs)

    def evaluate(self) -> dict[str, float]:
        return self._metrics.of_splits(self._splits())

    def report(self) -> dict[str, Any]:
        return self._metrics.report(self._splits())

    def _splits(self) -> Iterator[Split]:
        """Yield the scores, labels and loss of each split that has targets; collective."""
        shard = self.message_shard
        outputs = infer(self._model, shard)
        for name, edges in self._edges.items():
            if not self.counts[name]:
                continue
            scores = outputs.new_empty((len(edges), self._scorer.decoder.outputs))
            owner_locations = shard.owner_locations[endpoints(shard, edges)]
            for some, src, dst in fetch_endpoints(owner_locations, outputs, shard, _CHUNK):
                with torch.no_grad():
                    scores[some] = self._scores(edges[some], src, dst)
            index = shard.to_device(edges)
            yield name, scores, self._target[index], self._loss(scores, self._target[index], index)
