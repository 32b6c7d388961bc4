"""Simple-HGN: GAT with a learned vector of each relation in the score (Lv et al., KDD 2021)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.errors import ConfigError
from graphtheta.nn.conv.attention import AttentionLayer
from graphtheta.nn.conv.rgcn import require_relations
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear
from graphtheta.tgar import keep
from graphtheta.tgar.batch.view import LayerView
from graphtheta.wording import counted

__all__ = ["Attended", "SimpleHGNConv"]


class Attended(NamedTuple):
    """Rows of nodes, and the attention of the layers that made them.

    The attention coefficient of an edge is the sum over those layers of a share times a softmax of
    leaky_relu(sources_j + destinations_i + relations_r). No values of edges are kept.

    Attributes:
        h: (I, F) rows.
        sources: (I, K) score of each node as a source, for each of P layers.
        destinations: As `sources`, for destinations.
        relations: (R + 1, K) score of each relation, for each of P layers.
        shares: Share of each of P layers; their sum is 1.
    """

    h: Tensor
    sources: tuple[Tensor, ...] = ()
    destinations: tuple[Tensor, ...] = ()
    relations: tuple[Tensor, ...] = ()
    shares: tuple[float, ...] = ()


class SimpleHGNConv(AttentionLayer):
    """h_i = sum over in-edges (j, r) of the coefficient of the edge times W h_j, plus residual h_i.

    The coefficient of head k is the softmax, over the in-edges of all relations, of
    leaky_relu(a_s W h_j + a_d W h_i + a_e W_r e_r), where e_r is a learned vector of relation r,
    the edge column `type`. As in the authors' code, each node also sends a message to itself,
    by a relation of its own, the last one; the graph's own self-loops are left out.

    Called with `Attended`, the layer returns one, and its coefficients are (1 - beta) times these
    and beta times those of the layer before it, through which no gradient flows. They are computed
    again from the scores of nodes and relations, so that batches have them too. The authors carry
    them from layer to layer, which is the same if both layers have the same in-edges; if in-edges
    are sampled, or dropped, the softmax and the dropout are those of this layer's edges.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of each head (C).
        num_relations: Number of relations (R).
        edge_channels: Columns of the vector of a relation.
        heads: Number of heads (K).
        concat: Whether to concatenate the heads; if False, they are averaged.
        negative_slope: Slope of leaky_relu below 0.
        dropout: Probability of dropping an attention coefficient.
        residual: Whether to add h_i, or a linear map of it if the widths differ.
        beta: Share of the coefficients of the layer before, in [0, 1].

    Raises:
        ConfigError: If beta is out of range, or an edge of the graph has a type of R or more.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.

    Communication:
        K (C + 1) numbers per mirror; P + 1 times as many with the attention of P layers before.
    """

    self_loops = True
    earlier_relations: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_relations: int,
        edge_channels: int = 64,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.05,
        dropout: float = 0.0,
        residual: bool = True,
        beta: float = 0.05,
    ) -> None:
        super().__init__(out_channels, heads=heads, concat=concat, dropout=dropout, edge_dim=None)
        self.num_relations, self.negative_slope, self.beta = num_relations, negative_slope, beta
        if not 0 <= beta <= 1:
            raise ConfigError(f"SimpleHGNConv: expected beta in [0, 1], got {beta}.")
        self.loop_values = {"type": num_relations}
        width = heads * out_channels
        self.lin = Linear(in_channels, width, bias=False)
        self.edge_emb = nn.Parameter(torch.empty(num_relations + 1, edge_channels))
        self.lin_edge = nn.Linear(edge_channels, heads * edge_channels, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_edge = nn.Parameter(torch.empty(1, heads, edge_channels))
        self.lin_res: nn.Module | None = None
        if residual:
            same = in_channels == width
            self.lin_res = nn.Identity() if same else Linear(in_channels, width, bias=False)
        nn.init.normal_(self.edge_emb)
        for name, parameter in self.named_parameters():
            if name != "edge_emb":
                glorot(parameter)
        # Of the layers before, at the present call.
        self.register_buffer("earlier_relations", torch.empty(num_relations + 1, 0), False)
        self.shares: tuple[float, ...] = (1.0,)

    def forward(self, view: LayerView, h: Any) -> Any:
        require_relations("simple-hgn", view, self.num_relations)
        if isinstance(h, Attended) and not self.beta:
            h = Attended(h.h)  # the attention before has no share
        given = h if isinstance(h, Attended) else Attended(h)
        if any(scores.shape[1] != self.heads for scores in given.sources):
            raise ConfigError(
                f"SimpleHGNConv: expected attention of {counted(self.heads, 'head')}, got "
                f"{given.sources[0].shape[1]} from the layer before. Give both the same heads."
            )
        own = self._relation_scores()
        self.earlier_relations = torch.cat([own[:, :0].detach(), *given.relations], 1)
        carried = [self.beta * share for share in given.shares]
        self.shares = (1 - self.beta, *carried) if carried else (1.0,)
        out, sources, destinations = super().forward(view, h)
        if not isinstance(h, Attended):
            return out
        return Attended(
            out,
            sources.split(self.heads, 1),
            destinations.split(self.heads, 1),
            (own.detach(), *given.relations),
            self.shares,
        )

    def _relation_scores(self) -> Tensor:
        """Return the score of each relation: (R + 1, K)."""
        vectors = self.lin_edge(self.edge_emb).view(-1, self.heads, self.att_edge.shape[-1])
        scores: Tensor = (vectors * self.att_edge).sum(-1)
        return scores

    def transform(self, h: Tensor | Attended) -> dict[str, Tensor]:
        given = h if isinstance(h, Attended) else Attended(h)
        z = self.by_head(self.lin(given.h))
        a, b = (z * self.att_src).sum(-1), (z * self.att_dst).sum(-1)
        return {
            "h": given.h,
            "z": z,
            "a": torch.cat([a, *given.sources], 1),
            "b": torch.cat([b, *given.destinations], 1),
        }

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        relations = self._relation_scores()
        if self.earlier_relations.shape[1]:
            relations = torch.cat([relations, self.earlier_relations], 1)
        score = src["a"] + dst["b"] + relations[edge["type"].long()]
        heads, message = relations.shape[1], src["z"]
        if heads > self.heads:
            message = message.repeat(1, heads // self.heads, 1)
        if self.dropout:
            message = message * keep(self.dropout, heads).unsqueeze(-1)
        return F.leaky_relu(score, self.negative_slope), message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(self.shares) > 1:
            shares = m.new_tensor(self.shares).view(-1, 1, 1)
            m = (m.view(len(m), -1, self.heads, self.channels) * shares).sum(1)
        # New memory: backward reads m, and activations work in place.
        m = m.clone() if self.lin_res is None else m + self.by_head(self.lin_res(n["h"]))
        return self.join_heads(m), n["a"].detach(), n["b"].detach()
