"""Choice whether a layer applies its linear map before or after messages are summed."""

from __future__ import annotations

from torch import Tensor

from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar import LayerView

__all__ = ["projects_first"]

_GATHER_COST = 4  # of one column of one edge, in multiply-adds


def projects_first(view: LayerView, h: Tensor, in_channels: int, out_channels: int) -> bool:
    """Return whether applying the linear map first costs less than summing first.

    A layer with sampled edges has far fewer outputs than inputs and should sum first; a layer of
    all nodes should sum, and send, the smaller number of columns. If both cost the same it sums
    first: the inputs of the first layer need no gradient, which then need not be gathered. The
    choice depends on the whole batch only, so that it is the same on all workers and for any number
    of them.

    Args:
        view: Blocks that the layer computes on.
        h: Input of the layer. Sparse rows are always multiplied first, since sums are dense.
        in_channels: Columns of the input of the linear map.
        out_channels: Columns of its output.
    """
    if is_sparse_rows(h):
        return True
    active, products = view.block.active, in_channels * out_channels
    first = products * active.inputs + _GATHER_COST * active.edges * out_channels
    later = products * active.outputs + _GATHER_COST * active.edges * in_channels
    return first < later
