"""Models by name: a `Stack` of each kind of layer, and `model_for`, which fits one to a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.conv import (
    GATConv,
    GATEConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GIPAConv,
    RGCNConv,
    SAGEConv,
    TransformerConv,
)
from graphtheta.nn.linear import elu, relu
from graphtheta.nn.stack import Stack
from graphtheta.shard.shard import Shard
from graphtheta.tgar import TGARLayer

__all__ = [
    "GAT",
    "GATE",
    "GCN",
    "GIN",
    "GIPA",
    "MODELS",
    "RGCN",
    "GATv2",
    "GraphSAGE",
    "GraphTransformer",
    "model_for",
]


class GCN(Stack):
    """Graph convolutional network (Kipf, Welling, ICLR 2017)."""

    def make_layer(self, in_channels: int, out_channels: int, *, is_last: bool) -> TGARLayer:
        """See `Stack.make_layer`."""
        return GCNConv(in_channels, out_channels)


class GraphSAGE(Stack):
    """GraphSAGE (Hamilton, Ying, Leskovec, NeurIPS 2017); arguments of `Stack` and aggregator."""

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
        aggregator: str = "mean",
    ) -> None:
        self._aggregator = aggregator
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers=num_layers,
            dropout=dropout,
            batch_norm=batch_norm,
            seed=seed,
        )

    def make_layer(self, in_channels: int, out_channels: int, *, is_last: bool) -> TGARLayer:
        """See `Stack.make_layer`."""
        return SAGEConv(in_channels, out_channels, aggregator=self._aggregator)


class GIN(Stack):
    """Graph isomorphism network (Xu et al., ICLR 2019): two linear maps a layer."""

    def make_layer(self, in_channels: int, out_channels: int, *, is_last: bool) -> TGARLayer:
        """See `Stack.make_layer`."""
        return GINConv(
            nn.Sequential(
                nn.Linear(in_channels, out_channels),
                nn.ReLU(),
                nn.Linear(out_channels, out_channels),
            )
        )


class GAT(Stack):
    """Graph attention network (Velickovic et al., ICLR 2018).

    Hidden layers concatenate their heads; the last averages `out_heads`. Attention coefficients
    are dropped like nodes' columns. Arguments of `Stack`, heads, out_heads and edge_dim.
    """

    options: ClassVar[tuple[str, ...]] = ("heads",)
    activation: Callable[[Tensor], Tensor] = staticmethod(elu)
    layer: ClassVar[type[GATConv] | type[GATv2Conv] | type[TransformerConv]] = GATConv
    layer_options: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 2,
        dropout: float = 0.6,
        batch_norm: bool = False,
        seed: int = 0,
        heads: int = 8,
        out_heads: int = 1,
        edge_dim: int | None = None,
    ) -> None:
        if min(heads, out_heads) < 1:
            raise ConfigError(f"{type(self).__name__}: expected heads >= 1, got {heads}.")
        self._heads, self._out_heads = heads, out_heads
        self._edge_dim, self._attention_dropout = edge_dim, dropout
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers=num_layers,
            dropout=dropout,
            batch_norm=batch_norm,
            seed=seed,
        )

    def hidden_width(self, hidden_channels: int) -> int:
        """See `Stack.hidden_width`."""
        return hidden_channels * self._heads

    def make_layer(self, in_channels: int, out_channels: int, *, is_last: bool) -> TGARLayer:
        """See `Stack.make_layer`."""
        return self.layer(
            in_channels,
            out_channels,
            heads=self._out_heads if is_last else self._heads,
            concat=not is_last,
            dropout=self._attention_dropout,
            edge_dim=self._edge_dim,
            **self.layer_options,
        )


class GATv2(GAT):
    """GATv2 (Brody, Alon, Yahav, ICLR 2022); arguments of `GAT`."""

    layer = GATv2Conv


class GATE(GAT):
    """GAT-E: attention with the edge column `attr` in score and message; needs edge_dim."""

    options: ClassVar[tuple[str, ...]] = ("heads", "edge_dim")
    layer = GATEConv


class GraphTransformer(GAT):
    """Graph transformer with gated residuals (Shi et al., IJCAI 2021); arguments of `GAT`.

    Edge attributes are read where the graph has them.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "edge_dim")
    needs_edge_attributes: ClassVar[bool] = False
    activation: Callable[[Tensor], Tensor] = staticmethod(relu)
    layer = TransformerConv
    layer_options: ClassVar[dict[str, Any]] = {"beta": True}


class GIPA(Stack):
    """GIPA over the edge column `attr` (Zheng et al., arXiv 2105.06035), with bit-wise attention.

    Every layer propagates `heads` times `hidden_channels` columns, the last one as well. Attention
    coefficients are dropped like nodes' columns. Arguments of `Stack`, edge_dim, heads and bitwise.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "edge_dim")

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        edge_dim: int,
        heads: int = 8,
        bitwise: bool = True,
        num_layers: int = 2,
        dropout: float = 0.5,
        batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        if heads < 1:
            raise ConfigError(f"GIPA: expected heads >= 1, got {heads}.")
        self._channels, self._heads, self._edge_dim = hidden_channels, heads, edge_dim
        self._bitwise, self._attention_dropout = bitwise, dropout
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers=num_layers,
            dropout=dropout,
            batch_norm=batch_norm,
            seed=seed,
        )

    def hidden_width(self, hidden_channels: int) -> int:
        """See `Stack.hidden_width`."""
        return hidden_channels * self._heads

    def make_layer(self, in_channels: int, out_channels: int, *, is_last: bool) -> TGARLayer:
        """See `Stack.make_layer`."""
        return GIPAConv(
            in_channels,
            out_channels if is_last else self.hidden_width(out_channels),
            edge_dim=self._edge_dim,
            channels=self._channels,
            heads=self._heads,
            bitwise=self._bitwise,
            dropout=self._attention_dropout,
        )


class RGCN(Stack):
    """R-GCN over the edge column `type` (Schlichtkrull et al., ESWC 2018).

    Arguments of `Stack`, num_relations and num_bases.
    """

    options: ClassVar[tuple[str, ...]] = ("num_relations", "num_bases")

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_relations: int,
        num_bases: int | None = None,
        num_layers: int = 2,
        dropout: float = 0.5,
        batch_norm: bool = False,
        seed: int = 0,
    ) -> None:
        self._num_relations, self._num_bases = num_relations, num_bases
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers=num_layers,
            dropout=dropout,
            batch_norm=batch_norm,
            seed=seed,
        )

    def make_layer(self, in_channels: int, out_channels: int, *, is_last: bool) -> TGARLayer:
        """See `Stack.make_layer`."""
        return RGCNConv(
            in_channels,
            out_channels,
            num_relations=self._num_relations,
            num_bases=self._num_bases,
        )


MODELS: dict[str, type[Stack]] = {
    "gcn": GCN,
    "sage": GraphSAGE,
    "gat": GAT,
    "gatv2": GATv2,
    "gin": GIN,
    "gat-e": GATE,
    "rgcn": RGCN,
    "transformer": GraphTransformer,
    "gipa": GIPA,
}


def model_for(
    name: str,
    shard: Shard,
    label: str | None,
    *,
    hidden_channels: int,
    num_layers: int,
    heads: int,
    dropout: float,
    batch_norm: bool = False,
    num_bases: int | None = None,
    more_channels: int = 0,
    out_channels: int | None = None,
    seed: int = 0,
) -> Stack:
    """Build a model by name whose sizes fit a graph.

    Args:
        name: A key of `MODELS`.
        shard: Its features, edge columns and label give the sizes.
        label: What is predicted; None with out_channels.
        hidden_channels: Columns of each hidden layer (a head, for attention).
        num_layers: Graph layers.
        heads: Attention heads; other models have none.
        dropout: Probability for nodes and attention.
        batch_norm: Whether hidden layers are normalised.
        num_bases: Matrices that R-GCN's relations combine; None gives each its own.
        more_channels: Columns of the input beside the features, say of a `NodeEmbedding`.
        out_channels: Columns of the output; None: what the label needs.
        seed: Of the initial weights.

    Raises:
        ConfigError: If there is no such model, or the graph lacks what it needs.
    """
    if name not in MODELS:
        raise ConfigError(f"model: unknown '{name}'; choose one of {sorted(MODELS)}.")
    model = MODELS[name]
    has_edges = model.needs_edge_attributes or "attr" in shard.edge_columns
    given: dict[str, Callable[[], int | None]] = {
        "heads": lambda: heads,
        "edge_dim": lambda: shard.edge_dim if has_edges else None,
        "num_relations": lambda: shard.num_edge_types,
        "num_bases": lambda: num_bases,
    }
    return model(
        shard.num_features + more_channels,
        hidden_channels,
        shard.num_outputs(label or shard.default_label) if out_channels is None else out_channels,
        num_layers=num_layers,
        dropout=dropout,
        batch_norm=batch_norm,
        seed=seed,
        **{option: given[option]() for option in model.options},
    )
