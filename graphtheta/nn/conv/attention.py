"""Base class of attention layers with several heads."""

from __future__ import annotations

from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.tgar import TGARLayer, keep

__all__ = ["AttentionLayer", "require_heads"]


class AttentionLayer(TGARLayer):
    """Layer whose messages are weighted by a softmax over a node's in-edges, one for each head.

    Args:
        out_channels: Columns of each head (C).
        heads: Number of heads (K).
        concat: Whether to concatenate the heads; if False, they are averaged.
        dropout: Probability of dropping an attention coefficient.
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read.
    """

    aggregator = "softmax"

    def __init__(
        self, out_channels: int, *, heads: int, concat: bool, dropout: float, edge_dim: int | None
    ) -> None:
        super().__init__()
        require_heads(type(self).__name__, heads)
        self.heads, self.channels, self.concat = heads, out_channels, concat
        self.dropout, self.edge_dim = dropout, edge_dim

    def by_head(self, x: Tensor) -> Tensor:
        """Return (R, K C) as (R, K, C)."""
        return x.view(-1, self.heads, self.channels)

    def join_heads(self, m: Tensor) -> Tensor:
        """Return (R, K, C) as (R, K C), or as (R, C) without concat."""
        return m.flatten(1) if self.concat else m.mean(1)

    def drop_coefficients(self, message: Tensor) -> Tensor:
        """Drop attention coefficients, which are factors of the messages, per edge and head."""
        if not self.dropout:
            return message
        return message * keep(self.dropout, self.heads).unsqueeze(-1)


def require_heads(where: str, heads: int, channels: int | None = None) -> None:
    """Raise a ConfigError if there is no head, or the heads do not divide the channels.

    Args:
        where: Layer or model, for the message.
        heads: Number of heads.
        channels: Columns of all heads together, if they are given.
    """
    if heads < 1:
        raise ConfigError(f"{where}: expected heads >= 1, got {heads}. Give at least one.")
    if channels is not None and channels % heads:
        raise ConfigError(
            f"{where}: expected out_channels to be a multiple of heads = {heads}, got {channels}. "
            "Change one of them."
        )
