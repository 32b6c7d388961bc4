"""Graph for the tests of strategies."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa

import graphtheta as gt
from tests.graphs import random_graph, to_graph

__all__ = ["graph"]


@cache
def graph() -> gt.Graph:
    """Return a graph with self-loops, parallel edges, isolated nodes and missing labels."""
    num_nodes, src, dst = random_graph(57, 300)
    made = to_graph((num_nodes + 3, src, dst), dtype=np.float64)
    weight = np.random.default_rng(0).random(made.num_edges)
    return gt.Graph(made.nodes, made.edges.append_column("weight", pa.array(weight)))
