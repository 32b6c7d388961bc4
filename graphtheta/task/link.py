"""Link prediction: which edges there are, learned from some and asked of others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.inference.whole import infer
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.shard.shard import Shard
from graphtheta.shard.subset import with_edges
from graphtheta.task.auroc import area_under_curve, settled
from graphtheta.task.base import SPLITS, count_splits
from graphtheta.task.edge_columns import choose, edge_split, num_relations, relation_column
from graphtheta.task.edge_targets import EdgeTargets, Negatives, ends_of, in_rounds
from graphtheta.task.metrics import MainMetric, summed
from graphtheta.task.negatives import Corrupted, check_negatives
from graphtheta.task.pair_scorer import PairScorer
from graphtheta.task.ranking import Ranking

__all__ = ["BoundLinkTask", "LinkPrediction"]

_ROUND = 1 << 14  # edges at a time, of each worker


class LinkPrediction:
    """Tell edges from pairs of nodes that are none, with an `EdgeModel`.

    Edges of validation and test carry no messages and count in no degree, as if the graph did not
    have them. Those of the training split are the targets; edges of no split carry messages alone.
    In a mini- or cluster-batch the targets of a step carry none either, nor do any other edges
    between the same two nodes, in both directions and of every relation: one of these gives away
    that there is another, and at test there is none. A global batch passes messages along all
    training edges; without any there would be nothing to learn from.

    Metrics are the area under the ROC curve against one negative an edge, the same ones each time,
    and the filtered mean reciprocal rank and hits, see `graphtheta.task.ranking`.

    Args:
        split: Which split of edges; the only one, or "split", if None.
        relation: Edge column of integers from 0 that a link is of, for the decoder; None: none.
        negatives: Drawn for each target.
        corrupt: Which end of a target they have another node for: "dst", "src", or "both", drawn.
        exclude_targets: Whether the targets of a step carry no messages, as above.
        validation_messages: Whether edges of the validation split carry messages when those of the
            test split are asked for.
        ranking: Whether ranks are computed: all nodes are scored for each edge of validation and
            test. Without, the area under the curve is what early stopping goes by.

    Raises:
        ConfigError: If an option is wrong.
    """

    def __init__(
        self,
        split: str | None = None,
        *,
        relation: str | None = None,
        negatives: int = 1,
        corrupt: Corrupted = "both",
        exclude_targets: bool = True,
        validation_messages: bool = False,
        ranking: bool = True,
    ) -> None:
        check_negatives(negatives, corrupt)
        self.split, self.relation = split, relation
        self.negatives, self.corrupt = negatives, corrupt
        self.exclude_targets, self.validation_messages = exclude_targets, validation_messages
        self.ranking = ranking

    def bind(self, model: nn.Module, shard: Shard, seed: int) -> BoundLinkTask:
        """See `Task.bind`."""
        return BoundLinkTask(self, model, shard, seed)

    def num_outputs(self, shard: Shard) -> int:
        """Return how many outputs a decoder needs: one."""
        return 1

    def messages(self, shard: Shard, *, validation: bool = False) -> Shard:
        """Return the shard whose edges carry messages; collective.

        Args:
            shard: With all edges.
            validation: Whether those of the validation split do.
        """
        split = choose("split", self.split, shard.manifest.edge_splits, "split")
        hidden = ("test",) if validation else ("val", "test")
        column = edge_split(shard, split).cpu().numpy()
        return with_edges(shard, ~np.isin(column, [SPLITS[name] for name in hidden]))


class BoundLinkTask:
    """Learning the edges of one graph; see `BoundTask`.

    Args:
        task: Its options.
        model: An `EdgeModel`.
        shard: Storage.
        seed: Of the negatives.

    Attributes:
        spec: A link is there or not.
    """

    spec = LabelSpec(task="binary", num_classes=2)

    def __init__(self, task: LinkPrediction, model: nn.Module, shard: Shard, seed: int) -> None:
        split = choose("split", task.split, shard.manifest.edge_splits, "split")
        self.chosen = {"split": split}
        self._task, self._model, self._shard = task, model, shard
        relations = 0 if task.relation is None else num_relations(shard, task.relation)
        self._scorer = PairScorer(model, relations)
        if self._scorer.decoder.outputs != 1:
            raise ConfigError(
                f"task: a link needs one score, the decoder gives {self._scorer.decoder.outputs}. "
                "Make it with outputs=1."
            )
        column = edge_split(shard, split)
        self._edges = {
            name: torch.nonzero(column == SPLITS[name]).flatten().cpu().numpy()
            for name in ("val", "test")
        }
        self._counts = count_splits(self._edges, shard.comm)
        self.messages = task.messages(shard)
        train = torch.nonzero(edge_split(self.messages, split) == SPLITS["train"]).flatten()
        if not shard.comm.all_gather_int(len(train), stage="count targets").sum():
            raise GraphFormatError(
                f"trainer: no edge is in the training split '{split}'. Mark some as train."
            )
        self.metric = MainMetric("mrr" if task.ranking else "auc")
        self._negatives = Negatives(shard, task.negatives, task.corrupt, seed)
        self.targets = EdgeTargets(
            self.messages,
            train.cpu().numpy(),
            self._loss_of,
            negatives=self._negatives,
            masked_edges=task.exclude_targets,
        )
        self._test_messages = self.messages
        if task.validation_messages:
            self._test_messages = task.messages(shard, validation=True)
        self._ranking = None
        if task.ranking:
            self._ranking = Ranking(shard, self._relations(shard), max(1, relations))

    def _relations(self, shard: Shard) -> NDArray[np.int64] | None:
        if self._task.relation is None:
            return None
        return relation_column(shard, self._task.relation).cpu().numpy()

    def _scores(self, shard: Shard, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> Tensor:
        """Return the scores of edges and of their negatives behind each: (T, 1 + K)."""
        relation = None
        if self._task.relation is not None:
            of_edges = shard.edge_columns[self._task.relation][shard.to_device(edges)]
            relation = of_edges.long()[:, None]
        return self._scorer(src, dst, relation)[..., 0]

    def _loss_of(self, edges: NDArray[np.int64], src: Tensor, dst: Tensor) -> tuple[Tensor, int]:
        return _cross_entropy(self._scores(self.messages, edges, src, dst))

    def check(self, outputs: Tensor) -> None:
        """See `BoundTask.check`."""
        self._scorer.check(outputs)

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics of validation and test; see `BoundTask.evaluate`."""
        result: dict[str, float] = {}
        outputs = infer(self._model, self.messages)
        for name, edges in self._edges.items():
            if name == "test" and self._test_messages is not self.messages:
                outputs = infer(self._model, self._test_messages)
            if not self._counts[name]:
                continue
            found = self._beside_negatives(edges, outputs)
            if self._ranking is not None:
                found |= self._ranking(edges, outputs, self._scorer)
            result |= {f"{name}_{metric}": value for metric, value in found.items()}
        return result

    def _beside_negatives(self, edges: NDArray[np.int64], outputs: Tensor) -> dict[str, float]:
        shard, comm = self._shard, self._shard.comm
        owner_locations = shard.owner_locations[ends_of(shard, edges)]
        drawn, at_source = self._negatives.owner_locations(
            shard.edge_key[edges], comm, step=0, evaluation=True
        )
        pairs = np.stack(
            [owner_locations, np.where(_at(at_source), drawn, owner_locations)], axis=1
        )
        scores = outputs.new_empty((len(edges), 2))
        for some, src, dst in in_rounds(pairs.reshape(-1, 2), outputs, shard, 2 * _ROUND):
            mine = slice(some.start // 2, some.stop // 2)
            both = (rows.reshape(-1, 2, rows.shape[1]) for rows in (src, dst))
            with torch.no_grad():
                scores[mine] = self._scores(shard, edges[mine], *both)
        loss, count = _cross_entropy(scores)
        auc = area_under_curve(settled(scores[:, 0]), settled(scores[:, 1]), comm)
        return {"loss": summed(loss, count, comm), "auc": auc}


def _at(at_source: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which end of one negative each is drawn: (T, 2), source and destination."""
    return np.concatenate([at_source, ~at_source], axis=1)


def _cross_entropy(scores: Tensor) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of edges, in front, and negatives.

    Source:
        Schlichtkrull et al., "Modeling relational data with graph convolutional networks", ESWC
        2018, eq. 7.
    """
    loss = F.softplus(-scores[:, 0]).sum() + F.softplus(scores[:, 1:]).sum()
    return loss, scores.numel()
