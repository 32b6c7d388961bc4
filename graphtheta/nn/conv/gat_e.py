"""GAT-E: graph attention with edge attributes in score and message.

GraphTheta's in-house layer for edge-attributed graphs; the paper names it without an equation, so
this is the natural extension of GAT (design, reference notes section 7).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphtheta.nn.conv.gat import GATConv
from graphtheta.nn.init import glorot

__all__ = ["GATEConv"]


class GATEConv(GATConv):
    """GAT whose message from j over edge e is W h_j + U e, and whose score reads e as well.

    Args:
        in_channels: Columns of h.
        out_channels: Columns a head (C).
        edge_dim: Columns of the edge column `attr`.
        options: As of `GATConv`.

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
        """Send the projections of the source and of the edge, weighted by attention."""
        from_edge = self.lin_message(edge["attr"]).view(-1, self.heads, self.channels)
        return self.score(src, dst, edge), self.dropped(src["z"] + from_edge)
