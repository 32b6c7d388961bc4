"""Heterogeneous graph attention network (Wang, Ji, Shi et al., WWW 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.comm.timers import Stage
from graphtheta.data.types import Relation
from graphtheta.exchange.autograd import all_reduce_sum
from graphtheta.nn.conv.attention import AttentionLayer, require_heads
from graphtheta.nn.hetero import join_relations, run_by_relation
from graphtheta.nn.init import glorot
from graphtheta.nn.typed_linear import TypedLinear
from graphtheta.tgar import LayerView, ViewModule

__all__ = ["HANConv"]


class _RelationAttention(AttentionLayer):
    """relu(sum over j of softmax_j(leaky_relu(a_s z_j + a_d z_i)) z_j) on one relation.

    Args:
        out_channels: Columns of each head.
        heads: Number of heads.
        negative_slope: Slope of leaky_relu for negative scores.
        dropout: Probability of dropping an attention coefficient.
    """

    def __init__(
        self, out_channels: int, *, heads: int, negative_slope: float, dropout: float
    ) -> None:
        super().__init__(out_channels, heads=heads, concat=True, dropout=dropout, edge_dim=None)
        self.negative_slope = negative_slope
        self.lin_src = nn.Parameter(torch.empty(1, heads, out_channels))
        self.lin_dst = nn.Parameter(torch.empty(1, heads, out_channels))
        glorot(self.lin_src)
        glorot(self.lin_dst)

    def transform(self, z: Tensor) -> dict[str, Tensor]:
        z = self.by_head(z)
        return {"z": z, "a": (z * self.lin_src).sum(-1), "b": (z * self.lin_dst).sum(-1)}

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        score = F.leaky_relu(src["a"] + dst["b"], self.negative_slope)
        return score, self.drop_coefficients(src["z"])

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        return F.relu(m.flatten(1))


class HANConv(ViewModule):
    """Attention over the neighbours of each relation, then over the relations.

    Every relation gives a node one vector, by attention over its in-edges. The vectors of the
    relations that end in a type are averaged with weights that are the same for all nodes of the
    type: softmax over relations of q . mean over nodes of tanh(W v + b). In a batch, the mean is
    over the nodes of the batch. Equal to PyG's `HANConv`, except that types in which no relation
    ends keep their rows (or, if the widths differ, get zeros), where PyG drops them.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result: a multiple of heads.
        metadata: Names of the node types, and the relations, of the graph: `shard.metadata`.
        heads: Number of heads.
        negative_slope: Slope of leaky_relu for negative scores.
        dropout: Probability of dropping an attention coefficient.

    Shape:
        h: (I, in_channels). Returns (O, out_channels).

    Communication:
        For each relation that of an attention layer, and one all-reduce of out_channels + 1 numbers
        per relation.
    """

    is_graph_layer = True
    has_statistics = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        metadata: tuple[Sequence[str], Sequence[Relation | tuple[str, str, str]]],
        *,
        heads: int = 1,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_heads("HANConv", heads, out_channels)
        self.relations, self.dropout = tuple(Relation.of(one) for one in metadata[1]), dropout
        self.proj = TypedLinear(in_channels, out_channels, len(metadata[0]))
        self.attention = nn.ModuleList(
            _RelationAttention(
                out_channels // heads, heads=heads, negative_slope=negative_slope, dropout=dropout
            )
            for _ in self.relations
        )
        self.k_lin = nn.Linear(out_channels, out_channels)
        self.q = nn.Parameter(torch.empty(1, out_channels))
        glorot(self.q)

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        """Return the new rows of the outputs; collective."""
        z = self.proj(h, view.node_column("node_type", self_loops=False))
        found, rows = run_by_relation("HANConv", view, z, self.relations, self.attention)
        scores = self._scores(view, found)
        joined = {
            name: (scores[name].softmax(0).to(h.dtype)[:, None, None] * torch.stack(results)).sum(0)
            for name, results in found.items()
        }
        return join_relations(view, h, joined, rows)

    def _scores(self, view: LayerView, found: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        """Return the score of each relation, by destination type: (relations,) float64."""
        every = [result for results in found.values() for result in results]
        sums = torch.stack([torch.tanh(self.k_lin(x)).double().sum(0) for x in every])
        counts = sums.new_tensor([len(x) for x in every])[:, None]
        token, total = all_reduce_sum(
            torch.cat([sums, counts], 1), view.view.token, view.channel, Stage("norm", view.layer)
        )
        view.view.token = token
        means = total[:, :-1] / total[:, -1:].detach().clamp(min=1)
        scores = (self.q.double() * means).sum(1)
        numbers = [len(results) for results in found.values()]
        return dict(zip(found, torch.split(scores, numbers), strict=True))
