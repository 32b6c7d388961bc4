"""Stores to export, with a column of every kind, and the rows they were made from."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from graphtheta.data.graph import Graph
from graphtheta.partition import Plan, Store, make_store, open_store
from tests.graphs import CORNER_GRAPHS, to_graph

__all__ = ["CORNERS", "edge_rows", "node_rows", "rich_graph", "store_of"]

CORNERS = ["edgeless", "self_loops", "parallel_edges", "star_in", "isolated_nodes", "power_law"]


def rich_graph(corner: str, *, text_ids: bool = False) -> Graph:
    """Return a small graph with missing labels and with columns that cannot be tensors."""
    graph = to_graph(CORNER_GRAPHS[corner], text_ids=text_ids)
    n, e = graph.num_nodes, graph.num_edges
    rng = np.random.default_rng(7)
    node_columns: dict[str, Any] = {
        "label:flag": pa.array(rng.random(n) < 0.5, mask=rng.random(n) < 0.4),
        "label:many": pa.array(
            [None if i % 3 == 1 else [i % 2 == 0, i % 5 == 0] for i in range(n)],
            pa.list_(pa.bool_(), 2),
        ),
        "split:other": pa.array(rng.integers(0, 4, n).astype(np.int8)),
        "day": pa.array([date(2026, 1, 1 + i % 28) for i in range(n)]),
        "count": pa.array(rng.integers(0, 60_000, n).astype(np.uint16)),
        "holes": pa.array(rng.integers(0, 9, n), mask=np.arange(n) == 0),
    }
    edge_columns: dict[str, Any] = {
        "weight": pa.array(rng.random(e).astype(np.float32)),
        "label:good": pa.array(rng.integers(0, 3, e)),
        "split:split": pa.array(rng.integers(0, 4, e).astype(np.int8)),
        "note": pa.array([f"edge {i}" for i in range(e)], pa.string()),
    }
    nodes, edges = graph.nodes, graph.edges
    for name, column in node_columns.items():
        nodes = nodes.append_column(name, column)
    for name, column in edge_columns.items():
        edges = edges.append_column(name, column)
    return Graph(nodes, edges)


def store_of(
    graph: Graph, path: Path, parts: int, method: str = "node-hash", **options: Any
) -> Store:
    """Write a store with at most as many parts as nodes, and open it."""
    make_store(graph, path, Plan(min(parts, graph.num_nodes), method, **options))
    return open_store(path)


def node_rows(graph: Graph) -> list[dict[str, Any]]:
    """Return the values of each node, by node_key."""
    rows: list[dict[str, Any]] = graph.nodes.to_pylist()
    return rows


def edge_rows(graph: Graph, *, undirected: bool = False) -> dict[int, dict[str, Any]]:
    """Return the values of each edge, with `src` and `dst` as node keys, by edge_key."""
    rows = dict(enumerate(graph.edges.to_pylist()))
    if undirected:
        rows |= {
            key + graph.num_edges: {**row, "src": row["dst"], "dst": row["src"]}
            for key, row in list(rows.items())
            if row["src"] != row["dst"]
        }
    return rows
