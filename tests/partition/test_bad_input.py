"""Invalid input of the partitioning pipeline: errors of one line with a remedy."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from graphtheta.errors import ConfigError, GraphFormatError, GraphThetaError, PartitionError
from graphtheta.partition import Plan, build
from tests.partition.sources import IdSource, build_on

NAN = float("nan")
EDGES = {"src": ["a", "b", "c"], "dst": ["b", "c", "a"]}
CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any], str]] = {
    "unknown_id": ({"id": ["a", "b"]}, EDGES, r"edges: dst|edges: src.*unknown 'c' in row"),
    "duplicate_id": ({"id": ["a", "b", "c", "b"]}, EDGES, "nodes: id.*'b' more than once"),
    "other_id_type": ({"id": [1, 2, 3]}, EDGES, "edges: src.*int64.*string"),
    "null_id": ({"id": ["a", None]}, EDGES, "nodes: id"),
    "nan_feature": (
        {"id": ["a", "b", "c"], "features": pa.array([[NAN]] * 3, pa.list_(pa.float32(), 1))},
        EDGES,
        "nodes: features.*NaN",
    ),
    "null_endpoint": (None, {"src": ["a", None], "dst": ["b", "c"]}, "edges: src"),
    "mixed_id_types": (None, {"src": ["a"], "dst": [1]}, "edges: dst.*string.*int64"),
    "no_edges_and_no_nodes": (
        None,
        {"src": pa.array([], pa.int64()), "dst": pa.array([], pa.int64())},
        "nodes: expected at least one node",
    ),
    "node_column_of_the_store": ({"id": ["a", "b", "c"], "in_degree": [1, 2, 3]}, EDGES, "Rename"),
    "edge_column_of_the_store": (None, {**EDGES, "edge_key": [1, 2, 3]}, "edges:.*Rename"),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_build_raises_graph_format_error(case: str, workers: int) -> None:
    nodes, edges, match = CASES[case]
    source = IdSource(None if nodes is None else pa.table(nodes), pa.table(edges))
    with pytest.raises(GraphFormatError, match=match) as caught:
        build_on(source, 1, workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [-1, 3])
def test_build_raises_graph_format_error_when_a_key_is_out_of_range(key: int) -> None:
    source = IdSource(
        pa.table({"id": [5, 6, 7]}), pa.table({"src": [0, key], "dst": [1, 1]}), keyed=True
    )
    with pytest.raises(GraphFormatError, match=rf"edges: src.*\[0, 3\).*{key} in row 1"):
        build(source, Plan(1))


@pytest.mark.parametrize(
    ("num_parts", "method", "error", "match"),
    [
        (4, "dbh", PartitionError, r"got 4 parts for 3 nodes\. Use fewer"),
        (0, "dbh", ConfigError, "at least one part, got 0"),
        (1, "hdrf2", ConfigError, "partitioner .*: expected one of 2ps-l, .*, got 'hdrf2'"),
    ],
    ids=["more_parts_than_nodes", "no_parts", "unknown_method"],
)
def test_build_raises_for_impossible_plans(
    num_parts: int, method: str, error: type[GraphThetaError], match: str
) -> None:
    source = IdSource(None, pa.table(EDGES))
    with pytest.raises(error, match=match):
        build(source, Plan(num_parts, method))
