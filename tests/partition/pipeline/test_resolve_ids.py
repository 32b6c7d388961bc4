"""Mapping of ids to node keys: sorted ids in files, and passes under a memory limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.errors import GraphFormatError
from graphtheta.partition import Plan, Resources, build
from graphtheta.partition.pipeline import collect_ids as ids
from graphtheta.partition.pipeline import resolve_ids as resolve
from graphtheta.partition.pipeline.collect_ids import CollectedIds, collect_ids
from tests.graphs import random_graph, to_graph
from tests.partition.sources import IdSource, by_id


@pytest.mark.parametrize("kind", ["dense", "small", "large", "negative", "text", "mixed"])
@pytest.mark.parametrize("threads", [1, 2])
def test_collected_ids_are_sorted_under_any_memory_limit(
    kind: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    values = {
        "dense": rng.integers(0, 300, (2, 1000)),
        "small": 7 * rng.integers(0, 300, (2, 1000)),
        "large": rng.integers(0, 2**62, (2, 1000)),
        "negative": rng.integers(-500, 500, (2, 1000)),
        "text": rng.integers(0, 300, (2, 1000)),
        # Small integers first: the bit map becomes a run, before the sets.
        "mixed": np.where(np.arange(1000) < 600, 1, 2**50) * rng.integers(0, 300, (2, 1000)),
    }[kind]
    src, dst = (pa.array(ids) for ids in values)
    if kind == "text":
        src, dst = src.cast(pa.string()), dst.cast(pa.string())
    source = IdSource(None, pa.table({"src": src, "dst": dst}))
    monkeypatch.setattr("graphtheta.data.batches.CHUNK_ROWS", 100)
    monkeypatch.setattr(ids, "_BATCH", 64)
    expected = sorted({*src.to_pylist(), *dst.to_pylist()})
    for limit in (None, 4 * 20_000):  # the second limit causes many runs
        resources = Resources(threads=threads, memory_limit=limit)
        collect_ids(source, tmp_path, resources)
        found = CollectedIds(source, tmp_path)
        assert found.num_rows == len(expected)
        chunks = [*found.chunks(0, 5), *found.chunks(5, found.num_rows)]
        assert pa.concat_tables(chunks)["id"].to_pylist() == expected
        assert [path.name for path in tmp_path.iterdir()] == ["ids.arrow"]


@pytest.mark.parametrize("text_ids", [False, True], ids=["int_ids", "text_ids"])
@pytest.mark.parametrize("table", [True, False], ids=["table", "no_table"])
def test_passes_over_slices_give_the_same_keys(
    text_ids: bool, table: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = to_graph(random_graph(50, 130), text_ids=text_ids)
    source = by_id(graph)
    if not table:
        source = IdSource(None, source.edges)
    whole = build(source, Plan(3, "node-hash"))
    monkeypatch.setattr(resolve, "_NO_LIMIT", 2500)  # several slices
    monkeypatch.setattr(resolve, "_BITS_PER_ID", 0)
    assert build(source, Plan(3, "node-hash")).manifest == whole.manifest


@pytest.mark.parametrize("kind", ["rows", "integers", "texts", "slices"])
@pytest.mark.parametrize("loops", [True, False], ids=["loops", "no_loops"])
def test_edges_of_unknown_ids_are_dropped(
    kind: str, loops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = pa.array(np.arange(50) if kind == "rows" else 7 * np.arange(50)[::-1])
    ids = ids.cast(pa.string()) if kind == "texts" else ids
    rows = np.random.default_rng(0).integers(0, 50, (2, 200))
    known = (rows < 40).all(axis=0)  # the node table lacks the last ids
    edges = pa.table({"src": ids.take(pa.array(rows[0])), "dst": ids.take(pa.array(rows[1]))})
    source = IdSource(pa.table({"id": ids.slice(0, 40)}), edges)
    if kind == "slices":
        monkeypatch.setattr(resolve, "_NO_LIMIT", 1000)
    plan = Plan(2, "node-hash", undirected=True, self_loops=loops, drop_unknown=True)
    with pytest.raises(GraphFormatError, match=r"got unknown .* \(--drop-unknown\)"):
        build(source, replace(plan, drop_unknown=False))
    built = build(source, plan)
    is_loop = rows[0] == rows[1]
    forward = known if loops else known & ~is_loop
    expected = [*np.flatnonzero(forward), *(200 + np.flatnonzero(known & ~is_loop))]
    keys = [key for part in built.parts.values() for key in part.in_edges["edge_key"].to_pylist()]
    assert sorted(keys) == expected
    assert built.manifest.dropped_unknown == (~known).sum()
    assert built.manifest.dropped_self_loops == (0 if loops else (known & is_loop).sum())
