"""Predictions of some nodes equal those of the whole graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import GraphFormatError
from graphtheta.inference.nodes import infer_nodes, masters_in_table
from graphtheta.inference.whole import infer
from tests.graphs import random_graph, to_graph
from tests.nn.steps import CASES, assert_equal

GRAPH = to_graph(random_graph(57, 300), dtype=np.float64, text_ids=True)
IDS = GRAPH.nodes["id"]


@pytest.mark.parametrize("name", ["gcn_batch_norm", "gat_edges", "sage_max", "rgcn"])
@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (2, "dbh"), (3, "node-hash")])
def test_some_nodes_same_as_all(
    name: str, workers: int, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphtheta.inference.nodes._BATCH_SIZE", 4)
    table = tmp_path / "ids.parquet"
    expected = [3, 50, 17, 3, 0, 29, 30, 31, 32]
    pq.write_table(pa.table({"id": IDS.take(expected)}), table)

    def job(comm: Communicator) -> int:
        shard = gt.open_shard(GRAPH, comm, method=method)
        model = CASES[name](dropout=0.5).double()
        rows = masters_in_table(shard, str(table))
        assert set(shard.node_key_L[rows]) <= set(expected)
        for embeddings in (False, True):
            some = infer_nodes(model, shard, rows, embeddings=embeddings)
            assert_equal(some, infer(model, shard, embeddings=embeddings)[rows], 1e-12)
        return int(comm.all_gather_int(len(rows), stage="rows").sum())

    assert gt.run_local(job, workers=workers, timeout_s=60) == len(set(expected))


def test_wrong_tables_raise_graph_format_error(tmp_path: Path) -> None:
    shard = gt.open_shard(GRAPH)
    for columns, message in (
        ({"id": ["nobody", "node-7x"]}, "got 2 unknown ids: 'nobody', 'node-7x'"),
        ({"a": ["x"], "b": ["y"]}, r"expected a column 'id', got \['a', 'b'\]"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "ids.parquet")
        with pytest.raises(GraphFormatError, match=message):
            masters_in_table(shard, str(tmp_path / "ids.parquet"))
    pq.write_table(pa.table({"id": ["nobody"]}), tmp_path / "ids.parquet")
    numbers = gt.open_shard(to_graph(random_graph(10, 20)))
    for ids in (
        pa.array(["nobody"]),
        pa.array([True]),
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([1.5]),
        pa.array([1], pa.timestamp("s")),
    ):
        pq.write_table(pa.table({"id": ids}), tmp_path / "ids.parquet")
        with pytest.raises(GraphFormatError, match="expected ids of type int64, as the graph's"):
            masters_in_table(numbers, str(tmp_path / "ids.parquet"))


def test_an_empty_table_gives_no_predictions(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "ids.parquet")
    shard = gt.open_shard(GRAPH)
    rows = masters_in_table(shard, str(tmp_path / "ids.parquet"))
    assert infer_nodes(CASES["gcn"]().double(), shard, rows).shape == (0, 4)
