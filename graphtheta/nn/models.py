"""Models: a `Stack` of each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Unpack

from torch import Tensor, nn

from graphtheta.nn.conv import (
    GATConv,
    GATEConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GIPAConv,
    PNAConv,
    RGATConv,
    RGCNConv,
    SAGEConv,
    TransformerConv,
)
from graphtheta.nn.linear import elu, relu
from graphtheta.nn.stack import Stack, StackOptions
from graphtheta.tgar import TGARLayer

__all__ = [
    "GAT",
    "GATE",
    "GCN",
    "GIN",
    "GIPA",
    "PNA",
    "RGAT",
    "RGCN",
    "GATv2",
    "GraphSAGE",
    "GraphTransformer",
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
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read.
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
        edge_dim: int | None = None,
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(_gin_layer, weighted=weighted, edge_dim=edge_dim)
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, dropout=dropout, **options)


def _gin_layer(in_channels: int, out_channels: int, **options: Any) -> GINConv:
    first, second = nn.Linear(in_channels, out_channels), nn.Linear(out_channels, out_channels)
    return GINConv(nn.Sequential(first, nn.ReLU(), second), **options)


class PNA(Stack):
    """Principal neighbourhood aggregation (Corso et al., NeurIPS 2020).

    `model_for` lets it read edge attributes if the graph has any.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of each hidden layer.
        out_channels: Columns of the output.
        deg: (D,) number of nodes of each in-degree, such as `degree_histogram(shard)`.
        aggregators: As for `PNAConv`.
        scalers: As for `PNAConv`.
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read.
        dropout: Probability of dropping a column of a layer's input.
        options: num_layers, norm, residual, jumping_knowledge and seed, as for `Stack`.
    """

    options: ClassVar[tuple[str, ...]] = ("deg", "edge_dim")
    tensor_arguments: ClassVar[tuple[str, ...]] = ("deg",)
    needs_edge_attributes: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        deg: Tensor,
        aggregators: Sequence[str] = ("mean", "min", "max", "std"),
        scalers: Sequence[str] = ("identity", "amplification", "attenuation"),
        edge_dim: int | None = None,
        dropout: float = 0.5,
        **options: Unpack[StackOptions],
    ) -> None:
        make_layer = partial(
            PNAConv, aggregators=aggregators, scalers=scalers, deg=deg, edge_dim=edge_dim
        )
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, dropout=dropout, **options)


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
