"""Wrong values are refused before the graph is moved, with their file and column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta import Graph
from graphtheta.datasets.tables import TableSource
from graphtheta.errors import GraphFormatError
from graphtheta.partition import Plan, make_store


def source_of(tmp_path, nodes, edges, **options):
    ends = {"src": [0, 1, 2], "dst": [1, 2, 0]}
    pq.write_table(pa.table({"id": [0, 1, 2], **nodes}), tmp_path / "nodes.parquet")
    pq.write_table(pa.table({**ends, **edges}), tmp_path / "edges.parquet")
    return TableSource(str(tmp_path / "nodes.parquet"), str(tmp_path / "edges.parquet"), **options)


@pytest.mark.parametrize(
    ("nodes", "edges", "options", "message"),
    [
        ({"x": [0.0, 1.0, np.inf]}, {}, {"features": "x"}, r"nodes\.parquet: features.*row 2"),
        ({}, {"w": [1.0, np.inf, 0.0]}, {"edge_weight": "w"}, r"edges\.parquet: weight.*row 1"),
        (
            {"y": [3, 3, None]},
            {},
            {"labels": "y"},
            "label:y: expected at least two",
        ),
        ({"y": ["a", "a", None]}, {}, {"labels": "y"}, "expected at least two classes"),
        ({"y": [True, True, True]}, {}, {"labels": "y"}, "expected at least two classes"),
        (
            {},
            {"s": [1, 1, 1]},
            {"edge_labels": "s"},
            r"edges\.parquet: label:s: .*at least two",
        ),
    ],
)
def test_wrong_values_are_refused_first(tmp_path, monkeypatch, nodes, edges, options, message):
    source = source_of(tmp_path, nodes, edges, **options)
    moved = "graphtheta.partition.pipeline.pipeline.resolve_edges"
    monkeypatch.setattr(moved, lambda *_, **__: pytest.fail("the edges were moved"))
    if "two" not in message:  # a graph in memory may have a label of one class
        with pytest.raises(GraphFormatError, match=message):
            Graph.from_source(source)
    with pytest.raises(GraphFormatError, match=message):
        make_store(source, tmp_path / "store", Plan(1))


@pytest.mark.parametrize(
    "column", [pa.nulls(3), pa.nulls(3, pa.float32()), pa.nulls(3, pa.list_(pa.bool_(), 2))]
)
def test_labels_of_nulls_only_are_refused(tmp_path, caplog, column):
    source = source_of(tmp_path, {"y": column}, {}, labels="y")
    message = "label:y: expected labels, got only nulls"
    with pytest.raises(GraphFormatError, match=message):
        make_store(source, tmp_path / "store", Plan(1))
    make_store(Graph.from_source(source), tmp_path / "store", Plan(1))  # a graph to predict on
    assert message in caplog.text


def test_unknown_and_duplicate_ids_are_reported_with_their_file(tmp_path):
    for nodes, edges, message in (
        ({}, {"src": [0, 1, 7]}, r"edges\.parquet: src: .* unknown 7 in row 2"),
        ({"id": [0, 2, 2]}, {}, r"nodes\.parquet: id: .* 2 more than once"),
    ):
        with pytest.raises(GraphFormatError, match=message):
            make_store(source_of(tmp_path, nodes, edges), tmp_path / "store", Plan(1))


def test_names_of_classes_and_types_are_in_the_manifest(tmp_path):
    columns = {"y": ["b", "a", None]}, {"kind": ["likes", "blocks", "likes"]}
    source = source_of(tmp_path, *columns, labels="y", edge_type="kind")
    for made in (source, Graph.from_source(source)):
        name = type(made).__name__
        manifest = make_store(made, tmp_path / name, Plan(2)).manifest
        assert manifest.labels["y"].classes == ("a", "b")
        assert manifest.labels["y"].num_classes == 2
        assert manifest.edge_types == ("blocks", "likes")
        assert manifest.num_edge_types == 2
