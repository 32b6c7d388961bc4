"""GIN: graph isomorphism network (Xu et al., ICLR 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.nn.conv.weights import (
    reads_weights,
    refuse_sampling_by_weight,
    times_weight,
)
from graphtheta.tgar import LayerView, TGARLayer

__all__ = ["GINConv"]


class GINConv(TGARLayer):
    """h_i = MLP((1 + eps) h_i + sum of h_j over j in N(i)).

    Parameter names equal PyG's `GINConv`. With weights the sum is of w_ij h_j.

    Args:
        mlp: Module on (M, F), without torch's dropout and batch normalisation.
        eps: Initial value of eps.
        train_eps: Whether eps is learned.
        weighted: Whether to multiply messages by the edge column `weight`.

    Shape:
        h: (M, F). Returns (M, O), the output of `mlp`.
    """

    cast_edge_columns = ("weight",)
    eps: Tensor

    def __init__(
        self,
        mlp: nn.Module,
        *,
        eps: float = 0.0,
        train_eps: bool = False,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        self.nn, self.weighted = mlp, weighted
        if train_eps:
            self.eps = nn.Parameter(torch.full((1,), eps))
        else:
            self.register_buffer("eps", torch.full((1,), eps))

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        if reads_weights(view, self.weighted):
            refuse_sampling_by_weight(view)
        out: Tensor = super().forward(view, h)
        return out

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        message: Tensor = src["h"]
        return times_weight(message, edge) if self.weighted else message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        result: Tensor = self.nn((1 + self.eps) * n["h"] + m)
        return result
