"""Stack of graph layers with dropout, normalisation, activations and connections between layers.

Initial weights depend only on `seed`, so that every worker starts from the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, TypedDict

import torch
from torch import Tensor, nn

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn.conv.attention import require_heads
from graphtheta.nn.dropout import Dropout
from graphtheta.nn.init import seeded
from graphtheta.nn.linear import Linear, relu
from graphtheta.nn.norm import BatchNorm
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar import TGARLayer, View, ViewModule

__all__ = ["JUMPS", "NORMS", "LayerFactory", "Model", "Stack", "StackOptions"]

LayerFactory = Callable[[int, int], TGARLayer]  # from the columns of the input and of the output


JUMPS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "cat": lambda rows: torch.cat(list(rows), 1),
    "last": lambda rows: rows[-1],
    "max": lambda rows: torch.stack(list(rows)).amax(0),
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
}


class StackOptions(TypedDict, total=False):
    """Arguments of `Stack` that every model takes and passes on."""

    num_layers: int
    batch_norm: bool
    norm: str | None
    residual: bool
    jumping_knowledge: str | None
    seed: int


class Model(ViewModule):
    """Base of models, which `model_for` can build.

    Attributes:
        options: Constructor arguments of a model that `model_for` sets from the graph or from its
            own arguments.
        needs_edge_attributes: Whether a model with the option edge_dim needs edge attributes.
    """

    takes = View
    options: ClassVar[tuple[str, ...]] = ()
    needs_edge_attributes: ClassVar[bool] = True

    @property
    def num_layers(self) -> int:
        """Number of graph layers."""
        raise NotImplementedError

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the embedding of each node."""
        raise NotImplementedError

    def require_sizes(self, **sizes: int) -> None:
        """Raise a ConfigError if a size is below 1."""
        if min(sizes.values()) < 1:
            *names, last = sizes
            *numbers, least = sizes.values()
            raise ConfigError(
                f"{type(self).__name__}: expected {', '.join(names)} and {last} >= 1, got "
                f"{', '.join(map(str, numbers))} and {least}. Add node features or a "
                "NodeEmbedding if the graph has no features."
            )


class Stack(Model):
    """Stack of `num_layers` graph layers.

    A hidden layer is dropout, graph layer, normalisation (optional), activation and residual
    connection (optional); the last layer is dropout and graph layer. With jumping knowledge all
    graph layers are hidden layers, whose joined outputs a linear map reads.

    Args:
        make_layer: Called as make_layer(in_channels, out_channels) for each layer.
        in_channels: Columns of the input features.
        hidden_channels: Columns of each head of the output of a hidden layer.
        out_channels: Columns of the output.
        heads: Heads of a hidden layer.
        num_layers: Number of graph layers, at least 1.
        dropout: Probability of dropping a column of a layer's input.
        batch_norm: The same as norm="batch".
        norm: "batch" to normalise the outputs of hidden layers over the nodes of all workers,
            "layer" over the columns of each node. If None, they are not normalised.
        residual: Whether to add the input of each hidden layer to its output, by a linear map where
            the numbers of columns differ.
        jumping_knowledge: "cat", "max" or "last": whether the output is made of the outputs of all
            layers side by side, of their largest values, or of those of the last layer. If None,
            the last graph layer returns the output.
        seed: Random seed for the initial weights.
        make_last_layer: Called in the same way for the last layer, if it differs from the others.
            Not called with jumping knowledge.

    Attributes:
        takes_connections: Whether residual and jumping_knowledge may be given.
        activation: Applied in place to the output of hidden layers.

    Raises:
        ConfigError: If a size is below 1, a name is unknown, or the model has connections of its
            own.

    Source:
        Xu et al., Representation learning on graphs with jumping knowledge networks, ICML 2018.
    """

    takes_connections: ClassVar[bool] = True
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
        norm: str | None = None,
        residual: bool = False,
        jumping_knowledge: str | None = None,
        seed: int = 0,
        make_last_layer: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        require_heads(type(self).__name__, heads)
        self.require_sizes(
            in_channels=in_channels,
            hidden_channels=hidden_channels,
            out_channels=out_channels,
            num_layers=num_layers,
        )
        if batch_norm and norm not in (None, "batch"):
            raise ConfigError(
                f"norm (--norm): expected batch with batch_norm (--batch-norm), got {norm}. Leave "
                "one of them out."
            )
        norm = "batch" if batch_norm else norm
        self._require_names(norm, jumping_knowledge)
        if not self.takes_connections and (residual or jumping_knowledge):
            raise ConfigError(
                f"{type(self).__name__}: expected no residual (--residual) and no "
                "jumping_knowledge (--jumping-knowledge), since it has connections of its own. "
                "Leave them out."
            )
        self.dropout = Dropout(dropout)
        self.jumping_knowledge, width = jumping_knowledge, heads * hidden_channels
        if jumping_knowledge is None:
            hidden = [width] * (num_layers - 1)
            widths = pairwise([in_channels, *hidden, out_channels])
            makers = [make_layer for _ in hidden] + [make_last_layer or make_layer]
        else:
            hidden = [width] * num_layers
            widths, makers = pairwise([in_channels, *hidden]), [make_layer for _ in hidden]
        with seeded(seed):
            self.convs = nn.ModuleList(
                make(*width) for make, width in zip(makers, widths, strict=True)
            )
            self.norms = nn.ModuleList(NORMS[norm](width) for width in hidden if norm)
            self.skips = nn.ModuleList()
            if residual:
                self.skips.extend(
                    nn.Identity() if before == after else Linear(before, after, bias=False)
                    for before, after in pairwise([in_channels, *hidden])
                )
            if jumping_knowledge is not None:
                self.lin = nn.Linear(
                    width * (num_layers if jumping_knowledge == "cat" else 1), out_channels
                )

    @property
    def num_layers(self) -> int:
        return len(self.convs)

    @staticmethod
    def _require_names(norm: str | None, jumping_knowledge: str | None) -> None:
        if norm is not None:
            need_name(norm, NORMS, "norm (--norm)")
        if jumping_knowledge is not None:
            need_name(jumping_knowledge, JUMPS, "jumping_knowledge (--jumping-knowledge)")

    def hidden(self, view: View, x: Tensor) -> list[Tensor]:
        """Return the input, and the output of each hidden layer."""
        found = [x]
        for k in range(len(self.convs) - (self.jumping_knowledge is None)):
            h = self.convs[k](view[k], self.dropout(view[k], x))
            if not is_sparse_rows(x) and _same_memory(h, x):
                h = h.clone()  # the layer returned its input; the activation works in place
            h = self.finish_hidden(view, k, h)
            x = h + self.skips[k](view[k].carry(x)) if self.skips else h
            found.append(x)
        return found

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the embedding of each node: the input of the last layer.

        Shape:
            x: (M, in_channels). Returns (M, hidden_channels), or x itself if there is one layer;
            (M, num_layers hidden_channels) with jumping knowledge by "cat".
        """
        found = self.hidden(view, x)
        if self.jumping_knowledge is None:
            return found[-1]
        last = view[len(self.convs) - 1]
        return JUMPS[self.jumping_knowledge]([last.carry(h) for h in found[1:]])

    def finish_hidden(self, view: View, k: int, h: Tensor) -> Tensor:
        """Normalise the output of hidden layer k, if the model does, and apply the activation."""
        if self.norms:
            norm = self.norms[k]
            h = norm(view[k], h) if isinstance(norm, BatchNorm) else norm(h)
        return self.activation(h)

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node.

        Shape:
            x: (M, in_channels). Returns (M, out_channels).
        """
        last = len(self.convs) - 1
        h = self.embed(view, x)
        result: Tensor
        if self.jumping_knowledge is None:
            result = self.convs[last](view[last], self.dropout(view[last], h))
        else:
            result = self.lin(self.dropout(view[last], h))
        return result


def _same_memory(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
