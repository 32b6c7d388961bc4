"""Models: a `Stack` of each kind of layer, and `model_for`, which builds one that fits a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Unpack

from torch import Tensor, nn

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn.conv import (
    GATConv,
    GATEConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GIPAConv,
    RGATConv,
    RGCNConv,
    SAGEConv,
    TransformerConv,
)
from graphtheta.nn.linear import elu, relu
from graphtheta.nn.stack import Stack, StackOptions
from graphtheta.nn.typed_models import HAN, HGT, SimpleHGN
from graphtheta.shard.shard import Shard
from graphtheta.tgar import TGARLayer

__all__ = [
    "GAT",
    "GATE",
    "GCN",
    "GIN",
    "GIPA",
    "MODELS",
    "RGAT",
    "RGCN",
    "GATv2",
    "GraphSAGE",
    "GraphTransformer",
    "model_for",
]


class GCN(Stack):
    """Graph convolutional network (Kipf, Welling, ICLR 2017).

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each hidden layer.
        out_channels: Columns of the output.
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        dropout: Probability of dropping a column of a layer's input.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.
    """

    options: ClassVar[tuple[str, ...]] = ("weighted",)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        weighted: bool | None = None,
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(GCNConv, weighted=weighted)
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, dropout=dropout, **options)


class GraphSAGE(Stack):
    """GraphSAGE (Hamilton, Ying, Leskovec, NeurIPS 2017).

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each hidden layer.
        out_channels: Columns of the output.
        aggregator: "mean", "sum", "max" or "min" of the neighbours.
        weighted: Whether to multiply messages by the edge column `weight`.
        dropout: Probability of dropping a column of a layer's input.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.
    """

    options: ClassVar[tuple[str, ...]] = ("weighted",)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        aggregator: str = "mean",
        weighted: bool = False,
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(SAGEConv, aggregator=aggregator, weighted=weighted)
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, dropout=dropout, **options)


class GIN(Stack):
    """Graph isomorphism network (Xu et al., ICLR 2019), with two linear maps per layer.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each hidden layer.
        out_channels: Columns of the output.
        weighted: Whether to multiply messages by the edge column `weight`.
        dropout: Probability of dropping a column of a layer's input.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.
    """

    options: ClassVar[tuple[str, ...]] = ("weighted",)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        weighted: bool = False,
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(_gin_layer, weighted=weighted)
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, dropout=dropout, **options)


def _gin_layer(in_channels: int, out_channels: int, *, weighted: bool) -> GINConv:
    first, second = nn.Linear(in_channels, out_channels), nn.Linear(out_channels, out_channels)
    return GINConv(nn.Sequential(first, nn.ReLU(), second), weighted=weighted)


class GAT(Stack):
    """Graph attention network (Velickovic et al., ICLR 2018).

    Hidden layers concatenate their heads, the last layer averages them.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each head of a hidden layer.
        out_channels: Columns of the output.
        heads: Attention heads of a hidden layer.
        out_heads: Attention heads of the last layer.
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read.
        dropout: Probability of dropping a column of a layer's input, or an attention coefficient.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.

    Raises:
        ConfigError: If a size is below 1.
    """

    options: ClassVar[tuple[str, ...]] = ("heads",)
    activation: Callable[[Tensor], Tensor] = staticmethod(elu)
    layer: ClassVar[Callable[..., TGARLayer]] = GATConv

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        heads: int = 8,
        out_heads: int = 1,
        edge_dim: int | None = None,
        dropout: float = 0.6,
        **options: Unpack[StackOptions],
    ) -> None:
        attention = partial(self.layer, dropout=dropout, edge_dim=edge_dim)
        super().__init__(
            lambda inputs, _: attention(inputs, hidden_channels, heads=heads),
            in_channels,
            hidden_channels,
            out_channels,
            heads=heads,
            dropout=dropout,
            make_last_layer=partial(attention, heads=out_heads, concat=False),
            **options,
        )


class GATv2(GAT):
    """GATv2 (Brody, Alon, Yahav, ICLR 2022); arguments are those of `GAT`."""

    layer = GATv2Conv


class GATE(GAT):
    """GAT-E: attention with edge attributes in score and message.

    Arguments are those of `GAT`; edge_dim is required.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "edge_dim")
    layer = GATEConv


class GraphTransformer(GAT):
    """Graph transformer with gated residuals (Shi et al., IJCAI 2021); arguments of `GAT`.

    `model_for` lets it read edge attributes if the graph has any.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "edge_dim")
    needs_edge_attributes: ClassVar[bool] = False
    activation: Callable[[Tensor], Tensor] = staticmethod(relu)
    layer = staticmethod(partial(TransformerConv, beta=True))


class GIPA(Stack):
    """GIPA over the edge column `attr` (Zheng et al., arXiv 2105.06035), with bit-wise attention.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each head, of all layers.
        out_channels: Columns of the output.
        edge_dim: Columns of the edge column `attr`.
        heads: Attention heads, of all layers.
        bitwise: Whether each channel has its own attention coefficient, or each head.
        dropout: Probability of dropping a column of a layer's input, or an attention coefficient.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.

    Raises:
        ConfigError: If a size is below 1, or hidden_channels is 1.
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
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(
            GIPAConv,
            edge_dim=edge_dim,
            channels=hidden_channels,
            heads=heads,
            bitwise=bitwise,
            dropout=dropout,
        )
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, heads=heads, dropout=dropout, **options)


class RGCN(Stack):
    """R-GCN over the edge column `type` (Schlichtkrull et al., ESWC 2018).

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each hidden layer.
        out_channels: Columns of the output.
        num_relations: Number of edge types.
        num_bases: Matrices that the relations' weights combine; if None, each has its own.
        dropout: Probability of dropping a column of a layer's input.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.
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
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(RGCNConv, num_relations=num_relations, num_bases=num_bases)
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, dropout=dropout, **options)


class RGAT(Stack):
    """R-GAT over the edge column `type` (Busbridge et al., arXiv 1904.05811).

    Hidden layers concatenate their heads, the last layer has one.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each head of a hidden layer.
        out_channels: Columns of the output.
        num_relations: Number of edge types.
        num_bases: Matrices that the relations' weights combine; if None, each has its own.
        heads: Attention heads of a hidden layer.
        dropout: Probability of dropping a column of a layer's input, or an attention coefficient.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.

    Raises:
        ConfigError: If a size is below 1.
    """

    options: ClassVar[tuple[str, ...]] = ("heads", "num_relations", "num_bases")
    activation: Callable[[Tensor], Tensor] = staticmethod(elu)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_relations: int,
        num_bases: int | None = None,
        heads: int = 8,
        dropout: float = 0.6,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(
            RGATConv, num_relations=num_relations, num_bases=num_bases, dropout=dropout
        )
        super().__init__(
            lambda inputs, _: make_layer(inputs, hidden_channels, heads=heads),
            in_channels,
            hidden_channels,
            out_channels,
            heads=heads,
            dropout=dropout,
            make_last_layer=make_layer,
            **options,
        )


MODELS: dict[str, type[Stack]] = {
    "gcn": GCN,
    "sage": GraphSAGE,
    "gat": GAT,
    "gatv2": GATv2,
    "gin": GIN,
    "gat-e": GATE,
    "rgcn": RGCN,
    "rgat": RGAT,
    "transformer": GraphTransformer,
    "gipa": GIPA,
    "hgt": HGT,
    "han": HAN,
    "simple-hgn": SimpleHGN,
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
    norm: str | None = None,
    residual: bool = False,
    jumping_knowledge: str | None = None,
    num_bases: int | None = None,
    weighted: bool | None = None,
    more_channels: int = 0,
    out_channels: int | None = None,
    seed: int = 0,
) -> Stack:
    """Return a model by name, with the sizes that a graph needs.

    Args:
        name: A key of `MODELS`.
        shard: Graph whose features, edge columns and label determine the sizes.
        label: Node label to predict; if None, the graph's default. Not read with out_channels.
        hidden_channels: Columns of each hidden layer, or of each attention head.
        num_layers: Number of graph layers.
        heads: Attention heads, in models that have them.
        dropout: Dropout probability for node columns and attention coefficients.
        batch_norm: The same as norm="batch".
        norm: How to normalise the outputs of hidden layers; see `Stack`.
        residual: Whether hidden layers have residual connections; see `Stack`.
        jumping_knowledge: How the outputs of all layers are joined; see `Stack`.
        num_bases: Matrices that R-GCN's relations combine; if None, each relation has its own.
        weighted: Whether messages are multiplied by the edge column `weight`, in models that can.
            If None, GCN does if the graph has the column.
        more_channels: Input columns in addition to the features, such as those of `NodeEmbedding`.
        out_channels: Columns of the output; if None, as many as the label needs.
        seed: Random seed for the initial weights.

    Raises:
        ConfigError: If the model is unknown, or the graph lacks a column that it needs.
    """
    need_name(name, MODELS, "model (--model)")
    model = MODELS[name]
    has_weights = "weight" in shard.edge_columns
    if weighted and not has_weights:
        _ = shard.edge_weight  # raises
    has_edges = model.needs_edge_attributes or "attr" in shard.edge_columns
    given: dict[str, Callable[[], Any]] = {
        "heads": lambda: heads,
        "edge_dim": lambda: shard.edge_dim if has_edges else None,
        "num_relations": lambda: shard.num_edge_types,
        "num_bases": lambda: num_bases,
        "metadata": lambda: shard.metadata,
        "weighted": lambda: has_weights and (name == "gcn" if weighted is None else weighted),
    }
    options = {option: given[option]() for option in model.options}
    if not shard.num_features + more_channels:
        raise ConfigError(
            "model: expected node features, got none. Learn a vector of each node with --embedding "
            "64 (NodeEmbedding), or name feature columns when you partition the graph (--features)."
        )
    build: Callable[..., Stack] = model
    return build(
        shard.num_features + more_channels,
        hidden_channels,
        shard.num_outputs(label or shard.default_label) if out_channels is None else out_channels,
        num_layers=num_layers,
        dropout=dropout,
        batch_norm=batch_norm,
        norm=norm,
        residual=residual,
        jumping_knowledge=jumping_knowledge,
        seed=seed,
        **options,
    )
