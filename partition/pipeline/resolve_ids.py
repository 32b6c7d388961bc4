"""Resolve the ids of edges: read the edges of a source, and write them with node keys.

Sources and destinations are looked up in the tables of their node types. An id becomes a node key
in one of three ways. Node keys are used unchanged, and ids that are 0 ... N - 1 in order are added
to the first key of their type. Sorted small integers are mapped to their position in a bit map. All
other ids are mapped by hash tables; if the tables exceed the memory limit, they are built slice by
slice, with one pass over the edges for each slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import in_range, refuse, repeated_ids, validate_nodes, whole
from graphtheta.data.source import GraphSource
from graphtheta.data.types import NODE, EdgeTable, NodeTable
from graphtheta.errors import GraphFormatError
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Advance, Resources
from graphtheta.partition.ooc.bitmap import BitMap, MemberPositions
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment, SegmentWriter, write_segments
from graphtheta.partition.ooc.id_table import id_map, map_bytes
from graphtheta.partition.pipeline.edge_chunks import end_chunks
from graphtheta.wording import rows_text, some

__all__ = ["resolve_edges"]

_BITS_PER_ID = 64  # a bit map with more bits per id is larger than a hash table
_NO_LIMIT = 8 << 30  # bytes that count as the limit if there is none


def resolve_edges(
    source: GraphSource,
    nodes: Sequence[NodeTable],
    folder: Path,
    *,
    undirected: bool,
    self_loops: bool,
    drop_unknown: bool,
    resources: Resources,
) -> dict[str, int]:
    """Write the segments of an `EdgeFile`; collective.

    Args:
        source: The graph.
        nodes: Node tables of the source, or that of `CollectedIds`.
        folder: Where to write.
        undirected: Whether to add the reverse of every edge that is not a self-loop. The reverse of
            the edge with key e has edge_key e + (number of input edges).
        self_loops: Whether to keep self-loops.
        drop_unknown: Whether to drop edges with an id that no node has.
        resources: Ranks, threads and memory.

    Returns:
        `num_edges`: the number of edges written, `num_inputs`: those that are not reverses, and
        `num_unknown`: the edges dropped because of an unknown id.

    Raises:
        GraphFormatError: If an id of an edge is null, unknown, or of the wrong type, or a node
            table has duplicate ids.
    """
    num_nodes = sum(table.num_rows for table in nodes)
    kept = _Kept(undirected, self_loops, drop_unknown)
    with _Writer(source, folder, num_nodes, kept, resources) as writer:
        mappings = {table.name: _mapping(source, table, drop_unknown) for table in nodes}
        known = {name: found for name, found in mappings.items() if found is not None}
        _write_all(writer, known, [table for table in nodes if table.name not in known])
    write_segments(folder, num_nodes, writer.segments(), resources.comm)
    edges = EdgeFile(folder)
    inputs = [segment.num_edges for segment in edges.segments if segment.name.startswith("0-")]
    unknown = resources.comm.all_gather_int(writer.num_unknown, stage="unknown ids").sum()
    counts = {"num_edges": edges.num_edges, "num_inputs": sum(inputs)}
    return {**counts, "num_unknown": int(unknown)}


class _Kept(NamedTuple):
    """Which edges are written, as for `resolve_edges`."""

    reverses: bool
    self_loops: bool
    drop_unknown: bool


def _mapping(source: GraphSource, nodes: NodeTable, drop_unknown: bool) -> _Mapping | None:
    """Return the mapping of the ids of a node type, or None if it needs a hash table."""
    if source.keyed and source.node_tables:
        return _Keys(nodes)
    if _are_keys(nodes):
        return _Identity(nodes, drop_unknown)
    if not source.node_tables and (bits := _bit_map(nodes)) is not None:
        return _Sorted(MemberPositions(bits))
    return None


class _Mapping(Protocol):
    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        """Return the node keys of ids; -1 for unknown ones if their edges are dropped.

        Raises:
            GraphFormatError: If an id is unknown or of the wrong type.
        """


class _Writer:
    """Reader of this rank's share of the edge table, and writer of its segments."""

    def __init__(
        self,
        source: GraphSource,
        folder: Path,
        num_nodes: int,
        kept: _Kept,
        resources: Resources,
    ) -> None:
        rank = resources.comm.rank
        self.source, self.resources = source, resources
        self.folder, self.num_nodes = folder, num_nodes
        self.first, self.last = resources.share(0, source.num_edges)
        self.kept, self.num_unknown = kept, 0
        self._keyed = kept.drop_unknown or not kept.self_loops  # keys are not consecutive
        with ExitStack() as opened:  # closes the first if the second cannot be opened
            name = f"0-{rank:05d}"
            forward = SegmentWriter(folder, name, num_nodes, keyed=self._keyed)
            self._forward = opened.enter_context(forward)
            self._reverse: SegmentWriter | None = None
            if kept.reverses:
                reverse = SegmentWriter(folder, f"1-{rank:05d}", num_nodes, keyed=True)
                self._reverse = opened.enter_context(reverse)
            self._opened = opened.pop_all()

    def chunks(self, advance: Advance) -> Iterator[tuple[EdgeTable, int, pa.Table]]:
        """Yield (table, first edge key, src and dst) of this rank's edges, validated."""
        for table, key, chunk in end_chunks(self.source, self.first, self.last, self.resources):
            yield table, key, chunk
            advance(chunk.num_rows)

    def write(self, mappings: Mapping[str, _Mapping]) -> None:
        """Map the ids of all edges to node keys, by the mapping of their type, and write them."""

        def mapped(
            item: tuple[EdgeTable, int, pa.Table],
        ) -> tuple[int, NDArray[Any], NDArray[Any]]:
            table, key, chunk = item
            src, dst = (
                mappings[of_type](whole(chunk[end]), f"{table.where}: {end}", key - table.first_key)
                for end, of_type in _ends(table)
            )
            return key, src, dst

        rows = self.last - self.first
        with self.resources.progress.phase("map ids", rows, "edges") as advance:
            for key, src, dst in self.resources.imap(mapped, self.chunks(advance)):
                self.append(key, src, dst)

    def append(self, row: int, src: NDArray[Any], dst: NDArray[Any]) -> None:
        """Write edges of consecutive edge keys from `row` on, given as node keys.

        Args:
            row: The first edge key.
            src: Sources; -1 is unknown.
            dst: Destinations, as src.
        """
        keys: NDArray[np.int64] | int = row
        if self._keyed:
            chosen = np.full(len(src), True)
            if self.kept.drop_unknown:
                chosen = (src >= 0) & (dst >= 0)
                self.num_unknown += len(src) - int(np.count_nonzero(chosen))
            if not self.kept.self_loops:
                chosen &= src != dst
            rows = np.flatnonzero(chosen)
            src, dst, keys = src[rows], dst[rows], row + rows
        self._forward.append(src, dst, keys)
        if self._reverse is not None:
            no_loop = np.flatnonzero(src != dst)
            reverse = row + no_loop if isinstance(keys, int) else keys[no_loop]
            self._reverse.append(dst[no_loop], src[no_loop], reverse + self.source.num_edges)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def segments(self) -> list[Segment]:
        """Return the descriptions of the written segments."""
        return [writer.segment() for writer in (self._forward, self._reverse) if writer]


def _ends(table: EdgeTable) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the columns of sources and destinations of an edge table, each with its node type."""
    return ("src", table.relation.source), ("dst", table.relation.destination)


class _Keys:
    """Mapping of the node keys of a type to themselves."""

    def __init__(self, nodes: NodeTable) -> None:
        self._first, self._stop = nodes.first_key, nodes.first_key + nodes.num_rows

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        if not pa.types.is_int64(ids.type):
            raise refuse(where, "int64 node keys", ids.type, "Convert the column.")
        values: NDArray[Any] = ids.to_numpy()
        if _any_outside(values, self._first, self._stop):
            expected = f"node keys in [{self._first:,}, {self._stop:,})"
            in_range(ids, self._first, self._stop - 1, where, first_row, expected)
        return values


class _Identity:
    """Mapping of ids that are equal to the rows of their table."""

    def __init__(self, nodes: NodeTable, drop_unknown: bool) -> None:
        self._nodes, self._drop_unknown = nodes, drop_unknown

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        _check_type(ids, pa.int64(), where)
        values: NDArray[Any] = ids.to_numpy()
        stop, first_key = self._nodes.num_rows, self._nodes.first_key
        if _any_outside(values, 0, stop):
            unknown = (values < 0) | (values >= stop)
            if not self._drop_unknown:
                raise _unknown(ids, np.flatnonzero(unknown), self._nodes, where, first_row)
            return np.where(unknown, -1, values + first_key)
        return values + first_key if first_key else values


class _Sorted:
    """Mapping of sorted integers to their position."""

    def __init__(self, positions: MemberPositions) -> None:
        self._positions = positions

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        return self._positions.find(ids.to_numpy())


class _Table:
    """Mapping of the ids of a type by a hash table, or by one slice of it.

    Args:
        nodes: Node table of the type.
        drop_unknown: Whether unknown ids become -1, instead of an error.
        index: Number of the slice.
        num_slices: Number of slices.
    """

    def __init__(
        self, nodes: NodeTable, drop_unknown: bool, index: int = 0, num_slices: int = 1
    ) -> None:
        self._nodes, self._id_type, self._drop_unknown = nodes, _id_type(nodes), drop_unknown
        self._map = id_map(self._id_type, index, num_slices, nodes.num_rows)
        first_key, repeated = nodes.first_key, []
        for batch in _ids(nodes):
            repeated.append(self._map.insert(batch, first_key))
            first_key += len(batch)
        duplicates = pc.unique(pa.chunked_array(repeated, self._id_type))
        if len(duplicates):
            raise repeated_ids(nodes.where, duplicates)

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        keys = np.empty(len(ids), np.int64)
        self.fill(keys, ids, where, first_row)
        return keys

    def fill(self, keys: NDArray[np.int64], ids: pa.Array, where: str, first_row: int) -> None:
        """Write the node keys of the ids of the slice."""
        _check_type(ids, self._id_type, where)
        self._map.find(ids, keys)
        if not self._drop_unknown and keys.min(initial=0) < 0:
            raise _unknown(ids, np.flatnonzero(keys < 0), self._nodes, where, first_row)


def _write_all(writer: _Writer, known: Mapping[str, _Mapping], hashed: Sequence[NodeTable]) -> None:
    """Write all edges; hash tables that exceed the memory limit are built slice by slice.

    Args:
        writer: The writer.
        known: Mappings of types that need no hash table.
        hashed: Node tables of all other types.
    """
    resources = writer.resources
    budget = (resources.available or _NO_LIMIT) // 2
    size = sum(map_bytes(_id_type(nodes), nodes.num_rows) for nodes in hashed)
    num_slices = -(-size // budget)
    drop_unknown = writer.kept.drop_unknown
    if num_slices <= 1:
        writer.write({**known, **{nodes.name: _Table(nodes, drop_unknown) for nodes in hashed}})
        return
    rows = writer.last - writer.first
    path = writer.folder / f"pending-{resources.comm.rank:05d}"
    pending = (
        np.lib.format.open_memmap(path, "w+", np.int64, (2, rows)) if rows else np.empty((2, 0))
    )
    for index in range(num_slices):
        tables = {n.name: _Table(n, drop_unknown, index, num_slices) for n in hashed}
        title = f"map ids ({index + 1} of {num_slices})"
        with resources.progress.phase(title, rows, "edges") as advance:
            for table, key, chunk in writer.chunks(advance):
                rows_of_chunk = slice(key - writer.first, key - writer.first + chunk.num_rows)
                for endpoint, (end, of_type) in enumerate(_ends(table)):
                    where, row = f"{table.where}: {end}", key - table.first_key
                    keys, ids = np.array(pending[endpoint, rows_of_chunk]), whole(chunk[end])
                    if of_type in tables:
                        tables[of_type].fill(keys, ids, where, row)
                    elif index == 0:
                        keys = known[of_type](ids, where, row)
                    pending[endpoint, rows_of_chunk] = keys
    for start in range(0, rows, 1 << 20):
        src, dst = np.array(pending[:, start : start + (1 << 20)])
        writer.append(writer.first + start, src, dst)
    path.unlink(missing_ok=True)


def _id_type(nodes: NodeTable) -> pa.DataType:
    return nodes.schema.field("id").type


def _ids(nodes: NodeTable) -> Iterator[pa.Array]:
    """Yield all ids of a node table, validated."""
    first = 0
    for chunk in nodes.table.chunks(0, nodes.num_rows, ["id"]):
        validate_nodes(chunk, nodes.where, first)
        first += chunk.num_rows
        yield whole(chunk["id"])


def _are_keys(nodes: NodeTable) -> bool:
    """Return whether the ids are 0 ... N - 1 in order."""
    if not pa.types.is_int64(_id_type(nodes)):
        return False
    first = 0
    for batch in _ids(nodes):
        if not _consecutive(batch.to_numpy(), first):
            return False
        first += len(batch)
    return True


def _bit_map(nodes: NodeTable) -> BitMap | None:
    """Return a bit map of sorted ids, or None if it would be larger than a hash table."""
    if not pa.types.is_int64(_id_type(nodes)):
        return None
    bits = BitMap()
    for batch in _ids(nodes):
        values = batch.to_numpy()
        if not len(values):
            continue
        if values[0] < 0 or values[-1] > _BITS_PER_ID * nodes.num_rows + 4096:
            return None
        bits.reach(int(values[-1]))
        bits.add(values)
    return bits


def _check_type(ids: pa.Array, id_type: pa.DataType, where: str) -> None:
    if ids.type != id_type:
        expected = f"ids of type {id_type} as in the nodes"
        raise refuse(where, expected, ids.type, "Convert one of the columns.")


def _unknown(
    ids: pa.Array, rows: NDArray[np.int64], nodes: NodeTable, where: str, first_row: int
) -> GraphFormatError:
    names = pc.unique(ids.take(pa.array(rows)))
    return refuse(
        where,
        "ids of the node table" if nodes.name == NODE else f"ids of {nodes.where}",
        f"unknown {some(names.slice(0, 3).to_pylist(), len(names))} "
        f"in {rows_text(first_row + rows)}",
        "Add these nodes, drop their edges (--drop-unknown), or name the columns of ids (--src, "
        "--dst, --id).",
    )


@jit
def _any_outside(values: NDArray[np.int64], start: int, stop: int) -> bool:
    """Return whether a value is not in [start, stop); no early exit, so that it is vectorised."""
    bad = False
    for i in range(np.uint64(values.shape[0])):
        bad |= (values[i] < start) | (values[i] >= stop)
    return bad


@jit
def _consecutive(values: NDArray[np.int64], first: int) -> bool:
    same = True
    for i in range(np.uint64(values.shape[0])):
        same &= values[i] == first + np.int64(i)
    return same
