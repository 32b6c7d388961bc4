"""Stack of graph layers with dropout, batch normalisation and activations: the base of all models.

Initial weights depend only on `seed`, so that every worker starts from the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar, TypedDict

from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.conv.attention import require_heads
from graphtheta.nn.dropout import Dropout
from graphtheta.nn.init import seeded
from graphtheta.nn.linear import relu
from graphtheta.nn.norm import BatchNorm
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar import TGARLayer, View, ViewModule

__all__ = ["LayerFactory", "Stack", "StackOptions"]

LayerFactory = Callable[[int, int], TGARLayer]  # from the columns of the input and of the output


class StackOptions(TypedDict, total=False):
    """Arguments of `Stack` that every model takes and passes on."""

    num_layers: int
    batch_norm: bool
    seed: int


class Stack(ViewModule):
    """Stack of `num_layers` graph layers.

    A hidden layer is dropout, graph layer, batch normalisation (optional) and activation; the last
    layer is dropout and graph layer.

    Args:
        make_layer: Called as make_layer(in_channels, out_channels) for each layer.
        in_channels: Columns of the input features.
        hidden_channels: Columns of each head of the output of a hidden layer.
        out_channels: Columns of the output.
        heads: Heads of a hidden layer.
        num_layers: Number of graph layers, at least 1.
        dropout: Probability of dropping a column of a layer's input.
        batch_norm: Whether to normalise the outputs of hidden layers over all workers.
        seed: Random seed for the initial weights.
        make_last_layer: Called in the same way for the last layer, if it differs from the others.

    Attributes:
        options: Constructor arguments of a model that `model_for` sets from the graph or from its
            own arguments.
        needs_edge_attributes: Whether a model with the option edge_dim needs edge attributes.
        activation: Applied in place to the output of hidden layers.

    Raises:
        ConfigError: If a size is below 1.
    """

    takes = View
    options: ClassVar[tuple[str, ...]] = ()
    needs_edge_attributes: ClassVar[bool] = True
    activation: Callable[[Tensor], Tensor] = staticmethod(relu)

    def __init__(
        self,
        make_layer: LayerFactory,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        num_layers: int = 2,
        dropout: float = 0.5,
        batch_norm: bool = False,
        seed: int = 0,
        make_last_layer: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        require_heads(type(self).__name__, heads)
        if min(in_channels, hidden_channels, out_channels, num_layers) < 1:
            raise ConfigError(
                f"{type(self).__name__}: expected in_channels, hidden_channels, out_channels and "
                f"num_layers >= 1, got {in_channels}, {hidden_channels}, {out_channels} and "
                f"{num_layers}. Add node features or a NodeEmbedding if the graph has no features."
            )
        self.dropout = Dropout(dropout)
        hidden = [heads * hidden_channels] * (num_layers - 1)
        widths = pairwise([in_channels, *hidden, out_channels])
        makers = [make_layer for _ in hidden] + [make_last_layer or make_layer]
        with seeded(seed):
            self.convs = nn.ModuleList(
                make(*width) for make, width in zip(makers, widths, strict=True)
            )
            self.norms = nn.ModuleList(BatchNorm(width) for width in hidden if batch_norm)

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the embedding of each node: the input of the last layer.

        Shape:
            x: (M, in_channels). Returns (M, hidden_channels), or x itself if there is one layer.
        """
        for k in range(len(self.convs) - 1):
            h = self.convs[k](view[k], self.dropout(view[k], x))
            if not is_sparse_rows(x) and _same_memory(h, x):
                h = h.clone()  # the layer returned its input; the activation works in place
            x = self.finish_hidden(view, k, h)
        return x

    def finish_hidden(self, view: View, k: int, h: Tensor) -> Tensor:
        """Normalise the output of hidden layer k, if the model does, and apply the activation."""
        if self.norms:
            h = self.norms[k](view[k], h)
        return self.activation(h)

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node.

        Shape:
            x: (M, in_channels). Returns (M, out_channels).
        """
        last = len(self.convs) - 1
        h = self.embed(view, x)
        result: Tensor = self.convs[last](view[last], self.dropout(view[last], h))
        return result


def _same_memory(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
