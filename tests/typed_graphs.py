"""Graphs of several node types and relations, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column

__all__ = ["WRITES", "typed_graph", "typed_tables"]

WRITES = ("author", "writes", "paper")
_SIZES = {"author": 13, "empty": 0, "paper": 21, "venue": 4}


def typed_tables(seed: int = 0) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Return node and edge tables for `Graph.from_arrow`: 4 types, one empty, and 5 relations.

    Ids of authors and venues are the same numbers, those of papers are texts. Each type and
    relation has other columns, or none, and one relation has no edges.
    """
    rng = np.random.default_rng(seed)
    authors, _, papers, venues = _SIZES.values()
    known = rng.random(papers) < 0.7
    ids = {
        "author": np.arange(authors),
        "paper": np.array([f"p{i}" for i in rng.permutation(papers)]),
        "venue": 5 + 3 * np.arange(venues),
    }
    nodes = {
        "author": {
            "id": ids["author"],
            "features": matrix_column(rng.random((authors, 3), np.float32)),
        },
        "empty": pa.table({"id": pa.array([], pa.int64()), "age": pa.array([], pa.int64())}),
        "paper": {
            "id": ids["paper"],
            "features": matrix_column(rng.random((papers, 2), np.float32)),
            "label:y": pa.array(rng.permutation(np.arange(papers) % 3), mask=~known),
            "split:split": pa.array((np.arange(papers) % 4).astype(np.int8)),
            "title": [f"title {i}" for i in range(papers)],
        },
        "venue": {"id": ids["venue"]},
    }

    def ends(source: str, destination: str, count: int) -> dict[str, Any]:
        return {"src": rng.choice(ids[source], count), "dst": rng.choice(ids[destination], count)}

    edges: dict[Any, Any] = {
        WRITES: {
            **ends("author", "paper", 40),
            "weight": rng.random(40, np.float32),
            "label:stars": pa.array(np.arange(40) % 5, mask=np.arange(40) % 7 == 0),
            "split:split": pa.array((np.arange(40) % 3).astype(np.int8)),
        },
        "paper-cites-paper": ends("paper", "paper", 60),
        "paper-extends-paper": {**ends("paper", "paper", 9), "type": np.arange(9) % 2},
        "author-likes-paper": {"src": pa.array([], pa.int64()), "dst": pa.array([], pa.string())},
        "paper-in-venue": {**ends("paper", "venue", 21), "weight": rng.random(21, np.float32)},
    }
    return nodes, edges


def typed_graph(seed: int = 0) -> Graph:
    """Return the graph of `typed_tables`."""
    return Graph.from_arrow(*typed_tables(seed))
