"""GAT-E: graph attention with edge attributes in score and message.

The GraphTheta paper names this layer for edge-attributed graphs without giving an equation; this is
the natural extension of GAT.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphtheta.nn.conv.gat import GATConv
from graphtheta.nn.init import glorot

__all__ = ["GATEConv"]


class GATEConv(GATConv):
    """GAT in which the message from j over edge e is W h_j + U e, and the score reads e as well.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of each head (C).
        edge_dim: Columns of the edge column `attr`.
        options: Other arguments of `GATConv`.

    Shape:
        h: (M, in_channels). Returns (M, K C), or (M, C) without concat.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, edge_dim: int, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, edge_dim=edge_dim, **options)
        self.lin_message = nn.Linear(edge_dim, self.heads * out_channels, bias=False)
        glorot(self.lin_message.weight)

    def gather(self, src: Any, dst: Any, edge: Any) -> tuple[Tensor, Tensor]:
        message = src["z"] + self.by_head(self.lin_message(edge["attr"]))
        return self.score(src, dst, edge), self.drop_coefficients(message)
