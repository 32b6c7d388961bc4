"""Edge weights as factors of messages."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.tgar import LayerView

__all__ = [
    "is_sampled_by_weight",
    "reads_weights",
    "refuse_sampling_by_weight",
    "times_weight",
]


def reads_weights(view: LayerView, weighted: bool | None) -> bool:
    """Return whether a layer multiplies messages by the edge column `weight`.

    Args:
        view: Blocks that the layer computes on.
        weighted: The layer's choice; if None, it does if the graph has the column.

    Raises:
        ConfigError: If it does, and the graph has no such column.
    """
    if weighted is False or (weighted is None and "weight" not in view.edge_columns):
        return False
    _ = view.shard.edge_weight  # raises if there is none
    return True


def refuse_sampling_by_weight(view: LayerView) -> None:
    """Raise a ConfigError if edges are sampled in proportion to their weight."""
    if is_sampled_by_weight(view):
        raise ConfigError(
            "sampling: expected edges sampled by another column than messages are multiplied by, "
            "got 'weight' for both, which would count twice. Leave weighted=True (--weighted) out, "
            "or sample uniformly."
        )


def is_sampled_by_weight(view: LayerView) -> bool:
    """Return whether edges are sampled in proportion to the edge column `weight`."""
    fanout = view.block.fanout
    return fanout is not None and fanout.weight == "weight"


def times_weight(message: Tensor, edge: Any) -> Tensor:
    """Return the message of each edge times its weight, inside `gather`."""
    weight: Tensor = edge["weight"]
    return message * weight.reshape(-1, *(1,) * (message.dim() - 1))
