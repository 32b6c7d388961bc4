"""Resolve the ids of edges: read the edges of a source, and write them with node keys.

An id becomes a node key in one of three ways. Node keys, and ids that are 0 ... N - 1 in order, are
used unchanged. Sorted small integers are mapped to their position in a bit map. All other ids are
mapped by a hash table; if the table exceeds the memory limit, it is built slice by slice, with one
pass over the edges for each slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import in_range, refuse, repeated_ids, validate_nodes, whole
from graphtheta.data.source import GraphSource, SourceTable, id_type
from graphtheta.errors import GraphFormatError
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Advance, Resources
from graphtheta.partition.ooc.bitmap import BitMap, MemberPositions
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment, SegmentWriter, write_segments
from graphtheta.partition.ooc.id_table import IdMap, id_map, map_bytes
from graphtheta.partition.pipeline.collect_ids import ids_in_file
from graphtheta.partition.pipeline.edge_chunks import end_chunks
from graphtheta.wording import rows_text, some

__all__ = ["resolve_edges"]

Ids = Callable[[], Iterator[pa.Array]]  # reads all ids of the nodes, in the order of node keys

_BITS_PER_ID = 64  # a bit map with more bits per id is larger than a hash table
_NO_LIMIT = 8 << 30  # bytes that count as the limit if there is none


def resolve_edges(
    source: GraphSource,
    folder: Path,
    num_nodes: int,
    *,
    undirected: bool,
    self_loops: bool,
    resources: Resources,
) -> dict[str, int]:
    """Write the segments of an `EdgeFile`; collective.

    Args:
        source: The graph.
        folder: Where to write. If the source has no node table, the file of `collect_ids` is here.
        num_nodes: Number of nodes of the graph.
        undirected: Whether to add the reverse of every edge that is not a self-loop. The reverse of
            the edge with key e has edge_key e + (number of input edges).
        self_loops: Whether to keep self-loops.
        resources: Ranks, threads and memory.

    Returns:
        `num_edges`: the number of edges written, and `num_inputs`: those that are not reverses.

    Raises:
        GraphFormatError: If an id of an edge is null, unknown, or of the wrong type, or the node
            table has duplicate ids.
    """
    with _Writer(source, folder, num_nodes, undirected, self_loops, resources) as writer:
        _write_all(writer)
    write_segments(folder, num_nodes, writer.segments(), resources.comm)
    edges = EdgeFile(folder)
    inputs = [segment.num_edges for segment in edges.segments if segment.name.startswith("0-")]
    return {"num_edges": edges.num_edges, "num_inputs": sum(inputs)}


def _write_all(writer: _Writer) -> None:
    source, folder, num_nodes = writer.source, writer.folder, writer.num_nodes
    table, kind = source.node_table, id_type(source)
    if source.keyed and table is not None:
        writer.write(_Keys(num_nodes))
        return
    ids: Ids = (lambda: ids_in_file(folder)) if table is None else (lambda: _table_ids(table))
    if _are_keys(ids, kind):
        writer.write(_Identity(num_nodes))
    elif table is None and (bits := _bit_map(ids, kind, num_nodes)) is not None:
        writer.write(_Sorted(MemberPositions(bits)))
    else:
        _write_by_hash(writer, ids, kind)


class _Mapping(Protocol):
    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        """Return the node keys of ids.

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
        undirected: bool,
        self_loops: bool,
        resources: Resources,
    ) -> None:
        rank = resources.comm.rank
        self.source, self.resources = source, resources
        self.folder, self.num_nodes = folder, num_nodes
        self.first, self.last = resources.share(0, source.num_edges)
        self._self_loops = self_loops
        with ExitStack() as opened:  # closes the first if the second cannot be opened
            name = f"0-{rank:05d}"
            forward = SegmentWriter(folder, name, num_nodes, keyed=not self_loops)
            self._forward = opened.enter_context(forward)
            self._reverse: SegmentWriter | None = None
            if undirected:
                reverse = SegmentWriter(folder, f"1-{rank:05d}", num_nodes, keyed=True)
                self._reverse = opened.enter_context(reverse)
            self._opened = opened.pop_all()

    def chunks(self, advance: Advance) -> Iterator[tuple[int, pa.Table]]:
        """Yield (first row, table of src and dst) of this rank's rows, validated."""
        for row, chunk in end_chunks(self.source, self.first, self.last, self.resources):
            yield row, chunk
            advance(chunk.num_rows)

    def write(self, mapping: _Mapping) -> None:
        """Map the ids of all edges to node keys, and write the edges."""

        def mapped(item: tuple[int, pa.Table]) -> tuple[int, NDArray[Any], NDArray[Any]]:
            row, chunk = item
            src, dst = (mapping(whole(chunk[end]), f"{name}: {end}", row) for end in ("src", "dst"))
            return row, src, dst

        name = self.source.edge_table.name

        rows = self.last - self.first
        with self.resources.progress.phase("map ids", rows, "edges") as advance:
            for row, src, dst in self.resources.imap(mapped, self.chunks(advance)):
                self.append(row, src, dst)

    def append(self, row: int, src: NDArray[Any], dst: NDArray[Any]) -> None:
        """Write the edges of consecutive rows from `row` on, given as node keys."""
        keys: NDArray[np.int64] | int = row
        if not self._self_loops or self._reverse is not None:
            no_loop = np.flatnonzero(src != dst)
        if not self._self_loops:
            src, dst, keys = src[no_loop], dst[no_loop], row + no_loop
            no_loop = np.arange(len(src))
        self._forward.append(src, dst, keys)
        if self._reverse is not None:
            first = self.source.num_edges
            reverse = (row + no_loop if isinstance(keys, int) else keys) + first
            self._reverse.append(dst[no_loop], src[no_loop], reverse)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def segments(self) -> list[Segment]:
        """Return the descriptions of the written segments."""
        return [writer.segment() for writer in (self._forward, self._reverse) if writer]


class _Keys:
    """Mapping of node keys to themselves."""

    def __init__(self, num_nodes: int) -> None:
        self._num_nodes = num_nodes

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        if not pa.types.is_int64(ids.type):
            raise refuse(where, "int64 node keys", ids.type, "Convert the column.")
        values: NDArray[Any] = ids.to_numpy()
        if _any_outside(values, self._num_nodes):
            expected = f"node keys in [0, {self._num_nodes:,})"
            in_range(ids, 0, self._num_nodes - 1, where, first_row, expected)
        return values


class _Identity:
    """Mapping of ids that are equal to the node keys."""

    def __init__(self, num_nodes: int) -> None:
        self._num_nodes = num_nodes

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        _check_type(ids, pa.int64(), where)
        values: NDArray[Any] = ids.to_numpy()
        if _any_outside(values, self._num_nodes):
            unknown = np.flatnonzero((values < 0) | (values >= self._num_nodes))
            raise _unknown(ids, unknown, where, first_row)
        return values


class _Sorted:
    """Mapping of sorted integers to their position."""

    def __init__(self, positions: MemberPositions) -> None:
        self._positions = positions

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        return self._positions.find(ids.to_numpy())


class _Table:
    """Mapping of ids by a hash table."""

    def __init__(self, table: IdMap, id_type: pa.DataType) -> None:
        self._table, self._id_type = table, id_type

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        _check_type(ids, self._id_type, where)
        keys = np.empty(len(ids), np.int64)
        self._table.find(ids, keys)
        _check_known(keys, ids, where, first_row)
        return keys


def _write_by_hash(writer: _Writer, ids: Ids, id_type: pa.DataType) -> None:
    num_nodes, resources = writer.num_nodes, writer.resources
    budget = (resources.available or _NO_LIMIT) // 2
    num_slices = -(-map_bytes(id_type, num_nodes) // budget)
    if num_slices == 1:
        writer.write(_Table(_filled_map(writer, ids, id_type, 0, 1), id_type))
        return
    rows = writer.last - writer.first
    path = writer.folder / f"pending-{resources.comm.rank:05d}"
    pending = (
        np.lib.format.open_memmap(path, "w+", np.int64, (2, rows)) if rows else np.empty((2, 0))
    )
    for index in range(num_slices):
        table = _filled_map(writer, ids, id_type, index, num_slices)
        title = f"map ids ({index + 1} of {num_slices})"
        with resources.progress.phase(title, rows, "edges") as advance:
            for row, chunk in writer.chunks(advance):
                rows_of_chunk = slice(row - writer.first, row - writer.first + chunk.num_rows)
                for endpoint, name in enumerate(("src", "dst")):
                    where, column = f"{writer.source.edge_table.name}: {name}", whole(chunk[name])
                    _check_type(column, id_type, where)
                    keys = np.array(pending[endpoint, rows_of_chunk])
                    table.find(column, keys)
                    _check_known(keys, column, where, row)
                    pending[endpoint, rows_of_chunk] = keys
    for start in range(0, rows, 1 << 20):
        src, dst = np.array(pending[:, start : start + (1 << 20)])
        writer.append(writer.first + start, src, dst)
    path.unlink(missing_ok=True)


def _filled_map(
    writer: _Writer, ids: Ids, id_type: pa.DataType, index: int, num_slices: int
) -> IdMap:
    table, first, repeated = id_map(id_type, index, num_slices, writer.num_nodes), 0, []
    for batch in ids():
        repeated.append(table.insert(batch, first))
        first += len(batch)
    duplicates = pc.unique(pa.chunked_array(repeated, id_type))
    if len(duplicates):
        assert writer.source.node_table is not None, "ids of edges are distinct"
        raise repeated_ids(writer.source.node_table.name, duplicates)
    return table


def _table_ids(table: SourceTable) -> Iterator[pa.Array]:
    first = 0
    for chunk in table.chunks(0, table.num_rows, ["id"]):
        validate_nodes(chunk, table.name, first)
        first += chunk.num_rows
        yield whole(chunk["id"])


def _are_keys(ids: Ids, id_type: pa.DataType) -> bool:
    """Return whether the ids are 0 ... N - 1 in order."""
    if not pa.types.is_int64(id_type):
        return False
    first = 0
    for batch in ids():
        if not _consecutive(batch.to_numpy(), first):
            return False
        first += len(batch)
    return True


def _bit_map(ids: Ids, id_type: pa.DataType, num_nodes: int) -> BitMap | None:
    """Return a bit map of sorted ids, or None if it would be larger than a hash table."""
    if not pa.types.is_int64(id_type):
        return None
    bits = BitMap()
    for batch in ids():
        values = batch.to_numpy()
        if not len(values):
            continue
        if values[0] < 0 or values[-1] > _BITS_PER_ID * num_nodes + 4096:
            return None
        bits.reach(int(values[-1]))
        bits.add(values)
    return bits


def _check_type(ids: pa.Array, id_type: pa.DataType, where: str) -> None:
    if ids.type != id_type:
        expected = f"ids of type {id_type} as in the nodes"
        raise refuse(where, expected, ids.type, "Convert one of the columns.")


def _check_known(keys: NDArray[np.int64], ids: pa.Array, where: str, first_row: int) -> None:
    if keys.min(initial=0) < 0:
        raise _unknown(ids, np.flatnonzero(keys < 0), where, first_row)


def _unknown(
    ids: pa.Array, rows: NDArray[np.int64], where: str, first_row: int
) -> GraphFormatError:
    names = pc.unique(ids.take(pa.array(rows)))
    return refuse(
        where,
        "ids of the node table",
        f"unknown {some(names.slice(0, 3).to_pylist(), len(names))} "
        f"in {rows_text(first_row + rows)}",
        "Add these nodes, drop their edges, or name the columns of ids (--src, --dst, --id).",
    )


@jit
def _any_outside(values: NDArray[np.int64], stop: int) -> bool:
    """Return whether a value is not in [0, stop); without early exit, so that it is vectorised."""
    bad = False
    for i in range(np.uint64(values.shape[0])):
        bad |= (values[i] < 0) | (values[i] >= stop)
    return bad


@jit
def _consecutive(values: NDArray[np.int64], first: int) -> bool:
    same = True
    for i in range(np.uint64(values.shape[0])):
        same &= values[i] == first + np.int64(i)
    return same
