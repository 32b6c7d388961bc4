"""Graphs to measure on: generated ones with all that a layer may read, or the user's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.datasets.generate import rmat_edges
from graphtheta.datasets.store_cache import open_input
from graphtheta.partition import Manifest, Plan, Resources, make_store
from graphtheta.shard.open import open_shard
from graphtheta.shard.shard import Shard

__all__ = ["described", "rmat_graph", "rmat_store", "shard_to_measure"]


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
        scale: Binary logarithm of the nodes.
        edge_factor: Edges a node, before self-loops are left out.
        features: Columns of a node.
        classes: Of the label `y`; every node is in the training split.
        edge_features: Columns of the edge column `attr`; 0: none.
        edge_types: Of the edge column `type`; 0: none.
        seed: Which graph.

    Raises:
        ConfigError: If an argument is out of range.
    """
    num_nodes = 1 << scale
    src, dst = rmat_edges(0, edge_factor * num_nodes, scale=scale, seed=seed)
    kept = src != dst  # layers treat a node's own edge in more than one way
    src, dst = src[kept], dst[kept]
    rng = np.random.default_rng(seed)
    nodes = {
        "id": pa.array(np.arange(num_nodes)),
        "features": matrix_column(rng.standard_normal((num_nodes, features), np.float32)),
        "label:y": pa.array(np.append(rng.integers(0, classes, num_nodes - 1), classes - 1)),
        "split:split": pa.array(np.ones(num_nodes, np.int8)),
    }
    edges: dict[str, Any] = {"src": pa.array(src), "dst": pa.array(dst)}
    if edge_features:
        edges["attr"] = matrix_column(rng.standard_normal((len(src), edge_features), np.float32))
    if edge_types:
        edges["type"] = pa.array(rng.integers(0, edge_types, len(src)))
    return Graph(pa.table(nodes), pa.table(edges))


def rmat_store(
    path: Path, scale: int, edge_factor: int, *, num_parts: int, method: str, **options: Any
) -> None:
    """Write `rmat_graph` as a store; options are as there."""
    graph = rmat_graph(scale, edge_factor, **options)
    make_store(graph, path, Plan(num_parts, method), Resources())


@contextmanager
def shard_to_measure(
    source: str | None,
    comm: Communicator,
    *,
    scale: int,
    edge_factor: int,
    method: str,
    **options: Any,
) -> Iterator[tuple[str, Shard]]:
    """Open this worker's share of the user's graph, or of a generated one; collective.

    A generated graph is a store while it is measured, so that no worker keeps more than its part.

    Args:
        source: A store or another input; None: generate.
        comm: The workers.
        scale: Of a generated graph.
        edge_factor: Of a generated graph.
        method: Partitioner of what is no store yet.
        options: As of `rmat_graph`.

    Returns:
        The graph's name, and the shard.

    Raises:
        ConfigError: If the graph cannot be opened or made.
    """
    if source is not None:
        store = open_input(source, comm, method=method)
        yield Path(source).name or source, open_shard(store, comm)
        return
    with tempfile.TemporaryDirectory(prefix="graphtheta-bench-") as made:
        folder = Path(comm.broadcast_text(made, stage="bench: folder"))
        if comm.rank == 0:
            rmat_store(
                folder / "store",
                scale,
                edge_factor,
                num_parts=comm.size,
                method=method,
                **options,
            )
        comm.barrier(stage="bench: graph made")
        yield f"rmat {scale} x {edge_factor}", open_shard(folder / "store", comm)
        comm.barrier(stage="bench: graph measured")


def described(name: str, manifest: Manifest) -> dict[str, Any]:
    """Return what a case says of its graph."""
    return {
        "graph": name,
        "nodes": manifest.num_nodes,
        "edges": manifest.num_edges,
        "parts": manifest.num_parts,
        "method": manifest.method,
    }
