"""GraphSAGE (Hamilton, Ying, Leskovec, NeurIPS 2017)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphtheta.nn.conv.order import projects_first
from graphtheta.nn.conv.weights import (
    reads_weights,
    refuse_sampling_by_weight,
    times_weight,
)
from graphtheta.nn.linear import Linear, linear
from graphtheta.tgar import LayerView, TGARLayer

__all__ = ["SAGEConv"]


class SAGEConv(TGARLayer):
    """h_i = W_l aggregate of h_j over j in N(i), plus W_r h_i.

    Parameter names equal PyG's `SAGEConv`. With weights the aggregate is of w_ij h_j, as in PyG's
    `GraphConv`; a mean divides by the number of in-edges. With the aggregators "mean" and "sum",
    W_l is applied before or after aggregation, whichever costs less.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result.
        aggregator: "mean", "sum", "max" or "min".
        weighted: Whether to multiply messages by the edge column `weight`.

    Shape:
        h: (M, in_channels). Returns (M, out_channels).
    """

    cast_edge_columns = ("weight",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        aggregator: str = "mean",
        weighted: bool = False,
    ) -> None:
        super().__init__()
        self.aggregator, self.weighted = aggregator, weighted
        self.lin_l = Linear(in_channels, out_channels)
        self.lin_r = Linear(in_channels, out_channels, bias=False)
        self._project_first = False

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        wide = (self.lin_l.in_features, self.lin_l.out_features)
        self._project_first = self.aggregator in ("mean", "sum") and projects_first(view, h, *wide)
        if reads_weights(view, self.weighted):
            refuse_sampling_by_weight(view)
        out: Tensor = super().forward(view, h)
        return out

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        return {"h": h, "z": linear(h, self.lin_l.weight) if self._project_first else h}

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        message: Tensor = src["z"]
        return times_weight(message, edge) if self.weighted else message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        neighbours: Tensor = m.add_(self.lin_l.bias) if self._project_first else self.lin_l(m)
        return linear(n["h"], self.lin_r.weight, neighbours)  # m may be overwritten
