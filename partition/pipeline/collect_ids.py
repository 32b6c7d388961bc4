"""Collect the nodes of a graph without a node table: the sorted distinct ids of its edges.

This is an external sort. Ids are collected in hash sets, which are written as sorted runs when they
exceed their share of the memory; the runs are then merged, one range of ids at a time. Small
integers are collected in a bit map instead, which needs no sorting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.schema import refuse, whole
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.bitmap import BitMap
from graphtheta.partition.ooc.id_table import IdSet, id_set
from graphtheta.partition.pipeline.edge_chunks import end_chunks

__all__ = ["IDS_FILE", "CollectedIds", "collect_ids"]

IDS_FILE = "ids.arrow"

_BATCH = 1 << 20  # ids in a batch of the file
_BITS_PER_EDGE = 64  # a bit map with more bits per edge is larger than a set
_SETS_SHARE = 4  # sets take a quarter of the memory limit
_NO_LIMIT = 8 << 30  # bytes that count as the limit if there is none


def collect_ids(source: GraphSource, folder: Path, resources: Resources) -> None:
    """Write the sorted distinct ids of the edges to `folder / IDS_FILE`; collective.

    Raises:
        GraphFormatError: If sources and destinations have ids of different types, or an id is null.
    """
    comm = resources.comm
    first, last = resources.share(0, source.num_edges)
    runs = _Runs(folder, comm.rank)
    with resources.progress.phase("collect ids", last - first, "edges") as advance:
        collector: _Collector | None = None
        for table, _, chunk in end_chunks(source, first, last, resources):
            src, dst = chunk["src"], chunk["dst"]
            if src.type != dst.type:
                where = f"{table.where}: dst"
                expected = f"ids of type {src.type} as in src"
                raise refuse(where, expected, dst.type, "Convert a column.")
            collector = collector or _Collector(src.type, source.num_edges, runs, resources)
            collector.add([whole(src), whole(dst)])
            advance(chunk.num_rows)
        if collector is not None:
            collector.flush()
    comm.barrier(stage="ids: runs")
    if comm.rank == 0:
        _merge(_all_runs(folder), folder / IDS_FILE, _id_type(source))
        for path in folder.glob("run-*"):
            path.unlink()
    comm.barrier(stage="ids: merge")


class CollectedIds:
    """Node table of the ids that `collect_ids` wrote; a `SourceTable`.

    Args:
        source: The source of the edges.
        folder: Folder of the file.
        num_rows: Number of ids. If None, they are counted.
    """

    def __init__(self, source: GraphSource, folder: Path, num_rows: int | None = None) -> None:
        self.name, self._path = source.edge_tables[0].where, folder / IDS_FILE
        self.schema = pa.schema([("id", _id_type(source))])
        self.num_rows = sum(map(len, self._batches())) if num_rows is None else num_rows

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        first = 0
        for ids in self._batches():
            begin, end = max(start - first, 0), min(stop - first, len(ids))
            if begin < end:
                yield pa.table([ids.slice(begin, end - begin)], self.schema)
            first += len(ids)

    def _batches(self) -> Iterator[pa.Array]:
        with pa.OSFile(str(self._path)) as file:
            for batch in pa.ipc.open_stream(file):
                yield batch.column(0)


def _id_type(source: GraphSource) -> pa.DataType:
    return source.edge_tables[0].schema.field("src").type


class _Runs:
    """Writer of sorted runs of distinct ids, for one rank."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank, self._count = folder, rank, 0

    def write(self, ids: pa.Array) -> None:
        path = self._folder / f"run-{self._rank:05d}-{self._count:05d}.arrow"
        self._count += 1
        batch = pa.record_batch([ids], ["id"])
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)


def _all_runs(folder: Path) -> list[pa.Array]:
    paths = sorted(folder.glob("run-*.arrow"))
    return [pa.ipc.open_file(pa.memory_map(str(p))).get_batch(0).column(0) for p in paths]


class _Collector:
    """Collector of this rank's ids: a bit map while they are small integers, then hash sets."""

    def __init__(
        self, id_type: pa.DataType, num_edges: int, runs: _Runs, resources: Resources
    ) -> None:
        self._id_type, self._runs, self._resources = id_type, runs, resources
        self._budget = (resources.available or _NO_LIMIT) // _SETS_SHARE
        self._most = min(_BITS_PER_EDGE * num_edges + 4096, 8 * self._budget)
        self._bits = BitMap() if pa.types.is_int64(id_type) else None
        self._sets: list[IdSet] = []

    def add(self, columns: list[pa.Array]) -> None:
        if self._bits is not None and self._add_bits(columns):
            return
        threads = self._resources.threads
        if not self._sets:
            self._sets = [id_set(self._id_type, t, threads) for t in range(threads)]

        def add(id_set: IdSet) -> None:
            for ids in columns:
                id_set.add(ids)

        self._resources.map(add, self._sets)
        if sum(id_set.num_bytes for id_set in self._sets) > self._budget:
            self.flush()

    def _add_bits(self, columns: list[pa.Array]) -> bool:
        """Add ids to the bit map; if one does not fit, give the bit map up and return False."""
        assert self._bits is not None
        arrays = [ids.to_numpy() for ids in columns]
        low = min(int(ids.min(initial=0)) for ids in arrays)
        high = max(int(ids.max(initial=0)) for ids in arrays)
        if low < 0 or high >= self._most:
            self.flush()
            self._bits = None
            return False
        self._bits.reach(high)
        for ids in arrays:
            self._bits.add(ids)
        return True

    def flush(self) -> None:
        """Write the collected ids as runs, and start again without any."""
        if self._bits is not None and len(members := self._bits.members()):
            self._runs.write(pa.array(members))
            self._bits = BitMap()
        if self._sets:
            ids = pa.chunked_array([id_set.ids() for id_set in self._sets])
            self._sets = []
            self._runs.write(_sorted(ids))


def _sorted(ids: pa.ChunkedArray) -> pa.Array:
    array = ids.combine_chunks() if ids.num_chunks != 1 else ids.chunk(0)
    if pa.types.is_int64(array.type):
        return pa.array(np.sort(array.to_numpy()))
    return array.take(pc.sort_indices(array))


def _merge(runs: list[pa.Array], path: Path, id_type: pa.DataType) -> None:
    """Merge sorted runs, one range of ids at a time: about a batch of the longest run."""
    schema = pa.schema([("id", id_type)])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        if not runs:
            return
        longest = max(runs, key=len)
        starts = [0] * len(runs)
        for end in range(_BATCH, len(longest) + _BATCH, _BATCH):
            stops = [len(run) for run in runs]
            if end < len(longest):
                next_id = longest[end].as_py()
                stops = [
                    bisect_left(run, next_id, starts[r], key=lambda scalar: scalar.as_py())
                    for r, run in enumerate(runs)
                ]
            slices = [
                run.slice(start, stop - start)
                for run, start, stop in zip(runs, starts, stops, strict=True)
            ]
            starts = stops
            ids = slices[0]
            if len(runs) > 1:
                ids = _sorted(pa.chunked_array([pc.unique(pa.chunked_array(slices))]))
            writer.write_batch(pa.record_batch([ids.cast(id_type)], schema))
