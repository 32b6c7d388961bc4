"""Sums over neighbours with symmetric normalisation: GCN, GCNII, and without parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.conv.order import projects_first
from graphtheta.nn.conv.weights import is_sampled_by_weight, reads_weights
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear
from graphtheta.tgar import LayerView, TGARLayer
from graphtheta.tgar.layer import require_rows

__all__ = ["GCN2Conv", "GCNConv", "PropagateConv"]


class PropagateConv(TGARLayer):
    """h_i = sum over j in N(i) and i itself of w_ij h_j / sqrt(d_i d_j), without parameters.

    w is the edge column `weight`, or 1 without weights; that of a self-loop which the graph does
    not have is 1. d is the sum of w over in-edges and the self-loop in the whole graph, in any
    batch that is not renormalised. If in-edges are sampled, each counts in-degree / fan-out times,
    so that the expectation of the sum is that over all in-edges; edges that are sampled by weight
    count sum of weights / fan-out each.

    Args:
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        add_self_loops: Whether i itself is part of the sum, and the graph's own self-loops are
            replaced. If None, if the sum is normalised.
        normalize: Whether to divide by sqrt(d_i d_j).
        improved: Whether self-loops that the graph does not have weigh 2 instead of 1.

    Raises:
        ConfigError: If self-loops are added to a sum that is not normalised, or improved ones are
            not added; when called, if the weights of a node's in-edges have a negative sum, which
            has no square root.

    Shape:
        h: (M, F). Returns (M, F).
    """

    aggregator = "sum"
    self_loops = True
    node_columns: tuple[str, ...] = ("in_degree",)
    own_loop_columns = True
    cast_edge_columns = ("weight",)

    def __init__(
        self,
        *,
        weighted: bool | None = None,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        improved: bool = False,
    ) -> None:
        super().__init__()
        if add_self_loops and not normalize:
            raise ConfigError(
                f"{type(self).__name__}: expected add_self_loops=True with normalize=True only, "
                "got normalize=False. Leave add_self_loops out."
            )
        self.weighted, self.normalize = weighted, normalize
        self.divides_by_degrees = normalize
        self.self_loops = normalize if add_self_loops is None else add_self_loops
        if improved and not self.self_loops:
            raise ConfigError(
                f"{type(self).__name__}: expected self-loops with improved=True, which are added "
                "to a normalised sum, got none. Leave improved out."
            )
        self.improved = improved
        self._added: Tensor | None = None  # to the weight of each input's self-loop
        self._is_weighted = False
        self._edges_per_draw: Tensor | None = None
        self._loop_weight: Tensor | None = None
        self._is_drawn: Tensor | None = None  # rows whose edges were sampled by weight

    def forward(self, view: LayerView, h: Any) -> Tensor:
        self._is_weighted = reads_weights(view, self.weighted)
        degree = "in_weight" if self._is_weighted else "in_degree"
        self.node_columns = (degree,) if self.normalize else ()
        self._edges_per_draw, self._loop_weight = view.edges_per_draw(), None
        self._is_drawn = None
        if self.improved:
            loops = view.node_column("in_degree", self_loops=False) + 1
            loops = loops - view.node_column("in_degree", self_loops=True)
            self._added = (loops == 0).double()
        if self._is_weighted and self._edges_per_draw is not None:
            if self.self_loops:
                self._loop_weight = view.loop_column("weight", own=True)
            if is_sampled_by_weight(view):
                self._is_drawn = self._drawn_by_weight(view, self._edges_per_draw)
        out: Tensor = super().forward(view, h)
        return out

    def _drawn_by_weight(self, view: LayerView, edges_per_draw: Tensor) -> Tensor:
        """Return which rows were sampled, and set what each of their edges counts: (I,) bool."""
        block, shard, rows = view.block, view.shard, len(edges_per_draw)
        degree = block.of_inputs(shard.node_column("in_degree"))[:rows].clamp(min=1)
        total = block.of_inputs(shard.in_weight(loopless=False))[:rows]
        assert block.fanout is not None
        drawn = (edges_per_draw > 1) | block.fanout.replace  # else all edges of the row are there
        self._edges_per_draw = torch.where(drawn, total * edges_per_draw / degree, 1.0)
        return nn.functional.pad(drawn, (0, block.num_inputs - rows))

    def transform(self, h: Tensor, node: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        fields = {"z": h, **self._scale(h, node or {})}
        if self._is_drawn is not None:
            fields["drawn"] = self._is_drawn.to(h.dtype).unsqueeze(-1)
        return fields

    def _scale(self, h: Tensor, node: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return 1 / sqrt(d) of each node, if the sum is normalised."""
        if not node:
            return {}
        (degree,) = node.values()
        loops = int(self.self_loops)
        if self._added is not None:
            degree = degree + self._added
        if "in_weight" in node and (degree < 0).any():
            raise ConfigError(
                f"gcn: expected weights of in-edges that sum to {-loops} or more for each node, "
                f"got {degree.min() - loops:.4g}. Use weights of at least 0, or do not read them "
                "(weighted=False, --no-weighted)."
            )
        scale = degree.to(h.dtype).rsqrt()
        if "in_weight" in node or not loops:
            scale = scale.masked_fill(degree == 0, 0)
        return {"scale": scale.unsqueeze(-1)}

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        # Scaled per edge: scaling rows of z would need another pass over all nodes.
        factors = [src["scale"] * dst["scale"]] if self.normalize else []
        if self._is_weighted:
            weight = edge["weight"].unsqueeze(-1)
            if self._is_drawn is not None:  # such an edge was drawn by its weight instead
                weight = weight * (1 - dst["drawn"]) + dst["drawn"]
            factors.append(weight)
        message: Tensor = src["z"]
        return message * math.prod(factors[1:], start=factors[0]) if factors else message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        m = m if self._edges_per_draw is None else self._expected_sum(n, m, self._edges_per_draw)
        if self._added is None:
            return m
        added = self._added[: len(m)].to(m.dtype).unsqueeze(-1)
        return m + n["z"] * (added * n["scale"].square())

    def _expected_sum(self, n: dict[str, Tensor], m: Tensor, edges_per_draw: Tensor) -> Tensor:
        """Return the sum over all in-edges whose sampled ones have the sum m."""
        count = edges_per_draw.to(m.dtype).unsqueeze(-1)
        if not self.self_loops:
            return m * count
        # The self-loop is part of the sum but is never sampled, so it counts once.
        loop = in_sum = torch.ones_like(count)
        if self._loop_weight is not None:
            loop = in_sum = self._loop_weight.to(m.dtype).unsqueeze(-1)
        if self._is_drawn is not None:
            in_sum = loop * (1 - n["drawn"]) + n["drawn"]
        scale = n["scale"].square() if self.normalize else 1
        return m * count - n["z"] * (scale * (in_sum * count - loop))


class GCNConv(PropagateConv):
    """h_i = sum over j in N(i) and i itself of w_ij W h_j / sqrt(d_i d_j), plus a bias.

    Weights, degrees and sampled edges are those of `PropagateConv`. W is applied before or after
    the sum, whichever costs less. Parameter names and results equal PyG's `GCNConv`.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result.
        bias: Whether to add a bias.
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        add_self_loops: As for `PropagateConv`.
        normalize: As for `PropagateConv`.
        improved: As for `PropagateConv`. PyG ignores it for edges without weights.

    Raises:
        ConfigError: As for `PropagateConv`.

    Shape:
        h: (M, in_channels). Returns (M, out_channels).

    Source:
        Kipf, Welling, ICLR 2017.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        weighted: bool | None = None,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        improved: bool = False,
    ) -> None:
        super().__init__(
            weighted=weighted,
            add_self_loops=add_self_loops,
            normalize=normalize,
            improved=improved,
        )
        self.lin = Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._project_first = False
        glorot(self.lin.weight)

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        wide = (self.lin.in_features, self.lin.out_features)
        self._project_first = projects_first(view, h, *wide)
        return super().forward(view, h)

    def transform(self, h: Tensor, node: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        return super().transform(self.lin(h) if self._project_first else h, node)

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        m = super().apply_node(n, m)
        h = m if self._project_first else self.lin(m)
        return h if self.bias is None else h.add_(self.bias)  # not saved for backward


class GCN2Conv(PropagateConv):
    """GCNII: s_i = (1 - alpha) p_i + alpha h0_i, and h_i = (1 - beta) s_i + beta s_i W.

    p is the sum that `PropagateConv` returns, and h0 the input of the first layer of the model.
    beta = log(theta / layer + 1). Parameter names and results equal PyG's `GCN2Conv`.

    Args:
        channels: Columns of h, h0 and the result (F).
        alpha: Share of h0.
        theta: Strength of W; if None, beta is 1.
        layer: Number of the layer in the model, from 1.
        shared_weights: Whether h0 has the same W as p, instead of one of its own.
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        add_self_loops: As for `PropagateConv`.
        normalize: As for `PropagateConv`.

    Raises:
        ConfigError: If theta is given without layer, or as for `PropagateConv`.

    Shape:
        forward(view, h, h0): h (M, F); h0 (M, F), or more rows in a batch: those of any earlier
        layer. If h0 is left out, it is h. Returns (M, F).

    Source:
        Chen, Wei, Huang, Ding, Li, ICML 2020.
    """

    def __init__(
        self,
        channels: int,
        alpha: float = 0.1,
        theta: float | None = None,
        layer: int | None = None,
        *,
        shared_weights: bool = True,
        weighted: bool | None = None,
        add_self_loops: bool | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__(weighted=weighted, add_self_loops=add_self_loops, normalize=normalize)
        if theta is not None and (layer is None or layer < 1 or theta <= 0):
            raise ConfigError(
                f"GCN2Conv: expected theta > 0 with layer >= 1, got {theta} and {layer}. Number "
                "the layers of the model from 1."
            )
        self.alpha = alpha
        self.beta = 1.0 if theta is None or layer is None else math.log(theta / layer + 1)
        self.weight1 = nn.Parameter(torch.empty(channels, channels))
        self.weight2 = None if shared_weights else nn.Parameter(torch.empty(channels, channels))
        for weight in (self.weight1, self.weight2):
            if weight is not None:
                glorot(weight)

    def forward(self, view: LayerView, h: Tensor, h0: Tensor | None = None) -> Tensor:
        rows = view.block.num_inputs
        initial = h if h0 is None else h0
        require_rows(view, type(self).__name__, h)
        view.carry(initial)  # checks its rows
        return super().forward(view, (h, initial[:rows]))

    def transform(self, h: Any, node: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        rows, initial = h
        return {**super().transform(rows, node), "h0": initial}

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        own, initial = (1 - self.alpha) * super().apply_node(n, m), self.alpha * n["h0"]
        if self.weight2 is None:
            return self._mapped(own + initial, self.weight1)
        return self._mapped(own, self.weight1) + self._mapped(initial, self.weight2)

    def _mapped(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.addmm(x, x, weight, beta=1 - self.beta, alpha=self.beta)
