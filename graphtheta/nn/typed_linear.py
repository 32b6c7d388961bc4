"""Linear maps with weights of their own for each node type."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphtheta.tgar.mixed_precision import float_rows

__all__ = ["TypedLinear"]

# Shards hold masters of a type in two slices, so that whole layers have few runs of equal types.
_RUNS_OF_TYPE = 4


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
            bias = None if self.bias is None else self.bias[0]
            whole: Tensor = float_rows(nn.functional.linear(x, self.weight[0], bias))
            return whole
        order = None
        starts = _starts_of_runs(node_type)
        if len(starts) > _RUNS_OF_TYPE * num_types:
            order = torch.argsort(node_type, stable=True)
            x, node_type = x.index_select(0, order), node_type[order]
            starts = _starts_of_runs(node_type)
        sizes = torch.diff(starts, append=starts.new_tensor([len(x)])).tolist()
        weights = self.weight.unbind()
        biases = [None] * num_types if self.bias is None else self.bias.unbind()
        numbers = [*node_type[starts].tolist(), 0]  # a last run without rows, so that there is one
        parts = [
            nn.functional.linear(run, weights[number], biases[number])
            for number, run in zip(numbers, torch.split(x, [*sizes, 0]), strict=True)
        ]
        result: Tensor = float_rows(torch.cat(parts))
        if order is None:
            return result
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        return result.index_select(0, inverse)

    def extra_repr(self) -> str:
        num_types, out_channels, in_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, num_types={num_types}"


def _starts_of_runs(node_type: Tensor) -> Tensor:
    """Return the first row of each run of rows of one type."""
    is_start = torch.ones(len(node_type), dtype=torch.bool, device=node_type.device)
    torch.ne(node_type[1:], node_type[:-1], out=is_start[1:])
    return torch.nonzero(is_start).flatten()
