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
        mlp: A module on (M, F), without dropout or batch norm of torch's own.
        eps: Initial weight of the node itself, beyond 1.
        train_eps: Whether eps is a parameter.

    Shape:
        h: (M, F). Returns what `mlp` returns.
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
        """Send the node's value."""
        message: Tensor = src["h"]
        return message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        """Combine and transform."""
        result: Tensor = self.nn((1 + self.eps) * n["h"] + m)
        return result
