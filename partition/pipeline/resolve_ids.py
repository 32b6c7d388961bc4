"""From the edges of a source to node keys on disk, whatever names the nodes.

How an id becomes a key: node keys, and ids that are 0 ... N - 1 in order, as they are; sorted small
integers by their rank in a bit map; all others by a hash table, in as many passes over the edges as
its slices need to fit the memory limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import in_range, refuse, some, validate_edges, validate_nodes, whole
from graphtheta.data.source import GraphSource
from graphtheta.errors import GraphFormatError
from graphtheta.partition.core.resources import Advance, Resources
from graphtheta.partition.ooc.bitmap import BitMap, Ranks
from graphtheta.partition.ooc.edge_file import Segment, SegmentWriter, write_segments
from graphtheta.partition.ooc.id_table import IdMap, id_map, map_bytes
from graphtheta.partition.pipeline.collect_ids import ids_in_file

__all__ = ["resolve_edges"]

Ids = Callable[[], Iterator[pa.Array]]
_BITS_AN_ID = 64  # more bits of a bit map an id take more memory than a hash table
_NO_LIMIT = 8 << 30


def resolve_edges(
    source: GraphSource,
    folder: Path,
    num_nodes: int,
    *,
    undirected: bool,
    self_loops: bool,
    resources: Resources,
) -> None:
    """Write the segments of a `EdgeFile`; collective.

    Args:
        source: The graph.
        folder: Where they are written; holds the file of ids if the source has no node table.
        num_nodes: Nodes of the graph.
        undirected: Add the reverse of every edge that is not a self-loop; the reverse of edge e
            has edge_key e + (number of input edges).
        self_loops: Whether self-loops are kept.
        resources: Ranks, threads and memory.

    Raises:
        GraphFormatError: If an edge has no end, or one of another type, or an unknown one; or a
            node table has an id twice.
    """
    with _Writer(source, folder, num_nodes, undirected, self_loops, resources) as writer:
        _write_all(writer, source, folder, num_nodes, resources)
    write_segments(folder, num_nodes, writer.segments(), resources.comm)


def _write_all(
    writer: _Writer, source: GraphSource, folder: Path, num_nodes: int, resources: Resources
) -> None:
    table = source.num_nodes is not None
    if source.keyed and table:
        writer.write(_Keys(num_nodes))
        return
    ids: Ids = (lambda: _table_ids(source)) if table else (lambda: ids_in_file(folder))
    kind = source.node_schema.field("id").type if table else source.edge_schema.field("src").type
    if _are_keys(ids, kind):
        writer.write(_Identity(num_nodes))
    elif not table and (bits := _bit_map(ids, kind, num_nodes)) is not None:
        writer.write(_Sorted(Ranks(bits)))
    else:
        _by_hash(writer, ids, kind, num_nodes, folder, resources)


class _Mapping(Protocol):
    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        """Return the keys of ids; refuse unknown ones."""


class _Writer:
    """Reads this rank's edges once a call, and writes its segments."""

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
        self._source, self._resources = source, resources
        self.first, self.last = resources.share(0, source.num_edges)
        self._self_loops = self_loops
        with ExitStack() as opened:  # both segments, or none
            name = f"0-{rank:05d}"
            forward = SegmentWriter(folder, name, num_nodes, keyed=not self_loops)
            self._forward = opened.enter_context(forward)
            self._reverse: SegmentWriter | None = None
            if undirected:
                reverse = SegmentWriter(folder, f"1-{rank:05d}", num_nodes, keyed=True)
                self._reverse = opened.enter_context(reverse)
            self._opened = opened.pop_all()

    def chunks(self, advance: Advance) -> Iterator[tuple[int, pa.Table]]:
        """Yield (first row, src and dst) of this rank's rows, checked."""
        row = self.first
        chunks = self._source.edge_chunks(self.first, self.last, ends_only=True)
        for chunk in self._resources.prefetch(chunks):
            validate_edges(chunk, "edges", row)
            yield row, chunk
            row += chunk.num_rows
            advance(chunk.num_rows)

    def write(self, mapping: _Mapping) -> None:
        """Map and write all edges."""

        def mapped(numbered: tuple[int, pa.Table]) -> tuple[int, NDArray[Any], NDArray[Any]]:
            row, chunk = numbered
            src, dst = (mapping(whole(chunk[end]), f"edges: {end}", row) for end in ("src", "dst"))
            return row, src, dst

        rows = self.last - self.first
        with self._resources.progress.phase("name nodes", rows, "edges") as advance:
            for row, src, dst in self._resources.imap(mapped, self.chunks(advance)):
                self.append(row, src, dst)

    def append(self, row: int, src: NDArray[Any], dst: NDArray[Any]) -> None:
        """Write edges of consecutive rows."""
        keys: NDArray[np.int64] | int = row
        if not self._self_loops or self._reverse is not None:
            apart = np.flatnonzero(src != dst)
        if not self._self_loops:
            src, dst, keys = src[apart], dst[apart], row + apart
            apart = np.arange(len(src))
        self._forward.append(src, dst, keys)
        if self._reverse is not None:
            first = self._source.num_edges
            reverse = (row + apart if isinstance(keys, int) else keys) + first
            self._reverse.append(dst[apart], src[apart], reverse)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def segments(self) -> list[Segment]:
        """Return what was written."""
        return [writer.segment() for writer in self._writers()]

    def _writers(self) -> list[SegmentWriter]:
        return [self._forward, *([self._reverse] if self._reverse else [])]


class _Keys:
    """Node keys as they are."""

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
    """Ids that are keys."""

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
    """Sorted integers by their rank."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        return self._ranks.find(ids.to_numpy())


class _Table:
    """Any ids by a hash table."""

    def __init__(self, table: IdMap, kind: pa.DataType) -> None:
        self._table, self._kind = table, kind

    def __call__(self, ids: pa.Array, where: str, first_row: int) -> NDArray[Any]:
        _check_type(ids, self._kind, where)
        keys = np.empty(len(ids), np.int64)
        self._table.find(ids, keys)
        _check_known(keys, ids, where, first_row)
        return keys


def _by_hash(
    writer: _Writer, ids: Ids, kind: pa.DataType, num_nodes: int, folder: Path, resources: Resources
) -> None:
    budget = (resources.memory_limit or _NO_LIMIT) // 2
    num_slices = -(-map_bytes(kind, num_nodes) // budget)
    if num_slices == 1:
        writer.write(_Table(_filled(ids, kind, num_nodes, 0, 1), kind))
        return
    rows = writer.last - writer.first
    path = folder / f"pending-{resources.comm.rank:05d}"
    pending = (
        np.lib.format.open_memmap(path, "w+", np.int64, (2, rows)) if rows else np.empty((2, 0))
    )
    for index in range(num_slices):
        table = _filled(ids, kind, num_nodes, index, num_slices)
        title = f"name nodes ({index + 1} of {num_slices})"
        with resources.progress.phase(title, rows, "edges") as advance:
            for row, chunk in writer.chunks(advance):
                at = slice(row - writer.first, row - writer.first + chunk.num_rows)
                for end, name in enumerate(("src", "dst")):
                    where, column = f"edges: {name}", whole(chunk[name])
                    _check_type(column, kind, where)
                    keys = np.array(pending[end, at])
                    table.find(column, keys)
                    _check_known(keys, column, where, row)
                    pending[end, at] = keys
    for start in range(0, rows, 1 << 20):
        src, dst = np.array(pending[:, start : start + (1 << 20)])
        writer.append(writer.first + start, src, dst)
    path.unlink(missing_ok=True)


def _filled(ids: Ids, kind: pa.DataType, num_nodes: int, index: int, num_slices: int) -> IdMap:
    table, first, twice = id_map(kind, index, num_slices, num_nodes), 0, []
    for some_ids in ids():
        twice.append(table.insert(some_ids, first))
        first += len(some_ids)
    again = pa.chunked_array(twice, kind)
    if len(again):
        names = pc.unique(again)
        raise refuse(
            "nodes: id",
            "every id once",
            f"{some(names.slice(0, 3).to_pylist(), len(names))} more than once",
            "Remove the duplicate rows.",
        )
    return table


def _table_ids(source: GraphSource) -> Iterator[pa.Array]:
    assert source.num_nodes is not None
    first = 0
    for chunk in source.node_chunks(0, source.num_nodes, ids_only=True):
        validate_nodes(chunk, "nodes", first)
        first += chunk.num_rows
        yield whole(chunk["id"])


def _are_keys(ids: Ids, kind: pa.DataType) -> bool:
    if not pa.types.is_int64(kind):
        return False
    first = 0
    for some_ids in ids():
        if not _consecutive(some_ids.to_numpy(), first):
            return False
        first += len(some_ids)
    return True


def _bit_map(ids: Ids, kind: pa.DataType, num_nodes: int) -> BitMap | None:
    """Return a bit for each sorted id, or None if they are too far apart."""
    if not pa.types.is_int64(kind):
        return None
    bits = BitMap()
    for some_ids in ids():
        values = some_ids.to_numpy()
        if not len(values):
            continue
        if values[0] < 0 or values[-1] > _BITS_AN_ID * num_nodes + 4096:
            return None
        bits.reach(int(values[-1]))
        bits.add(values)
    return bits


def _check_type(ids: pa.Array, kind: pa.DataType, where: str) -> None:
    if ids.type != kind:
        raise refuse(where, f"ids of type {kind} as in the nodes", ids.type, "Convert one.")


def _check_known(keys: NDArray[np.int64], ids: pa.Array, where: str, first_row: int) -> None:
    if _any_outside(keys, np.iinfo(np.int64).max):
        raise _unknown(ids, np.flatnonzero(keys < 0), where, first_row)


def _unknown(
    ids: pa.Array, rows: NDArray[np.int64], where: str, first_row: int
) -> GraphFormatError:
    names = pc.unique(ids.take(pa.array(rows)))
    return refuse(
        where,
        "ids of the node table",
        f"unknown {some(names.slice(0, 3).to_pylist(), len(names))} "
        f"(first in row {first_row + int(rows[0])})",
        "Add these nodes or drop their edges.",
    )


_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def _any_outside(values: NDArray[np.int64], stop: int) -> bool:  # pragma: no cover - compiled
    """Return whether a value is not in [0, stop). No early exit: that would not be vectorised."""
    bad = False
    for i in range(np.uint64(values.shape[0])):
        bad |= (values[i] < 0) | (values[i] >= stop)
    return bad


@_jit
def _consecutive(values: NDArray[np.int64], first: int) -> bool:  # pragma: no cover - compiled
    same = True
    for i in range(np.uint64(values.shape[0])):
        same &= values[i] == first + np.int64(i)
    return same
