"""Ids to node keys: tables of ids, sorted ids on disk, and passes under a memory limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphtheta.partition import Plan, Resources, build
from graphtheta.partition.ooc.bitmap import BitMap, MemberPositions
from graphtheta.partition.ooc.id_table import id_map, id_set
from graphtheta.partition.pipeline import collect_ids as ids
from graphtheta.partition.pipeline import resolve_ids as resolve
from graphtheta.partition.pipeline.collect_ids import collect_ids, count_ids, ids_in_file
from tests.graphs import random_graph, to_graph
from tests.partition.sources import IdSource, by_id

INTS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60)
TEXTS = st.lists(st.text(max_size=6), max_size=60)
COLUMNS = st.one_of(
    INTS.map(lambda values: pa.array(values, pa.int64())),
    TEXTS.map(lambda values: pa.array(values, pa.string())),
)


@settings(max_examples=80, deadline=None)
@given(column=COLUMNS, num_slices=st.integers(1, 3), cut=st.integers(0, 60))
def test_id_sets_and_maps_are_those_of_python(column: pa.Array, num_slices: int, cut: int) -> None:
    pieces = [column.slice(0, cut), column.slice(cut)]
    members, found = [], np.full(len(column), -7, np.int64)
    again = 0
    for index in range(num_slices):
        one, table = (
            id_set(column.type, index, num_slices),
            id_map(column.type, index, num_slices, 9),
        )
        first = 0
        for piece in pieces:
            one.add(piece)
            again += len(table.insert(piece, first))
            first += len(piece)
        members += one.ids().to_pylist()
        table.find(column, found)
    values = column.to_pylist()
    assert sorted(members) == sorted(set(values))
    assert found.tolist() == [values.index(value) for value in values]
    assert again == len(values) - len(set(values))


def test_id_map_does_not_know_others() -> None:
    for known, other in (([1, 2], [3, 1]), (["a", ""], ["b", "a"])):
        column = pa.array(known)
        table = id_map(column.type, 0, 1, 2)
        table.insert(column, 5)
        keys = np.empty(2, np.int64)
        table.find(pa.array(other), keys)
        assert keys.tolist() == [-1, 5]


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(0, 500), max_size=50))
def test_members_of_a_bit_map_have_positions(values: list[int]) -> None:
    bits = BitMap(10)
    bits.reach(500)
    bits.add(np.array(values, np.int64))
    assert bits.members().tolist() == sorted(set(values))
    positions = MemberPositions(bits)
    assert positions.count == len(set(values))
    assert positions.find(np.array(values, np.int32)).tolist() == [
        sorted(set(values)).index(value) for value in values
    ]


@pytest.mark.parametrize("kind", ["dense", "small", "large", "negative", "text", "mixed"])
@pytest.mark.parametrize("threads", [1, 2])
def test_ids_on_disk_are_sorted_whatever_the_memory(
    kind: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    values = {
        "dense": rng.integers(0, 300, (2, 1000)),
        "small": 7 * rng.integers(0, 300, (2, 1000)),
        "large": rng.integers(0, 2**62, (2, 1000)),
        "negative": rng.integers(-500, 500, (2, 1000)),
        "text": rng.integers(0, 300, (2, 1000)),
        # Small integers at first: what the bit map holds is a run of its own.
        "mixed": np.where(np.arange(1000) < 600, 1, 2**50) * rng.integers(0, 300, (2, 1000)),
    }[kind]
    ends = [pa.array(end) for end in values]
    if kind == "text":
        ends = [end.cast(pa.string()) for end in ends]
    source = IdSource(None, pa.table({"src": ends[0], "dst": ends[1]}))
    monkeypatch.setattr("graphtheta.data.batches.CHUNK_ROWS", 100)
    monkeypatch.setattr(ids, "_BATCH", 64)
    expected = sorted(set(ends[0].to_pylist()) | set(ends[1].to_pylist()))
    for limit in (None, 4 * 20_000):  # the second makes many runs
        resources = Resources(threads=threads, memory_limit=limit)
        collect_ids(source, tmp_path, resources)
        assert pa.chunked_array(list(ids_in_file(tmp_path))).to_pylist() == expected
        assert count_ids(tmp_path) == len(expected)
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
    monkeypatch.setattr(resolve, "_NO_LIMIT", 2500)  # some slices
    monkeypatch.setattr(resolve, "_BITS_PER_ID", 0)
    assert build(source, Plan(3, "node-hash")).manifest == whole.manifest
