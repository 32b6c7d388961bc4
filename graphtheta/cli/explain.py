"""`graphtheta explain`: how each layer of a model runs."""

from __future__ import annotations

from typing import Annotated, Any

from graphtheta.cli.terminal.help import argument, option

__all__ = ["explain"]

_LEGEND = """\
hoisted: computed once per node or step; relations: how products by the matrix of an edge's relation
are computed, and the costs in numbers moved; folded: products of parameters, computed in advance;
commuted: sums over edges, multiplied once per row; fused: computed per edge in a compiled kernel;
saved: values per edge kept for another kernel; bytes per edge: read and written by a kernel."""
_NODES, _EDGES, _TYPES = 64, 256, 5


def explain(
    input: Annotated[str | None, argument("INPUT")] = None,
    model: Annotated[str, option("NAME")] = "gcn",
    hidden: Annotated[int, option("INTEGER", min=1)] = 16,
    layers: Annotated[int, option("INTEGER", min=1)] = 2,
    heads: Annotated[int, option("INTEGER", min=1)] = 4,
    dropout: Annotated[float, option("FLOAT", min=0)] = 0.5,
    features: Annotated[int, option("INTEGER", min=1)] = 64,
    edge_features: Annotated[int, option("INTEGER", min=1)] = 16,
    classes: Annotated[int, option("INTEGER", min=2)] = 16,
) -> None:
    """Print what each layer computes per node and per edge, what it saves, and bytes per edge.

    Args:
        input: Store, name of a bundled data set ({datasets}), or path or URI of a graph. If left
            out, a small random graph.
        model: Model: {models}.
        hidden: Features of a hidden layer, per head in models with attention.
        layers: Number of graph layers.
        heads: Number of attention heads, in models with attention.
        dropout: Dropout probability of node features and attention weights.
        features: Number of node features of the random graph.
        edge_features: Number of edge features of the random graph.
        classes: Number of classes of the random graph.

    Example:
      graphtheta explain --model gat-e --heads 4
    """
    import graphtheta as gt
    from graphtheta.comm.launch import communicator
    from graphtheta.datasets.store_cache import open_input
    from graphtheta.nn import model_for
    from graphtheta.tgar import TGARLayer, View

    comm = communicator()
    graph: Any = open_input(input, comm) if input else _random(features, edge_features, classes)
    shard = gt.open_shard(graph, comm)
    net = model_for(
        model,
        shard,
        shard.default_label,
        hidden_channels=hidden,
        num_layers=layers,
        heads=heads,
        dropout=dropout,
    )
    view = View(shard)
    net(view, view.inputs(next(net.parameters()).dtype))
    for number, layer in enumerate(m for m in net.modules() if isinstance(m, TGARLayer)):
        print(f"layer {number}: {layer.explain()}")
    print(_LEGEND)


def _random(features: int, edge_features: int, classes: int) -> Any:
    import numpy as np
    import pyarrow as pa

    from graphtheta.data.graph import Graph
    from graphtheta.data.schema import matrix_column

    rng = np.random.default_rng(0)
    nodes = {
        "id": pa.array(np.arange(_NODES)),
        "features": matrix_column(rng.standard_normal((_NODES, features), np.float32)),
        "label:y": pa.array(np.arange(_NODES) % classes),
    }
    edges = {
        "src": pa.array(rng.integers(0, _NODES, _EDGES)),
        "dst": pa.array(rng.integers(0, _NODES, _EDGES)),
        "attr": matrix_column(rng.standard_normal((_EDGES, edge_features), np.float32)),
        "type": pa.array(np.arange(_EDGES) % _TYPES),
    }
    return Graph(pa.table(nodes), pa.table(edges))
