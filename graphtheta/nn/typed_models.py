"""Models of typed graphs: HGT and HAN, with a linear map after the last layer, and Simple-HGN."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Unpack

from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.data.types import Relation
from graphtheta.nn.conv import HANConv, HGTConv, SimpleHGNConv
from graphtheta.nn.conv.simple_hgn import Attended
from graphtheta.nn.init import seeded
from graphtheta.nn.linear import elu
from graphtheta.nn.stack import Stack, StackOptions
from graphtheta.tgar import View

__all__ = ["HAN", "HGT", "SimpleHGN"]


class HGT(Stack):
    """Heterogeneous graph transformer (Hu, Dong, Wang, Sun, WWW 2020).

    All graph layers are hidden ones; a linear map of the last one's output follows.

    Args:
        in_channels: Columns of the input, such as those of `TypedInput`.
        hidden_channels: Columns of each head.
        out_channels: Columns of the output.
        metadata: Names of the node types, and the relations, of the graph: `shard.metadata`.
        heads: Attention heads.
        dropout: Probability of dropping a column of a layer's input.
        options: num_layers, norm and seed, as for `Stack`.

    Raises:
        ConfigError: If a size is below 1.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "metadata")
    activation: Callable[[Tensor], Tensor] = staticmethod(lambda x: x)  # the layer has one inside
    layer: ClassVar[Callable[..., nn.Module]] = HGTConv
    takes_connections: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        metadata: tuple[Sequence[str], Sequence[Relation | tuple[str, str, str]]],
        heads: int = 8,
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer: Any = partial(self.layer, metadata=metadata, heads=heads)
        width = heads * hidden_channels
        sizes = in_channels, hidden_channels, width
        super().__init__(make_layer, *sizes, heads=heads, dropout=dropout, **options)
        with seeded(options.get("seed", 0), "lin"):
            self.lin = nn.Linear(width, out_channels)

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the output of the last graph layer: (O, heads hidden_channels)."""
        last = len(self.convs) - 1
        h = super().embed(view, x)
        result: Tensor = self.convs[last](view[last], self.dropout(view[last], h))
        return result

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node: (O, out_channels)."""
        result: Tensor = self.lin(self.embed(view, x))
        return result


class HAN(HGT):
    """Heterogeneous graph attention network (Wang et al., WWW 2019); arguments of `HGT`."""

    layer = HANConv
    has_statistics = True


class SimpleHGN(Stack):
    """Simple-HGN over the edge column `type` (Lv et al., KDD 2021).

    Hidden layers concatenate their heads, and mix their attention with that of the layer before.
    The last layer has one head, and as in the authors' code no attention of other layers. All
    layers but the first have a residual.

    Args:
        in_channels: Columns of the input, such as those of `TypedInput`.
        hidden_channels: Columns of each head of a hidden layer.
        out_channels: Columns of the output.
        num_relations: Number of edge types.
        edge_channels: Columns of the learned vector of a relation.
        heads: Attention heads of a hidden layer.
        beta: Share of the former layer's attention in that of a layer; see `SimpleHGNConv`.
        normalise: Whether to divide each output by its length, as the authors do.
        dropout: Probability of dropping a column of a layer's input, or an attention coefficient.
        options: num_layers, norm and seed, as for `Stack`.

    Raises:
        ConfigError: If a size is below 1, or beta is out of range.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "num_relations")
    takes_connections: ClassVar[bool] = False
    activation: Callable[[Tensor], Tensor] = staticmethod(elu)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_relations: int,
        edge_channels: int = 64,
        heads: int = 8,
        beta: float = 0.05,
        normalise: bool = False,
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        layer = partial(
            SimpleHGNConv,
            num_relations=num_relations,
            edge_channels=edge_channels,
            dropout=dropout,
            beta=beta,
        )
        residual = itertools.chain([False], itertools.repeat(True))
        super().__init__(
            lambda size, _: layer(size, hidden_channels, heads=heads, residual=next(residual)),
            in_channels,
            hidden_channels,
            out_channels,
            heads=heads,
            dropout=dropout,
            make_last_layer=lambda *sizes: layer(*sizes, residual=next(residual)),
            **options,
        )
        self.normalise = normalise

    def embed(self, view: View, x: Tensor) -> Tensor:
        given = Attended(x)
        for k, conv in enumerate(self.convs[:-1]):
            given = conv(view[k], given._replace(h=self.dropout(view[k], given.h)))
            given = given._replace(h=self.finish_hidden(view, k, given.h))
        return given.h

    def forward(self, view: View, x: Tensor) -> Tensor:
        outputs = super().forward(view, x)
        return F.normalize(outputs) if self.normalise else outputs
