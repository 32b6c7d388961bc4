"""Cover placement: minimum vertex covers, and stores whose edges are placed by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from graphtheta.errors import ConfigError, PartitionError
from graphtheta.partition import (
    Balance,
    Plan,
    Resources,
    assess,
    build,
    column_numpy,
    compare,
    make_store,
    open_store,
    write_assignment,
)
from graphtheta.partition.pipeline.assign import Assignment
from graphtheta.partition.placement import cover
from graphtheta.partition.placement.vertex_cover import vertex_cover
from tests.graphs import CORNER_GRAPHS, power_law, random_graph, to_graph
from tests.partition.invariants import check
from tests.partition.sources import build_on, by_id

COVER = {"placement": "cover"}


@st.composite
def bipartite_graphs(draw: st.DrawFn) -> tuple[int, int, NDArray[np.int32]]:
    left, right = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    edge = st.tuples(st.integers(0, left - 1), st.integers(0, right - 1))
    edges = draw(st.lists(edge, max_size=18))
    return left, right, np.array(edges, np.int32).reshape(-1, 2)


@settings(max_examples=150, deadline=None)
@given(graph=bipartite_graphs(), weights=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_cover_is_the_least_and_of_these_the_one_with_most_left_nodes(
    graph: tuple[int, int, NDArray[np.int32]], weights: tuple[int, int]
) -> None:
    num_left, num_right, edges = graph
    left, right = edges.T.copy()
    of_left, of_right = vertex_cover(
        left, right, num_left, num_right, left_weight=weights[0], right_weight=weights[1]
    )
    assert (of_left[left] | of_right[right]).all()
    found = weights[0] * of_left.sum() + weights[1] * of_right.sum(), -of_left.sum()
    choices = []
    for bits in range(1 << num_left):  # the right nodes follow from the left ones
        chosen = (bits >> np.arange(num_left)) & 1
        needed = len(np.unique(right[chosen[left] == 0]))
        choices.append((weights[0] * chosen.sum() + weights[1] * needed, -chosen.sum()))
    assert found == min(choices)


def fewest_rows(src: NDArray[Any], dst: NDArray[Any], part: NDArray[Any]) -> int:
    """Count the rows of all pairs of parts by maximum matchings of SciPy."""
    total, size = 0, len(part)
    for pair in {(p, q) for p, q in zip(part[src], part[dst], strict=True) if p != q}:
        of_pair = (part[src] == pair[0]) & (part[dst] == pair[1])
        ends = src[of_pair], dst[of_pair]
        edges = csr_array((np.ones(of_pair.sum()), ends), shape=(size, size))
        total += int((maximum_bipartite_matching(edges) >= 0).sum())
    return total


def test_stores_exchange_the_fewest_rows_and_never_more_than_the_edge_cut(tmp_path: Path) -> None:
    graph = to_graph(power_law(300, 2000))
    for method in ("node-hash", "fennel"):
        edge_cut = assess(graph, Plan(5, method, undirected=True))
        assert edge_cut.syncs.sum() == edge_cut.mirrors.sum()
        assert not edge_cut.merges.any()
        plan = Plan(5, method, undirected=True, **COVER, merge_weight=1)
        write_assignment(graph, tmp_path / method, plan)
        part = pq.read_table(tmp_path / method / "nodes.parquet")["part"].to_numpy()
        ends = np.concatenate([graph.src, graph.dst]), np.concatenate([graph.dst, graph.src])
        rows = fewest_rows(*ends, part)
        assert rows < 0.8 * edge_cut.syncs.sum()
        for weight in (1.0, 1.25, 3.0):
            plan = Plan(5, method, undirected=True, **COVER, merge_weight=weight)
            counts = assess(graph, plan)
            assert (counts.masters == edge_cut.masters).all()
            weighted = counts.syncs.sum() + weight * counts.merges.sum()
            assert rows <= weighted <= edge_cut.syncs.sum()
            assert weight > 1 or weighted == rows


def test_compare_lists_partitioners_of_nodes_without_and_with_cover_placement() -> None:
    graph = to_graph(power_law(60, 300))
    found = list(compare(graph, Plan(3, **COVER), ["node-hash", "dbh"]))
    names = [("node-hash", "method"), ("node-hash", "cover"), ("dbh", "method")]
    assert [(one.method, one.placement) for one in found] == names
    counts = [one.counts for one in found if one.counts is not None]
    assert counts[1].syncs.sum() + counts[1].merges.sum() < counts[0].syncs.sum()
    built = build(graph, Plan(3, "node-hash", **COVER))
    assert (counts[1].edges == built.book.edges).all()
    merging = [column_numpy(part.plan, "role") & 2 > 0 for part in built.parts.values()]
    assert counts[1].merges.sum() == sum(mask.sum() for mask in merging)


@pytest.mark.parametrize("name", CORNER_GRAPHS)
def test_build_keeps_every_invariant_on_corner_graphs(name: str) -> None:
    graph = to_graph(CORNER_GRAPHS[name])
    for num_parts in {1, min(3, graph.num_nodes), min(8, graph.num_nodes)}:
        check(build_on(graph, num_parts, 2, method="node-hash", **COVER), graph)


def test_store_has_the_same_bytes_for_any_number_of_ranks_and_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = by_id(to_graph(power_law(300, 2500), text_ids=True))
    plan = {"method": "node-hash", "undirected": True, "repeats": False, "seed": 3, **COVER}
    alone = build(graph, Plan(5, **plan)).manifest
    assert (alone.placement, alone.merge_weight, alone.cut) == ("cover", 1.25, "vertex")
    monkeypatch.setattr(cover, "_RANGE", 700)  # moved edges of several ranges
    monkeypatch.setattr("graphtheta.data.batches.CHUNK_ROWS", 400)
    assert build(graph, Plan(5, **plan), Resources(threads=3)).manifest == alone
    for workers in (2, 3):
        assert build_on(graph, 5, workers, **plan).build.manifest == alone
    other = build(graph, Plan(5, **plan, merge_weight=3)).manifest
    assert other.checksum != alone.checksum


def test_written_assignment_equals_that_of_the_store(tmp_path: Path) -> None:
    graph, plan = to_graph(power_law(60, 300)), Plan(3, "fennel", **COVER)
    write_assignment(graph, tmp_path / "assigned", plan)
    nodes = pq.read_table(tmp_path / "assigned" / "nodes.parquet")["part"].to_numpy()
    edges = pq.read_table(tmp_path / "assigned" / "edges.parquet")["part"].to_numpy()
    for index, part in build(graph, plan).parts.items():
        assert (nodes[column_numpy(part.masters, "node_key")] == index).all()
        assert (edges[column_numpy(part.in_edges, "edge_key")] == index).all()


def test_interrupted_placement_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, plan = to_graph(power_law(60, 300)), Plan(3, "node-hash", **COVER)
    with monkeypatch.context() as patch:
        patch.setattr(Assignment, "part_of_edges", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_store(graph, tmp_path / "store", plan)
    store = make_store(graph, tmp_path / "store", plan)
    open_store(store.path).verify()
    assert store.checksum == build(graph, plan).manifest.checksum
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def interrupted(_: Assignment) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "dbh"}, r"partitioner of nodes .*got dbh, .* one of node-hash, range"),
        ({"method": "ldg", "balance": Balance(edges=1.1)}, r"no limit on the balance of edges"),
        ({"merge_weight": 0.9}, r"\(--merge-weight\) from 1 to 64, got 0\.9"),
        ({"merge_weight": float("nan")}, r"\(--merge-weight\) from 1 to 64, got nan"),
        ({"placement": "best"}, r"\(--placement\).*one of cover, method, got 'best'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Plan(3, **(COVER | options))


def test_memory_limit_refuses_cut_edges_that_do_not_fit() -> None:
    graph = to_graph(random_graph(3000, 60_000))
    with pytest.raises(PartitionError, match=r"the cut edges into a part to fit .* more parts\."):
        build(graph, Plan(2, "node-hash", **COVER), Resources(memory_limit=900_000))
