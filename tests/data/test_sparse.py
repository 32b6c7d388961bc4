"""Sparse columns: what they are read from, what is refused, and how a store keeps them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
import torch

import graphtheta as gt
from graphtheta.data.sparse import SparseMatrix, SparseType, sparse_column
from graphtheta.errors import GraphFormatError, StoreError
from graphtheta.partition import Plan, make_store, open_store
from graphtheta.partition.store.check_part import check_values

N, F = 60, 200
RNG = np.random.default_rng(0)
EDGES = {"src": RNG.integers(0, N, 200), "dst": RNG.integers(0, N, 200)}


def words(*, ones: bool = False) -> scipy.sparse.csr_matrix:
    matrix = scipy.sparse.random(N, F, 0.02, "csr", np.float32, np.random.default_rng(1))
    matrix.data = np.ones_like(matrix.data) if ones else matrix.data - np.float32(0.5)
    last = scipy.sparse.csr_matrix(([np.float32(1)], ([7], [F - 1])), (N, F))
    return matrix + last  # the last column exists in lists of indices, too


def graph_of(features: Any, **options: Any) -> gt.Graph:
    nodes = {"id": np.arange(N), "features": features}
    return gt.Graph.from_arrow(nodes, EDGES, **options)


def lists(matrix: scipy.sparse.csr_matrix) -> list[list[int]]:
    return [matrix[row].indices.tolist() for row in range(N)]


def pairs(matrix: scipy.sparse.csr_matrix) -> list[list[dict[str, float]]]:
    rows = [matrix[row] for row in range(N)]
    return [
        [{"index": i, "value": v} for i, v in zip(row.indices, row.data, strict=True)]
        for row in rows
    ]


def tensor(matrix: scipy.sparse.csr_matrix, layout: torch.layout) -> torch.Tensor:
    dense = torch.from_numpy(matrix.toarray())
    return dense.to_sparse_csr() if layout == torch.sparse_csr else dense.to_sparse()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("ones", [False, True], ids=["values", "ones"])
@pytest.mark.parametrize("given", ["scipy", "csr tensor", "coo tensor", "lists"])
def test_sparse_sources_stay_sparse(given: str, ones: bool) -> None:
    matrix = words(ones=ones)
    features: Any = matrix
    if given == "lists":
        features = lists(features) if ones else pairs(features)
    elif given != "scipy":
        features = tensor(features, torch.sparse_csr if given[1] == "s" else torch.sparse_coo)
    graph = graph_of(features)
    kind = graph.nodes.schema.field("features").type
    assert isinstance(kind, SparseType)
    assert (kind.value_type is None) == ones
    assert graph.num_features == F
    assert np.array_equal(graph.features.toarray(), matrix.toarray())
    assert np.array_equal(graph.column("features", of="nodes"), matrix.toarray())


def test_what_does_not_pay_becomes_dense() -> None:
    full = scipy.sparse.csr_matrix(RNG.random((N, 5)).astype(np.float32))
    assert np.array_equal(graph_of(full).features, full.toarray())


def test_several_columns_become_one() -> None:
    matrix, ages = words(), RNG.random(N).astype(np.float32)
    nodes = {"id": np.arange(N), "a": matrix, "age": ages, "b": lists(words(ones=True))}
    graph = gt.Graph.from_arrow(nodes, EDGES, features=["a", "age", "b"])
    width = graph.num_features - F - 1
    expected = np.hstack([matrix.toarray(), ages[:, None], words(ones=True).toarray()[:, :width]])
    assert np.array_equal(graph.features.toarray(), expected)


def test_entries_at_one_position_are_added() -> None:
    column = sparse_column(
        np.array([1, 0, 1]), np.array([2, 1, 2]), np.array([1.0, 3.0, 4.0]), (2, 3)
    )
    assert SparseMatrix.of(column).dense().tolist() == [[0, 3, 0], [0, 0, 5]]
    sliced = SparseMatrix.of(pa.chunked_array([column.slice(1)]))
    assert sliced.dense().tolist() == [[0, 0, 5]]


@pytest.mark.parametrize(
    ("indices", "values", "match"),
    [
        ([0, 9], [1.0, 1.0], "indices below 9, got others in row 0"),
        ([3, 2], [1.0, 1.0], "ascending indices, got others in row 0"),
        ([2, 3], [1.0, np.nan], "finite numbers in the range of float32, got others in row 0"),
    ],
)
def test_wrong_columns_are_refused(indices: list[int], values: list[float], match: str) -> None:
    arrays = np.array([0, 2]), np.array(indices, np.int32), np.array(values, np.float32)
    nodes = pa.table({"id": [0], "features": SparseMatrix(*arrays, 9).column()})
    with pytest.raises(GraphFormatError, match=match):
        gt.Graph(nodes, {"src": [0], "dst": [0]})


def test_null_pairs_are_refused() -> None:
    kind = pa.list_(pa.struct([("index", pa.int32()), ("value", pa.float32())]))
    rows = pa.array([[{"index": 3, "value": None}]] * N, kind)
    with pytest.raises(GraphFormatError, match=r"pairs without nulls, got nulls in rows 0, 1"):
        graph_of(rows)


def test_a_store_keeps_them_sparse(tmp_path: Path) -> None:
    matrix = words()
    store = make_store(graph_of(matrix), tmp_path / "store", Plan(2, "node-hash"))
    spec = store.manifest.node_columns["features"]
    assert (spec.dtype, spec.width, spec.sparse) == ("float32", F, "values")
    store.verify()
    for number in range(2):
        part = open_store(store.path).part(number)
        found = SparseMatrix.of(part.node_columns[0]["features"]).dense()
        assert np.array_equal(found, matrix.toarray()[part.masters["node_key"].to_numpy()])
    features = SparseMatrix.of(part.node_columns[0]["features"])
    forged = SparseMatrix(features.indptr, features.indices + F, features.values, F)
    tables = (pa.table({"original_id": part.node_columns[0][0], "features": forged.column()}),)
    with pytest.raises(StoreError, match="ascending indices below 200 in column features, got"):
        check_values(replace(part, node_columns=tables), store.path, store.manifest, store.book)
