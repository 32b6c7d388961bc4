"""Whether a layer applies its linear map before messages are summed or after: both are equal."""

from __future__ import annotations

import torch
from torch import Tensor

from graphtheta.tgar import LayerView

__all__ = ["projects_first"]

# Gathering one column of one edge takes about as long as so many multiply-adds.
_GATHERED = 4


def projects_first(view: LayerView, h: Tensor, in_channels: int, out_channels: int) -> bool:
    """Return whether mapping the inputs costs no more than mapping the sums.

    A layer that is drawn has far fewer outputs than inputs, and projects what it has summed; one
    of all nodes sums, and sends, the fewer columns. Every worker says the same, and so does any
    number of them: only the batch and whether h requires grad count.

    Args:
        view: What the layer computes on.
        h: (I, in_channels) its inputs.
        in_channels: Columns before the map.
        out_channels: Columns behind it.
    """
    active, training = view.block.active, torch.is_grad_enabled()
    products = in_channels * out_channels * (1 + training + h.requires_grad)
    edges = _GATHERED * active.edges
    first = products * active.inputs + edges * out_channels * (1 + training)
    later = products * active.outputs + edges * in_channels * (1 + h.requires_grad)
    return first <= later
