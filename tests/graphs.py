"""Small graphs with the shapes on which partitioned code goes wrong: name -> (N, src, dst)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column

__all__ = ["CORNER_GRAPHS", "CornerGraph", "power_law", "random_graph", "to_graph"]

CornerGraph = tuple[int, NDArray[np.int64], NDArray[np.int64]]


def _graph(num_nodes: int, *edges: tuple[int, int]) -> CornerGraph:
    ends = np.array(edges, np.int64).reshape(-1, 2)
    return num_nodes, ends[:, 0].copy(), ends[:, 1].copy()


def random_graph(num_nodes: int, num_edges: int, seed: int = 0) -> CornerGraph:
    """Edges between uniform endpoints: some self-loops, some parallel, some nodes without any."""
    rng = np.random.default_rng(seed)
    return num_nodes, *rng.integers(0, num_nodes, (2, num_edges), np.int64)


def power_law(num_nodes: int, num_edges: int, seed: int = 0) -> CornerGraph:
    """Endpoints by rank to a power: node 0 is on a large share of the edges."""
    rng = np.random.default_rng(seed)
    return num_nodes, *(num_nodes * rng.random((2, num_edges)) ** 4).astype(np.int64)


CORNER_GRAPHS: dict[str, CornerGraph] = {
    "one_node": _graph(1),
    "one_self_loop": _graph(1, (0, 0)),
    "edgeless": _graph(5),
    "self_loops": _graph(4, (0, 0), (1, 1), (0, 1), (1, 1), (2, 3), (3, 2)),
    "parallel_edges": _graph(3, (0, 1), (0, 1), (1, 0), (0, 1), (2, 1), (2, 1)),
    "star_in": _graph(9, *((leaf, 0) for leaf in range(1, 9))),
    "star_out": _graph(9, *((0, leaf) for leaf in range(1, 9))),
    "path": _graph(7, *((i, i + 1) for i in range(6))),
    "cycle": _graph(6, *((i, (i + 1) % 6) for i in range(6))),
    "two_components": _graph(8, (0, 1), (1, 2), (2, 0), (2, 3), (4, 5), (5, 6), (6, 7), (7, 4)),
    "isolated_nodes": _graph(8, (1, 4), (4, 1), (6, 1), (1, 6)),
    "all_between_two": _graph(6, *((2, 4),) * 20, *((4, 2),) * 10),
    "complete": _graph(5, *((i, j) for i in range(5) for j in range(5) if i != j)),
    "power_law": power_law(60, 400),
    "random": random_graph(40, 120),
}


def to_graph(
    corner: CornerGraph,
    *,
    text_ids: bool = False,
    seed: int = 0,
    dtype: type[np.floating[Any]] = np.float32,
) -> Graph:
    """Return a Graph with every kind of column, whose ids are not its node keys."""
    num_nodes, src, dst = corner
    rng = np.random.default_rng(seed)
    ids = 7 * rng.permutation(num_nodes) + 100
    score = rng.standard_normal(num_nodes).astype(np.float32)
    nodes = {
        "id": pa.array([f"node-{i}" for i in ids] if text_ids else ids),
        "features": matrix_column(rng.standard_normal((num_nodes, 3)).astype(dtype)),
        "label:y": pa.array(rng.integers(0, 4, num_nodes), mask=rng.random(num_nodes) < 0.3),
        "label:score": pa.array(score),
        "split:split": pa.array(rng.integers(0, 4, num_nodes).astype(np.int8)),
    }
    edges = {
        "src": pa.array(src),
        "dst": pa.array(dst),
        "attr": matrix_column(rng.standard_normal((len(src), 2)).astype(dtype)),
        "type": pa.array(rng.integers(0, 5, len(src))),
    }
    return Graph(pa.table(nodes), pa.table(edges))
