"""GIN: graph isomorphism network (Xu et al., ICLR 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.tgar import TGARLayer

__all__ = ["GINConv"]


class GINConv(TGARLayer):
    """h_i = MLP((1 + eps) h_i + sum of h_j over j in N(i)).

    Parameter names equal PyG's `GINConv`.

    Args:
        mlp: Module on (M, F), without torch's dropout and batch normalisation.
        eps: Initial value of eps.
        train_eps: Whether eps is learned.

    Shape:
        h: (M, F). Returns (M, O), the output of `mlp`.
    """

    eps: Tensor

    def __init__(self, mlp: nn.Module, *, eps: float = 0.0, train_eps: bool = False) -> None:
        super().__init__()
        self.nn = mlp
        if train_eps:
            self.eps = nn.Parameter(torch.full((1,), eps))
        else:
            self.register_buffer("eps", torch.full((1,), eps))

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        message: Tensor = src["h"]
        return message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        result: Tensor = self.nn((1 + self.eps) * n["h"] + m)
        return result
