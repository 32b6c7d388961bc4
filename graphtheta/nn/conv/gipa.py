"""GIPA: general information propagation, with bit-wise attention.

Source: Zheng et al., arXiv 2105.06035; bit-wise attention (one coefficient per channel): Li et al.,
arXiv 2301.08209.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.errors import ConfigError
from graphtheta.nn.conv.attention import require_heads
from graphtheta.nn.init import glorot
from graphtheta.nn.linear import Linear, linear
from graphtheta.tgar import TGARLayer, keep

__all__ = ["GIPAConv"]


class GIPAConv(TGARLayer):
    """h_i = W_agg norm(sum over j in N(i) of a_ij * p_j) + W_dst h_i + b, where p_j = W_src h_j.

    The coefficients a_ij are softmax_j(leaky_relu(A_src h_j + A_dst h_i + A_edge u_ij)) with the
    encoded edge u_ij = relu(W_edge e_ij + b_edge). With bit-wise attention there is one for each of
    the K C channels, else one for each head. norm normalises each head over its channels, then
    scales and shifts it.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result (O).
        edge_dim: Columns of the edge column `attr` (e).
        channels: Columns of each head (C) of a message.
        heads: Number of heads (K).
        edge_channels: Columns of an encoded edge (u).
        bitwise: Whether each channel has its own coefficient, or each head.
        softmax: Whether coefficients are normalised by a softmax, so that those of a node sum to 1.
        norm: Whether to normalise the heads.
        negative_slope: Slope of leaky_relu for negative scores.
        dropout: Probability of dropping a head's coefficients on an edge.

    Shape:
        h: (M, in_channels). Returns (M, O).

    Raises:
        ConfigError: If norm is set and heads have one channel, which would become zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        edge_dim: int,
        channels: int,
        heads: int = 1,
        edge_channels: int = 16,
        bitwise: bool = True,
        softmax: bool = True,
        norm: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_heads("GIPAConv", heads)
        if norm and channels < 2:
            raise ConfigError(
                f"GIPAConv: expected channels >= 2 to normalise a head, got {channels}. Use more "
                "channels, or norm=False."
            )
        self.aggregator = "softmax" if softmax else "sum"
        self.heads, self.channels, self.bitwise, self.norm = heads, channels, bitwise, norm
        self.negative_slope, self.dropout = negative_slope, dropout
        width = heads * channels
        scores = width if bitwise else heads
        self.lin_src = Linear(in_channels, width, bias=False)
        self.att_src = Linear(in_channels, scores, bias=False)
        self.att_dst = Linear(in_channels, scores, bias=False)
        self.lin_edge = nn.Linear(edge_dim, edge_channels)
        self.att_edge = nn.Linear(edge_channels, scores, bias=False)
        if norm:
            self.scale = nn.Parameter(torch.ones(heads, channels))
            self.shift = nn.Parameter(torch.zeros(heads, channels))
        self.lin_agg = Linear(width, out_channels)
        self.lin_dst = Linear(in_channels, out_channels, bias=False)
        for module in self.children():
            assert isinstance(module, nn.Linear)
            glorot(module.weight)

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        z = self.lin_src(h).view(-1, self.heads, self.channels)
        return {"h": h, "z": z, "a": self.att_src(h), "b": self.att_dst(h)}

    def gather(self, src: Any, dst: Any, edge: Any) -> Any:
        encoded = F.relu(self.lin_edge(edge["attr"]))
        score = F.leaky_relu(src["a"] + dst["b"] + self.att_edge(encoded), self.negative_slope)
        if self.bitwise:
            score = score.view(-1, self.heads, self.channels)
        message = src["z"]
        if self.dropout:
            message = message * keep(self.dropout, self.heads).unsqueeze(-1)
        if self.aggregator == "softmax":
            return score, message
        return message * (score if self.bitwise else score.unsqueeze(-1))

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        if self.norm:
            m = F.layer_norm(m, (self.channels,)) * self.scale + self.shift
        return linear(n["h"], self.lin_dst.weight, self.lin_agg(m.flatten(1)))
