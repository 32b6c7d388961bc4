"""Graphs for benchmarks: generated, with all columns that layers can read, or the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column, node_table
from graphtheta.datasets.generate import rmat_edges
from graphtheta.datasets.store_cache import open_input
from graphtheta.partition import Manifest, Plan, Resources, make_store
from graphtheta.runtime.scratch import scratch_folder
from graphtheta.shard.open import open_shard
from graphtheta.shard.shard import Shard

__all__ = ["benchmark_shard", "describe_graph", "rmat_graph", "rmat_store"]


def rmat_graph(
    scale: int,
    edge_factor: int,
    *,
    features: int = 128,
    classes: int = 16,
    edge_features: int = 16,
    edge_types: int = 8,
    seed: int = 0,
) -> Graph:
    """Return an RMAT graph without self-loops, with random features, labels and edge columns.

    Args:
        scale: Binary logarithm of the number of nodes.
        edge_factor: Edges per node, before self-loops are dropped.
        features: Number of node features.
        classes: Number of classes of the label `y`. Every node is in the training split.
        edge_features: Number of features in the edge column `attr`; 0 for no such column.
        edge_types: Number of types in the edge column `type`; 0 for no such column.
        seed: Random seed.

    Raises:
        ConfigError: If an argument is out of range.
    """
    num_nodes = 1 << scale
    src, dst = rmat_edges(0, edge_factor * num_nodes, scale=scale, seed=seed)
    kept = src != dst  # layers differ in what they do with self-loops
    src, dst = src[kept], dst[kept]
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((num_nodes, features), np.float32)
    labels = np.append(rng.integers(0, classes, num_nodes - 1), classes - 1)
    nodes = node_table(np.arange(num_nodes), values, labels, np.ones(num_nodes, np.int8))
    edges: dict[str, Any] = {"src": pa.array(src), "dst": pa.array(dst)}
    if edge_features:
        edges["attr"] = matrix_column(rng.standard_normal((len(src), edge_features), np.float32))
    if edge_types:
        edges["type"] = pa.array(rng.integers(0, edge_types, len(src)))
    return Graph(nodes, pa.table(edges))


def rmat_store(
    path: Path, scale: int, edge_factor: int, *, num_parts: int, method: str, **options: Any
) -> None:
    """Write `rmat_graph(scale, edge_factor, **options)` as a store."""
    graph = rmat_graph(scale, edge_factor, **options)
    make_store(graph, path, Plan(num_parts, method), Resources())


@contextmanager
def benchmark_shard(
    source: str | None,
    comm: Communicator,
    *,
    scale: int,
    edge_factor: int,
    method: str,
    **options: Any,
) -> Iterator[tuple[str, Shard]]:
    """Open this worker's shard of the user's graph, or of a generated one; collective.

    A generated graph is written to a temporary store, so that a worker holds only its own part.

    Args:
        source: A store or another input. If None, an RMAT graph is generated.
        comm: The workers.
        scale: Scale of the generated graph.
        edge_factor: Edges per node of the generated graph.
        method: Partitioner of an input that is not a store.
        options: Further options of `rmat_graph`.

    Returns:
        A context manager that gives the graph's name and the shard.

    Raises:
        ConfigError: If the graph cannot be opened or generated.
    """
    if source is not None:
        store = open_input(source, comm, method=method)
        yield Path(source).name or source, open_shard(store, comm)
        return
    with scratch_folder() as made:
        folder = Path(comm.broadcast_text(str(made), stage="bench: folder"))
        if comm.rank == 0:
            rmat_store(
                folder / "store", scale, edge_factor, num_parts=comm.size, method=method, **options
            )
        comm.barrier(stage="bench: graph made")
        yield f"rmat {scale} x {edge_factor}", open_shard(folder / "store", comm)
        comm.barrier(stage="bench: graph measured")


def describe_graph(name: str, manifest: Manifest) -> dict[str, Any]:
    """Return the fields of a record's case that describe its graph."""
    return {
        "graph": name,
        "nodes": manifest.num_nodes,
        "edges": manifest.num_edges,
        "parts": manifest.num_parts,
        "method": manifest.method,
    }
