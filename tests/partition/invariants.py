"""Invariants of the parts of any graph, checked against the whole graph by slow, simple code."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.graph import Graph
from graphtheta.partition import PartTables, column_numpy
from tests.partition.sources import Whole

Ints = NDArray[np.int64]


def expected_edges(
    graph: Graph, undirected: bool, self_loops: bool = True, repeats: bool = True
) -> tuple[Ints, Ints, Ints]:
    """Return src, dst and edge_key of every edge of the store, by edge_key."""
    src, dst, keys = graph.src, graph.dst, np.arange(graph.num_edges)
    no_loop = src != dst
    if undirected:
        src, dst, keys = (
            np.concatenate([src, dst[no_loop]]),
            np.concatenate([dst, src[no_loop]]),
            np.concatenate([keys, keys[no_loop] + graph.num_edges]),
        )
    kind = np.zeros(len(src), np.int64)
    if "type" in graph.edges.column_names:
        kind = graph.column("type")[keys % max(graph.num_edges, 1)]
    seen: set[tuple[int, ...]] = set()
    kept = []
    columns = (src.tolist(), dst.tolist(), kind.tolist())
    for position, edge in enumerate(zip(*columns, strict=True)):
        if (self_loops or edge[0] != edge[1]) and (repeats or edge not in seen):
            kept.append(position)
        seen.add(edge)
    return src[kept], dst[kept], keys[kept]


def check(
    whole: Whole,
    graph: Graph,
    *,
    undirected: bool = False,
    self_loops: bool = True,
    repeats: bool = True,
) -> None:
    """Check all invariants of the format of parts."""
    parts, manifest = whole.parts, whole.build.manifest
    assert sorted(parts) == list(range(manifest.num_parts))
    edges = expected_edges(graph, undirected, self_loops, repeats)
    assert manifest.num_edges == len(edges[0])
    assert manifest.num_nodes == graph.num_nodes
    for part in parts.values():
        _check_types(part)
        _check_orders(part)
    _check_edges(whole, graph, edges)
    _check_masters(whole, graph, edges)
    _check_replicas(whole)
    _check_plan(parts)
    if manifest.cut == "edge":
        for part in parts.values():
            assert column_numpy(part.in_indptr, "indptr")[part.num_masters] == part.num_edges
            assert set(column_numpy(part.plan, "role").tolist()) <= {1}
    _check_quality(whole)


def _check_types(part: PartTables) -> None:
    def types(table: pa.Table) -> dict[str, str]:
        return {field.name: str(field.type) for field in table.schema}

    assert types(part.replicas) == {"node_key": "int64", "owner": "int32", "owner_local": "int32"}
    assert types(part.in_indptr) == types(part.out_indptr) == {"indptr": "int64"}
    assert types(part.out_edges) == {"dst": "int32", "csc_position": "int32"}
    assert types(part.plan) == {"peer": "int32", "master": "int32", "role": "int8"}
    edges = types(part.in_edges_of())
    assert list(edges)[:3] == ["src", "edge_key", "in_position"]
    assert [edges[name] for name in list(edges)[:3]] == ["int32", "int64", "int64"]
    masters = types(part.masters_of())
    assert list(masters)[:4] == ["node_key", "original_id", "in_degree", "out_degree"]
    assert [masters[name] for name in ("node_key", "in_degree", "out_degree")] == ["int64"] * 3
    for table in part.tables().values():
        assert all(column.num_chunks <= 1 for column in table.columns)


def _rows(indptr: Ints) -> Ints:
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def _check_orders(part: PartTables) -> None:
    csc, csr = column_numpy(part.in_indptr, "indptr"), column_numpy(part.out_indptr, "indptr")
    assert len(csc) == len(csr) == part.num_replicas + 1
    assert csc[0] == csr[0] == 0
    assert csc[-1] == csr[-1] == part.num_edges == part.out_edges.num_rows
    dst, key = _rows(csc), column_numpy(part.in_edges, "edge_key")
    np.testing.assert_array_equal(np.lexsort((key, dst)), np.arange(part.num_edges))
    position = column_numpy(part.out_edges, "csc_position")
    assert sorted(position.tolist()) == list(range(part.num_edges))
    np.testing.assert_array_equal(column_numpy(part.in_edges, "src")[position], _rows(csr))
    np.testing.assert_array_equal(column_numpy(part.out_edges, "dst"), dst[position])
    np.testing.assert_array_equal(np.lexsort((position, _rows(csr))), np.arange(part.num_edges))


def _check_edges(whole: Whole, graph: Graph, edges: tuple[Ints, Ints, Ints]) -> None:
    src, dst, edge_key = edges
    in_position = np.empty(len(src), np.int64)
    for node in range(graph.num_nodes):
        rows = np.flatnonzero(dst == node)
        in_position[rows] = np.arange(len(rows))
    found = []
    for part in whole.parts.values():
        node_key = column_numpy(part.replicas, "node_key")
        keys = column_numpy(part.in_edges, "edge_key")
        row = np.searchsorted(edge_key, keys)
        np.testing.assert_array_equal(edge_key[row], keys)
        np.testing.assert_array_equal(node_key[column_numpy(part.in_edges, "src")], src[row])
        np.testing.assert_array_equal(
            node_key[_rows(column_numpy(part.in_indptr, "indptr"))], dst[row]
        )
        np.testing.assert_array_equal(column_numpy(part.in_edges, "in_position"), in_position[row])
        for name in set(graph.edges.column_names) - {"src", "dst"}:
            expected = graph.edges[name].take(pa.array(keys % max(graph.num_edges, 1)))
            assert part.in_edges_of()[name].equals(expected), name
        found.append(keys)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), edge_key)


def _check_masters(whole: Whole, graph: Graph, edges: tuple[Ints, Ints, Ints]) -> None:
    src, dst, _ = edges
    in_degree = np.bincount(dst, minlength=graph.num_nodes)
    out_degree = np.bincount(src, minlength=graph.num_nodes)
    owned = []
    for part in whole.parts.values():
        key = column_numpy(part.masters, "node_key")
        np.testing.assert_array_equal(column_numpy(part.masters, "in_degree"), in_degree[key])
        np.testing.assert_array_equal(column_numpy(part.masters, "out_degree"), out_degree[key])
        taken = graph.nodes.take(pa.array(key)).rename_columns(
            ["original_id", *graph.nodes.column_names[1:]]
        )
        assert part.node_columns[0].equals(taken)
        rows = _rows(column_numpy(part.in_indptr, "indptr"))
        from_mirror = column_numpy(part.in_edges, "src") >= part.num_masters
        boundary = np.isin(np.arange(part.num_masters), rows[from_mirror])
        assert not boundary[: part.num_interior].any()
        assert boundary[part.num_interior :].all()
        # Interior masters first; then by the number of bits of the degree, descending; then by key.
        power = [int(degree).bit_length() for degree in in_degree[key] + out_degree[key]]
        expected = np.lexsort((key, -np.array(power, np.int64), boundary))
        np.testing.assert_array_equal(expected, np.arange(part.num_masters))
        owned.append(key)
    np.testing.assert_array_equal(np.sort(np.concatenate(owned)), np.arange(graph.num_nodes))


def _check_replicas(whole: Whole) -> None:
    for index, part in whole.parts.items():
        key = column_numpy(part.replicas, "node_key")
        owner = column_numpy(part.replicas, "owner")
        local = column_numpy(part.replicas, "owner_local")
        assert len(np.unique(key)) == len(key)
        m = part.num_masters
        assert (owner[:m] == index).all()
        assert (owner[m:] != index).all()
        np.testing.assert_array_equal(local[:m], np.arange(m))
        np.testing.assert_array_equal(key[:m], column_numpy(part.masters, "node_key"))
        np.testing.assert_array_equal(
            np.lexsort((local[m:], owner[m:])), np.arange(part.num_mirrors)
        )
        for row in range(m, len(key)):
            owning = whole.parts[int(owner[row])]
            assert column_numpy(owning.masters, "node_key")[local[row]] == key[row]
        in_edges = np.diff(column_numpy(part.in_indptr, "indptr"))[m:]
        out_edges = np.diff(column_numpy(part.out_indptr, "indptr"))[m:]
        assert (in_edges + out_edges > 0).all(), "a mirror without an edge"
    manifest = whole.build.manifest
    if manifest.cut == "vertex" and manifest.placement == "method":
        for part in whole.parts.values():
            local = np.diff(column_numpy(part.in_indptr, "indptr"))
            local = local + np.diff(column_numpy(part.out_indptr, "indptr"))
            degree = column_numpy(part.masters, "in_degree")
            degree = degree + column_numpy(part.masters, "out_degree")
            assert (local[: part.num_masters][degree > 0] > 0).all(), "a master without an edge"


def _check_plan(parts: dict[int, PartTables]) -> None:
    for index, part in parts.items():
        expected = []
        for peer, other in sorted(parts.items()):
            owner = column_numpy(other.replicas, "owner")
            local = column_numpy(other.replicas, "owner_local")
            in_edges = np.diff(column_numpy(other.in_indptr, "indptr")) > 0
            out_edges = np.diff(column_numpy(other.out_indptr, "indptr")) > 0
            for row in range(other.num_masters, other.num_replicas):
                if owner[row] == index:
                    role = int(out_edges[row]) + 2 * int(in_edges[row])
                    expected.append({"peer": peer, "master": int(local[row]), "role": role})
        assert part.plan.to_pylist() == expected


def _check_quality(whole: Whole) -> None:
    book, quality = whole.build.book, whole.build.manifest.quality
    parts = [whole.parts[index] for index in sorted(whole.parts)]
    masters = [part.num_masters for part in parts]
    mirrors = sum(part.num_mirrors for part in parts)
    edges = [part.num_edges for part in parts]
    assert book.masters.tolist() == masters
    assert book.edges.tolist() == edges
    assert book.first_new_id.tolist() == [sum(masters[:i]) for i in range(len(parts))]
    assert int(book.mirrors.sum()) == mirrors == quality.mirrors
    assert quality.replication_factor == (sum(masters) + mirrors) / sum(masters)
    assert np.isclose(quality.node_balance, max(masters) * len(parts) / sum(masters))
    assert np.isclose(
        quality.edge_balance, max(edges) * len(parts) / sum(edges) if sum(edges) else 1
    )
