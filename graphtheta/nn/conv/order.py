"""Whether a layer applies its linear map before messages are summed or after: both are equal."""

from __future__ import annotations

from graphtheta.tgar import LayerView

__all__ = ["projects_first"]

# Gathering one column of one edge takes about as long as so many multiply-adds.
_GATHERED = 4


def projects_first(view: LayerView, in_channels: int, out_channels: int) -> bool:
    """Return whether mapping the inputs costs less than mapping the sums.

    A layer that is drawn has far fewer outputs than inputs, and projects what it has summed; one
    of all nodes sums, and sends, the fewer columns. Where both cost the same it sums first: below
    the first layer nothing wants a gradient, and so it gathers none. Only the batch counts, so that
    every worker says the same, and so does any number of them.

    Args:
        view: What the layer computes on.
        in_channels: Columns before the map.
        out_channels: Columns behind it.
    """
    active, products = view.block.active, in_channels * out_channels
    first = products * active.inputs + _GATHERED * active.edges * out_channels
    later = products * active.outputs + _GATHERED * active.edges * in_channels
    return first < later
