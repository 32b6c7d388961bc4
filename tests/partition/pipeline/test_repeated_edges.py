"""Repeated edges: duplicates by type are dropped and counted, and reverses are counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import graphtheta as gt
from graphtheta.partition import Plan, assess, build, make_store, open_store
from graphtheta.partition.pipeline import deduplicate
from tests.partition.sources import build_on, by_id


def graph_of(src: Any, dst: Any, kind: Any = None, nodes: int = 6) -> gt.Graph:
    edges = {"src": np.array(src), "dst": np.array(dst)}
    if kind is not None:
        edges["type"] = np.array(kind)
    return gt.Graph(pa.table({"id": np.arange(nodes) + 10}), pa.table(edges))


TYPED = graph_of([0, 0, 0, 1, 2, 2, 3], [1, 1, 1, 0, 2, 2, 4], [0, 1, 0, 0, 1, 1, 0])


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    ("options", "edges", "duplicates", "loops"),
    [
        ({}, 5, 2, 0),
        ({"undirected": True}, 7, 5, 0),
        ({"self_loops": False}, 4, 1, 2),
        ({"undirected": True, "self_loops": False}, 6, 4, 2),
    ],
)
def test_edges_of_other_types_are_no_duplicates(
    options: dict[str, bool], edges: int, duplicates: int, loops: int, workers: int
) -> None:
    for source in (TYPED, by_id(TYPED)):
        whole = build_on(source, 2, workers, method="dbh", repeats=False, **options)
        manifest = whole.build.manifest
        assert manifest.num_edges == edges
        assert (manifest.dropped_duplicates, manifest.dropped_self_loops) == (duplicates, loops)


def test_edges_without_types_are_duplicates_by_their_ends() -> None:
    plain = graph_of(TYPED.src, TYPED.dst)
    manifest = build(plain, Plan(1, repeats=False)).manifest
    assert (manifest.num_edges, manifest.dropped_duplicates) == (4, 3)


def test_a_comparison_drops_the_same_edges() -> None:
    plan = Plan(1, "dbh", repeats=False)
    assert assess(TYPED, plan).edges.sum() == build(TYPED, plan).manifest.num_edges


def test_numbers_of_dropped_edges_are_kept(tmp_path: Path) -> None:
    make_store(TYPED, tmp_path / "store", Plan(1, repeats=False, self_loops=False))
    store = open_store(tmp_path / "store")
    rows = [("dropped self-loops", "2"), ("dropped duplicates", "1")]
    assert store.manifest.dropped_rows() == rows
    assert build(TYPED, Plan(1)).manifest.dropped_rows() == []


def reverses(
    caplog: pytest.LogCaptureFixture, source: Any, workers: int = 1, **options: Any
) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "graphtheta"):
        build_on(source, 1, workers, method="node-hash", **{"undirected": True, **options})
    return caplog.text


def brute_force(graph: gt.Graph) -> int:
    names = [name for name in ("src", "dst", "type") if name in graph.edges.column_names]
    edges = list(zip(*(graph.edges[name].to_pylist() for name in names), strict=True))
    present = set(edges)
    return sum(s != d and (d, s, *kind) in present for s, d, *kind in edges)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("typed", [False, True])
def test_reverses_that_are_there_are_counted(
    typed: bool, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, 30, (2, 400))
    graph = graph_of(src, dst, rng.integers(0, 3, 400) if typed else None, nodes=30)
    expected = brute_force(graph)
    assert 0 < expected < 400
    for source in (graph, by_id(graph)):
        text = reverses(caplog, source, workers)
        assert f"{expected} of 400 edges have their reverse in the graph already" in text
        assert "about" not in text
        assert text.count("--drop-duplicates") == 1


def test_no_warning_without_reverses(caplog: pytest.LogCaptureFixture) -> None:
    one_way = graph_of([0, 1, 2, 2, 0], [1, 2, 3, 2, 1])
    assert not reverses(caplog, one_way)
    assert not reverses(caplog, graph_of([0, 1], [1, 0], [0, 1]))  # of different types
    both = graph_of([0, 1], [1, 0])
    assert not reverses(caplog, both, undirected=False)
    assert not reverses(caplog, both, repeats=False)


def test_reverses_of_many_edges_are_estimated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deduplicate, "_SAMPLE_EDGES", 4_000)
    rng = np.random.default_rng(1)
    src, dst = rng.integers(0, 20_000, (2, 20_000))
    graph = graph_of(np.append(src, dst), np.append(dst, src), nodes=20_000)
    texts = {reverses(caplog, graph, workers).split("partition: ")[1] for workers in (1, 3)}
    assert len(texts) == 1
    text = texts.pop()
    assert text.startswith("about ")
    assert abs(int(text.split()[1].replace(",", "")) / 40_000 - 1) < 0.1
