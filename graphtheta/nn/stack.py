"""Stacks: what all models are made of, graph layers with dropout, activation and batch norm.

Single-worker mathematics; `view[k]` is what layer k computes on. Weights come from `seed`, so that
every worker starts from the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.dropout import Dropout
from graphtheta.nn.init import seeded
from graphtheta.nn.linear import relu
from graphtheta.nn.norm import BatchNorm
from graphtheta.tgar import TGARLayer, View

__all__ = ["Stack"]


class Stack(nn.Module):
    """`num_layers` graph layers: dropout, layer, batch norm, activation; the last gives the output.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each hidden layer (a head, for attention).
        out_channels: Columns of the output.
        num_layers: Graph layers, at least 1.
        dropout: Probability for the input of every layer.
        batch_norm: Whether hidden layers are normalised over all workers.
        seed: Of the initial weights.

    Attributes:
        options: Arguments of a subclass that `model_for` takes from the graph or its caller.
        needs_edge_attributes: Whether a model that takes edge_dim refuses a graph without them.

    Raises:
        ConfigError: If a size is below 1.
    """

    options: ClassVar[tuple[str, ...]] = ()
    needs_edge_attributes: ClassVar[bool] = True
    activation: Callable[[Tensor], Tensor] = staticmethod(relu)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 2,
        dropout: float = 0.5,
        batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(in_channels, hidden_channels, out_channels, num_layers) < 1:
            raise ConfigError(
                f"{type(self).__name__}: expected in_channels, hidden_channels, out_channels and "
                f"num_layers >= 1, got {in_channels}, {hidden_channels}, {out_channels} and "
                f"{num_layers}. A graph without features needs some."
            )
        self.dropout = Dropout(dropout)
        width = self.hidden_width(hidden_channels)
        with seeded(seed):
            self.convs = nn.ModuleList(
                self.make_layer(
                    in_channels if k == 0 else width,
                    out_channels if k == num_layers - 1 else hidden_channels,
                    is_last=k == num_layers - 1,
                )
                for k in range(num_layers)
            )
            self.norms = nn.ModuleList(
                BatchNorm(width) for _ in range(num_layers - 1 if batch_norm else 0)
            )

    def hidden_width(self, hidden_channels: int) -> int:
        """Return the columns a hidden layer hands on."""
        return hidden_channels

    def make_layer(self, in_channels: int, out_channels: int, *, is_last: bool) -> TGARLayer:
        """Return one graph layer."""
        raise NotImplementedError

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the embedding of each node: what the last layer reads.

        Shape:
            x: (M, in_channels). Returns (M, hidden width), or x itself for one layer.
        """
        for k in range(len(self.convs) - 1):
            h = self.convs[k](view[k], self.dropout(view[k], x))
            if self.norms:
                h = self.norms[k](view[k], h)
            if h.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
                h = h.clone()  # a layer that hands on what it got: activations work in place
            x = self.activation(h)
        return x

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node.

        Shape:
            x: (M, in_channels). Returns (M, out_channels).
        """
        last = len(self.convs) - 1
        h = self.embed(view, x)
        result: Tensor = self.convs[last](view[last], self.dropout(view[last], h))
        return result
