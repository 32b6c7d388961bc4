"""Models of typed graphs whose layers all have one width, and a linear map after the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Unpack

from torch import Tensor, nn

from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError
from graphtheta.nn.conv import HANConv, HGTConv
from graphtheta.nn.init import seeded
from graphtheta.nn.stack import Stack, StackOptions
from graphtheta.tgar import View

__all__ = ["HAN", "HGT"]


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
        options: num_layers, batch_norm and seed, as for `Stack`.

    Raises:
        ConfigError: If a size is below 1.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "metadata")
    activation: Callable[[Tensor], Tensor] = staticmethod(lambda x: x)  # the layer has one inside
    layer: ClassVar[Callable[..., nn.Module]] = HGTConv

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
        if heads < 1:
            raise ConfigError(f"{type(self).__name__}: expected heads >= 1, got {heads}.")
        make_layer: Any = partial(self.layer, metadata=metadata, heads=heads)
        width = heads * hidden_channels
        super().__init__(make_layer, in_channels, width, width, dropout=dropout, **options)
        with seeded(options.get("seed", 0)):
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
