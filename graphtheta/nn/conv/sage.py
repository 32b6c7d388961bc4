"""GraphSAGE (Hamilton, Ying, Leskovec, NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from graphtheta.nn.conv.order import projects_first
from graphtheta.nn.conv.weights import (
    reads_weights,
    refuse_sampling_by_weight,
    times_weight,
)
from graphtheta.nn.linear import Linear, linear
from graphtheta.tgar import Aggregator, LayerView, Several, TGARLayer
from graphtheta.tgar.aggregators import single_aggregator

__all__ = ["SAGEConv"]


class SAGEConv(TGARLayer):
    """h_i = W_l aggregate of h_j over j in N(i), plus W_r h_i.

    Parameter names equal PyG's `SAGEConv`. With weights the aggregate is of w_ij h_j, as in PyG's
    `GraphConv`; a mean divides by the number of in-edges. With the aggregators "mean" and "sum",
    W_l is applied before or after aggregation, whichever costs less.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result.
        aggregator: "mean", "sum" (or "add"), "max", "min", "std", an `Aggregator` that keeps the
            number of columns, or several of them, whose values W_l reads side by side. May be given
            as `aggr`, its name in PyG.
        weighted: Whether to multiply messages by the edge column `weight`.
        normalize: Whether to divide each output by its length.
        root_weight: Whether to add W_r h_i.
        project: Whether to apply a linear map and ReLU to h_j first.
        bias: Whether to add a bias.

    Shape:
        h: (M, in_channels). Returns (M, out_channels).
    """

    aliases: ClassVar[dict[str, str]] = {"aggr": "aggregator"}
    cast_edge_columns = ("weight",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        aggregator: str | Aggregator | Sequence[str | Aggregator] = "mean",
        weighted: bool = False,
        normalize: bool = False,
        root_weight: bool = True,
        project: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weighted, self.normalize = weighted, normalize
        self.aggregator = single_aggregator(aggregator)
        parts = len(self.aggregator.parts) if isinstance(self.aggregator, Several) else 1
        self.lin = Linear(in_channels, in_channels) if project else None
        self.lin_l = Linear(parts * in_channels, out_channels, bias=bias)
        self.lin_r = Linear(in_channels, out_channels, bias=False) if root_weight else None
        self._project_first = False

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        wide = (self.lin_l.in_features, self.lin_l.out_features)
        self._project_first = self.aggregator in ("mean", "sum") and projects_first(view, h, *wide)
        if reads_weights(view, self.weighted):
            refuse_sampling_by_weight(view)
        out: Tensor = super().forward(view, h)
        return out

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        x = h if self.lin is None else self.lin(h).relu()
        z = linear(x, self.lin_l.weight) if self._project_first else x
        return {"h": h, "z": z}

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        message: Tensor = src["z"]
        return times_weight(message, edge) if self.weighted else message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        if not self._project_first:
            m = self.lin_l(m)
        elif self.lin_l.bias is not None:
            m = m.add_(self.lin_l.bias)  # m may be overwritten
        out = m if self.lin_r is None else linear(n["h"], self.lin_r.weight, m)
        return F.normalize(out) if self.normalize else out
