"""Models by name, with the sizes that a graph needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn.conv import degree_histogram
from graphtheta.nn.deep_models import APPNP, GCNII, SGC, SIGN
from graphtheta.nn.models import (
    GAT,
    GATE,
    GCN,
    GIN,
    GIPA,
    PNA,
    RGAT,
    RGCN,
    GATv2,
    GraphSAGE,
    GraphTransformer,
)
from graphtheta.nn.stack import Model, Stack
from graphtheta.nn.typed_models import HAN, HGT, SimpleHGN
from graphtheta.shard.shard import Shard

__all__ = ["MODELS", "NORMALISED", "model_for"]

MODELS: dict[str, type[Model]] = {
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
    "appnp": APPNP,
    "gcnii": GCNII,
    "sgc": SGC,
    "sign": SIGN,
    "pna": PNA,
}

NORMALISED = ("gcn", "appnp", "gcnii", "sgc", "sign")  # models that read weights by default


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
    alpha: float = 0.1,
    theta: float = 0.5,
    seed: int = 0,
) -> Model:
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
            If None, models with symmetric normalisation do if the graph has the column.
        more_channels: Input columns in addition to the features, such as those of `NodeEmbedding`.
        out_channels: Columns of the output; if None, as many as the label needs.
        alpha: Share of a node's own rows in each propagation step, in APPNP and GCNII.
        theta: Strength of the matrices of GCNII.
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
        "weighted": lambda: has_weights and (name in NORMALISED if weighted is None else weighted),
        "alpha": lambda: alpha,
        "deg": lambda: degree_histogram(shard),
        "theta": lambda: theta,
    }
    options = {option: given[option]() for option in model.options}
    of_stacks = {
        "batch_norm": batch_norm,
        "norm": norm,
        "residual": residual,
        "jumping_knowledge": jumping_knowledge,
    }
    if issubclass(model, Stack):
        options |= of_stacks
    elif refused := [option for option, value in of_stacks.items() if value]:
        flags = ", ".join(f"--{option.replace('_', '-')}" for option in refused)
        raise ConfigError(
            f"model {name}: expected a model of stacked layers with {flags}. Leave {flags} out."
        )
    if not shard.num_features + more_channels:
        raise ConfigError(
            "model: expected node features, got none. Learn a vector of each node with --embedding "
            "64 (NodeEmbedding), or name feature columns when you partition the graph (--features)."
        )
    build: Callable[..., Model] = model
    return build(
        shard.num_features + more_channels,
        hidden_channels,
        shard.num_outputs(label or shard.default_label) if out_channels is None else out_channels,
        num_layers=num_layers,
        dropout=dropout,
        seed=seed,
        **options,
    )
