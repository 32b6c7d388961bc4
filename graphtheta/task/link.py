"""Link prediction: existence of edges, learned from those of the training split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.inference.whole import infer
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.shard.shard import Shard
from graphtheta.shard.subset import with_edges
from graphtheta.shard.target_columns import TargetColumn, target_column
from graphtheta.task.base import SPLITS, count_splits
from graphtheta.task.candidates import ALL_NODES, Candidates, endpoints, node_kinds
from graphtheta.task.class_weights import ClassWeight
from graphtheta.task.edge_columns import edge_column, num_relations, relation_column
from graphtheta.task.edge_targets import EdgeTargets, Negatives, fetch_endpoints
from graphtheta.task.link_metrics import LinkMetrics
from graphtheta.task.loss import LossFunction, TaskLoss, check_row_weights
from graphtheta.task.metrics import Metrics
from graphtheta.task.negatives import Corrupted, check_negatives
from graphtheta.task.pair_scorer import PairScorer
from graphtheta.task.ranking import Ranking
from graphtheta.task.twins import count_twins, twin_warning
from graphtheta.tgar import ParallelEdges
from graphtheta.wording import call_text

__all__ = ["BoundLinkTask", "LinkPrediction"]

_CHUNK = 1 << 15  # pairs of each worker that are scored at a time: edges and their negatives


class LinkPrediction:
    """Task of predicting whether an edge exists, with an `EdgeModel`.

    Edges of the training split are the targets. Edges of the validation and test splits carry no
    messages and count in no degree, as if the graph did not have them. Edges of no split only carry
    messages.

    In a mini-batch or cluster-batch the targets of a step carry no messages in it, nor do other
    edges between the same two nodes, in both directions and of any relation: they would reveal the
    target, which has no such edges at test time. In a global batch all training edges carry
    messages, since they are all targets.

    An edge of the validation or test split is easy to predict if another edge between the same two
    nodes carries messages, such as its reverse. A warning counts these edges; `split_pairs` removes
    the messages.

    In a graph of several relations, the edges of one of them are predicted. Edges of its reverse
    (`rev_<name>`, or the relation that it reverses) between the same two nodes as an edge of the
    validation or test split carry no messages either. With several node types, an endpoint is
    compared with the nodes of its type.

    Metrics are the area under the ROC curve against one negative per edge, the same negatives in
    each evaluation, and the filtered mean reciprocal rank and hits (`graphtheta.task.ranking`).
    Other metrics are those of yes-or-no labels, of edges and these negatives.

    Args:
        split: Name of the edge split. If None, "split" or the only one.
        target_relation: Relation whose edges to predict, in a graph of several, such as
            `user-rates-item`. If None, that of the split. With it, the name of the split may be
            plain.
        relation: Name of an edge column of integers from 0 that the decoder reads. If None, none.
        negatives: Negative samples for each target.
        corrupt: Endpoint that negatives replace: "dst", "src", or "both" (one of them at random).
        exclude_targets: Whether targets carry no messages in their step, as described above.
        candidates: Nodes that edges are compared with, in negatives and ranks: the name of a node
            column for those of the same kind; "all" for all nodes; or None for those with the same
            role in the edges of the graph (`graphtheta.task.candidates`). If None and there is a
            relation, the role in its edges counts for the area under the curve only; ranks, and
            negatives in training with `ranking`, are over all nodes, as is the standard for
            knowledge graphs.
        validation_messages: Whether edges of the validation split carry messages when the test
            split is evaluated.
        split_pairs: Whether edges between the same two nodes as an edge of the validation or test
            split, in either direction and of any relation, carry no messages and are no targets.
        ranking: Whether to compute ranks, which scores all candidates for each edge of the
            validation and test splits. If False, early stopping uses the area under the ROC curve.
        loss: Loss function, as for `NodePrediction` with a yes-or-no label. A function takes the
            scores of T edges (column 0) and their negatives (other columns), and which exist, both
            (T, 1 + negatives). If None, the cross-entropy.
        class_weight: Weights of negatives ("false", 0) and edges ("true", 1) in the loss;
            "balanced" gives an edge the weight of all its negatives. If None, 1.
        loss_weight: Name of an edge column, or of a label of numbers, >= 0 that weigh an edge and
            its negatives in the loss. If None, 1.
        metrics: Metrics of each split, in addition to the loss: "auc", "mrr" and "hits@N" with any
            number, and names and objects as for `NodePrediction`. If None, "auc", "mrr" and hits@1,
            3 and 10. Without a rank among them and in `monitor`, none is computed.
        monitor: Metric of the validation split that chooses the best epoch, or "loss". If None,
            "mrr", or without ranks "auc".

    Raises:
        ConfigError: If an option is wrong.

    Communication:
        When it is bound, 24 bytes for each pair of nodes that a worker holds edges between, and 8
        bytes for each pair and each other worker with edges between the same nodes, so that twins
        are found exactly on any number of workers; and that of `Candidates`.
    """

    def __init__(
        self,
        split: str | None = None,
        *,
        target_relation: Relation | str | None = None,
        relation: str | None = None,
        negatives: int = 1,
        corrupt: Corrupted = "both",
        candidates: str | None = None,
        exclude_targets: bool = True,
        validation_messages: bool = False,
        split_pairs: bool = False,
        ranking: bool = True,
        loss: str | LossFunction | None = None,
        class_weight: ClassWeight | None = None,
        loss_weight: str | None = None,
        metrics: Metrics | None = None,
        monitor: str | None = None,
    ) -> None:
        check_negatives(negatives, corrupt)
        self.split, self.target_relation, self.relation = split, target_relation, relation
        self.negatives, self.corrupt, self.candidates = negatives, corrupt, candidates
        self.exclude_targets, self.validation_messages = exclude_targets, validation_messages
        self.split_pairs, self.ranking = split_pairs, ranking
        self.loss, self.class_weight, self.loss_weight = loss, class_weight, loss_weight
        self.metrics, self.monitor = metrics, monitor

    __repr__ = call_text

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundLinkTask:
        return BoundLinkTask(self, model, shard, seed)

    def num_outputs(self, shard: Shard) -> int:
        """Return the number of outputs that the decoder needs: one."""
        return 1

    def split_column(self, shard: Shard) -> TargetColumn:
        """Return the edge split, and the relation that it is of.

        Raises:
            ConfigError: If there is no such split, or several to choose from.
        """
        return target_column(shard.manifest, "edges", "split", self.split, self.target_relation)

    def message_shard(self, shard: Shard, *, validation: bool = False) -> Shard:
        """Return the shard of the edges that carry messages; collective.

        Args:
            shard: Shard with all edges.
            validation: Whether edges of the validation split carry messages.
        """
        return with_edges(shard, self.carries_messages(shard, validation=validation))

    def carries_messages(
        self, shard: Shard, *, validation: bool = False, pairs: ParallelEdges | None = None
    ) -> NDArray[np.bool_]:
        """Return which edges carry messages; collective with `split_pairs`.

        Args:
            shard: Shard with all edges.
            validation: Whether edges of the validation split do.
            pairs: Index of the edges of the shard; if None, it is made if needed.

        Shape:
            Returns (E,) bool.
        """
        relation, split = self.split_column(shard)
        column = shard.edge_columns[f"split:{split}"].cpu().numpy()
        is_test: NDArray[np.bool_] = column == SPLITS["test"]
        shown = column == SPLITS["val"] if validation else np.zeros_like(is_test)
        hidden = is_test | (column == SPLITS["val"])
        reverse = _reverse_of(shard, relation)
        if self.split_pairs or reverse is not None:
            pairs = pairs or ParallelEdges(shard, shard.comm)
            of_reverse = np.zeros_like(is_test)
            if reverse is not None:
                of_reverse[shard.edges_of(reverse)] = True
            allowed = np.ones_like(is_test) if self.split_pairs else of_reverse

            def between(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
                """Return which edges join the same nodes as one of these, on any worker."""
                found: NDArray[np.bool_] = np.zeros_like(is_test)
                found[pairs.of(np.flatnonzero(edges), shard.comm)] = True
                return found

            hidden |= between(hidden) & allowed
            if validation:
                shown |= between(shown) & of_reverse
                shown &= ~(between(is_test) & allowed)
        carried: NDArray[np.bool_] = shown | ~hidden
        return carried


def _reverse_of(shard: Shard, relation: str) -> Relation | None:
    """Return the reverse of a relation, if the graph has it: `rev_<name>` is that of `<name>`."""
    source, name, destination = Relation.of(relation)
    for other in (f"rev_{name}", name.removeprefix("rev_")):
        reverse = Relation(destination, other, source)
        if other != name and reverse in shard.relations:
            return reverse
    return None


class BoundLinkTask:
    """Prediction of the edges of one graph.

    Args:
        task: Options.
        model: An `EdgeModel`.
        shard: Graph to train on.
        seed: Random seed for negatives.

    Attributes:
        spec: A binary label: whether the edge exists.
        warnings: A warning about twins, if there are any.
    """

    spec = LabelSpec(task="binary", num_classes=2)

    def __init__(self, task: LinkPrediction, model: nn.Module, shard: Shard, seed: int) -> None:
        relation, split = task.split_column(shard)
        self.resolved = {"split": split}
        if len(shard.relations) > 1:
            self.resolved = {"relation": relation, **self.resolved}
        self._task, self._model, self._shard = task, model, shard
        relations = 0 if task.relation is None else num_relations(shard, task.relation)
        self._scorer = PairScorer(model, relations)
        if self._scorer.decoder.outputs != 1:
            raise ConfigError(
                f"task: expected a decoder with one output, as links need, got "
                f"{self._scorer.decoder.outputs}. Give it outputs=1."
            )
        column = shard.edge_columns[f"split:{split}"]
        self._edges = {
            name: torch.nonzero(column == SPLITS[name]).flatten().cpu().numpy()
            for name in ("val", "test")
        }
        self.counts = count_splits(self._edges, shard.comm)
        pairs = ParallelEdges(shard, shard.comm)
        messages = task.carries_messages(shard, pairs=pairs)
        test_messages = messages
        if task.validation_messages:
            test_messages = task.carries_messages(shard, validation=True, pairs=pairs)
        self.warnings = self._twins(pairs, {"val": messages, "test": test_messages})
        self.message_shard = self._test_shard = with_edges(shard, messages)
        if task.validation_messages:
            self._test_shard = with_edges(shard, test_messages)
        of_messages = self.message_shard.edge_columns[f"split:{split}"]
        train = torch.nonzero(of_messages == SPLITS["train"]).flatten()
        num_train = int(shard.comm.all_gather_int(len(train), stage="count targets").sum())
        self.counts = {"train": num_train, **self.counts}
        if not num_train:
            raise GraphFormatError(
                f"trainer: expected edges in the training split '{split}', got none"
                f"{' that split_pairs keeps' if task.split_pairs else ''}. Put some edges in it."
            )
        comm = shard.comm
        self._metrics = LinkMetrics(
            self.spec, task.metrics, task.monitor, comm, ranking=task.ranking
        )
        self.metric = self._metrics.main
        self._loss = self._loss_on(self.message_shard, relation, train)
        self._evaluation_loss = self._loss_on(shard, relation)
        is_one_type, column_of_kinds = len(shard.node_types) == 1, task.candidates
        if not is_one_type:
            column_of_kinds = task.candidates or ALL_NODES
        kinds = None if column_of_kinds is None else node_kinds(shard, column_of_kinds)
        by_relation = (task.relation, relations)
        if len(shard.relations) > 1:
            by_relation = ("type", len(shard.relations))
        self._candidates = candidates = Candidates(shard, *by_relation, kinds)
        of_relations = column_of_kinds is None and task.relation is not None
        if of_relations and task.ranking:
            # Ranks over all nodes need training on all nodes: a model that never sees a node as a
            # destination of a relation may rank it first.
            candidates = Candidates(shard, kinds=node_kinds(shard, ALL_NODES))
        self._negatives = Negatives(candidates, task.negatives, task.corrupt, seed)
        self._one_negative = Negatives(self._candidates, 1, task.corrupt, seed)
        masked = ParallelEdges(self.message_shard, shard.comm) if task.exclude_targets else None
        self.targets = EdgeTargets(
            self.message_shard,
            train.cpu().numpy(),
            self._loss_of,
            negatives=self._negatives,
            parallel_edges=masked,
        )
        self._ranking = None
        if self._metrics.ranks:
            everyone = is_one_type and (of_relations or task.candidates == ALL_NODES)
            self._ranking = Ranking(
                shard,
                self._relations(shard),
                max(1, relations),
                None if everyone else candidates,
                shard.edges_of(relation),
                self._metrics.ranks,
            )

    def _loss_on(self, shard: Shard, relation: str, train: Tensor | None = None) -> TaskLoss | None:
        """Return the loss of edges of a shard, or None for the cross-entropy; collective.

        Args:
            shard: Shard with the edges.
            relation: Relation that is predicted.
            train: Edges of the training split, if the shard has them; else of the others.
        """
        task, number = self._task, self.counts["train"]
        if task.loss is None and task.class_weight is None and task.loss_weight is None:
            return None
        weights = None
        if task.loss_weight is not None:
            weights = edge_column(shard, task.loss_weight, relation)
            used = train
            if used is None:
                used = shard.to_device(np.concatenate([*self._edges.values()]))
            check_row_weights(weights, task.loss_weight, train, used, shard.comm)
        counts = np.array([task.negatives * number, number])
        return TaskLoss(self.spec, task.loss, task.class_weight, counts, weights)

    def _twins(
        self, pairs: ParallelEdges, messages: dict[str, NDArray[np.bool_]]
    ) -> tuple[str, ...]:
        """Return a warning if edges of the validation or test split have twins with messages."""
        if self._task.split_pairs:
            return ()
        twins = sum(
            count_twins(pairs, self._edges[name], np.flatnonzero(of_split), self._shard.comm)
            for name, of_split in messages.items()
            if self.counts[name]
        )
        where = (
            "that carries messages and may reveal them. Split pairs of nodes instead of edges: "
            "--split-pairs, or split_pairs=True."
        )
        total = sum(self.counts[name] for name in messages)
        return twin_warning("link prediction", twins, total, where)

    def _relations(self, shard: Shard) -> NDArray[np.int64] | None:
        if self._task.relation is None:
            return None
        return relation_column(shard, self._task.relation).cpu().numpy()

    def _scores(self, shard: Shard, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> Tensor:
        """Return the scores of each edge and its negatives: (T, 1 + K)."""
        relation = None
        if self._task.relation is not None:
            of_edges = shard.edge_columns[self._task.relation][shard.to_device(edges)]
            relation = of_edges.long()[:, None]
        return self._scorer(src, dst, relation)[..., 0]

    def _loss_of(self, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> tuple[Tensor, float]:
        scores = self._scores(self.message_shard, edges, src, dst)
        return self._loss_of_scores(self._loss, scores, edges)

    def _loss_of_scores(
        self, loss: TaskLoss | None, scores: Tensor, edges: NDArray[np.int64]
    ) -> tuple[Tensor, float]:
        """Return the summed loss of edges (column 0) and negatives, and its weight."""
        if loss is None:
            return _cross_entropy(scores)
        exists = torch.zeros_like(scores, dtype=torch.bool)
        exists[:, 0] = True
        return loss(scores, exists, self._shard.to_device(edges))

    def check(self, outputs: Tensor) -> None:
        self._scorer.check(outputs)

    def evaluate(self) -> dict[str, float]:
        result: dict[str, float] = {}
        outputs = infer(self._model, self.message_shard)
        for name, edges in self._edges.items():
            if name == "test" and self._test_shard is not self.message_shard:
                outputs = infer(self._model, self._test_shard)
            if not self.counts[name]:
                continue
            found = self._loss_and_metrics(edges, outputs)
            if self._ranking is not None:
                found |= self._ranking(edges, outputs, self._scorer)
            result |= {f"{name}_{metric}": value for metric, value in found.items()}
        return result

    def report(self) -> dict[str, Any]:
        return {}

    def _loss_and_metrics(self, edges: NDArray[np.int64], outputs: Tensor) -> dict[str, float]:
        shard, comm = self._shard, self._shard.comm
        owner_locations = shard.owner_locations[endpoints(shard, edges)]
        groups = self._candidates.groups(shard, edges)
        drawn, at_source = self._one_negative.draw(
            shard.edge_key[edges], groups, comm, step=0, evaluation=True
        )
        is_drawn = np.concatenate([at_source, ~at_source], axis=1)  # source, destination
        pairs = np.stack([owner_locations, np.where(is_drawn, drawn, owner_locations)], axis=1)
        scores = outputs.new_empty((len(edges), 2))
        for some, src, dst in fetch_endpoints(pairs.reshape(-1, 2), outputs, shard, _CHUNK):
            mine = slice(some.start // 2, some.stop // 2)
            both = (rows.reshape(-1, 2, rows.shape[1]) for rows in (src, dst))
            with torch.no_grad():
                scores[mine] = self._scores(shard, edges[mine], *both)
        return self._metrics(scores, self._loss_of_scores(self._evaluation_loss, scores, edges))


def _cross_entropy(scores: Tensor) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of edges (column 0) and negatives (other columns).

    Source:
        Schlichtkrull et al., "Modeling relational data with graph convolutional networks", ESWC
        2018, eq. 7.
    """
    loss = F.softplus(-scores[:, 0]).sum() + F.softplus(scores[:, 1:]).sum()
    return loss, scores.numel()
