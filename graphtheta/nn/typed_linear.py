"""Linear maps with weights of their own for each node type."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["TypedLinear"]


class TypedLinear(nn.Module):
    """Linear map x W_t^T + b_t, where t is the type of the row.

    Args:
        in_channels: Columns of x.
        out_channels: Columns of the result.
        num_types: Number of types (T).
        bias: Whether to add b_t.

    Shape:
        weight: (T, out, in), as `torch.nn.Linear` has it for each type. bias: (T, out).
    """

    def __init__(
        self, in_channels: int, out_channels: int, num_types: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_types, out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(num_types, out_channels)) if bias else None
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(in_channels), 1 / math.sqrt(in_channels))

    def forward(self, x: Tensor, node_type: Tensor) -> Tensor:
        """Return the result.

        Args:
            x: (R, in_channels).
            node_type: (R,) integers, the type of each row.
        """
        num_types = len(self.weight)
        if num_types == 1:
            return nn.functional.linear(
                x, self.weight[0], None if self.bias is None else self.bias[0]
            )
        order = torch.argsort(node_type, stable=True)
        counts = torch.bincount(node_type, minlength=num_types).tolist()
        parts = [
            nn.functional.linear(some, weight, None if self.bias is None else self.bias[number])
            for number, (some, weight) in enumerate(
                zip(torch.split(x.index_select(0, order), counts), self.weight, strict=True)
            )
        ]
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        return torch.cat(parts).index_select(0, inverse)

    def extra_repr(self) -> str:
        num_types, out_channels, in_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, num_types={num_types}"
