"""The parts of a store that one server holds open, and what it answers from them.

Answers come in pieces of bounded size, made when they are sent: a request holds its ids and one
piece in memory, however many edges it asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import some, whole
from graphtheta.engine.kernels import (
    edges_between,
    edges_with_keys,
    empty_table,
    key_table,
    places_in_rows,
)
from graphtheta.engine.server.part import DrawnEdges, Edges, OpenPart
from graphtheta.engine.wire.limits import COLUMN
from graphtheta.errors import ConfigError, UnknownNode
from graphtheta.partition import Store

__all__ = ["Answer", "ServerGraph", "check_columns"]

_PIECE = 1 << 21  # bytes of an answer that are in memory at a time, about
_SCANNED = 1 << 26  # edges that are looked at, by key alone, before the next sign of life
_Ids = NDArray[np.int64]

# A table, or None, and which rows have more at which parts that are not served here.
Answer = tuple[pa.RecordBatch | None, pa.RecordBatch | None]


class ServerGraph:
    """One or several parts of a store, mapped.

    Attributes:
        store: The store; of its files only those of the parts are read.
        parts: The open parts by index.
    """

    def __init__(self, store: Store, parts: Sequence[int] | None = None) -> None:
        """Open some parts; None: all.

        Raises:
            ConfigError: If there is no such part.
            StoreError: If a file is missing or damaged.
        """
        self.store, self._book = store, store.book
        chosen = range(store.num_parts) if parts is None else sorted(set(parts))
        self._spreads = store.manifest.cut == "vertex" and store.num_parts > 1
        self.parts = {
            part: OpenPart(store.part(part), store.book, is_whole=not self._spreads)
            for part in chosen
        }
        self._is_open = np.zeros(store.num_parts, np.bool_)
        self._is_open[list(self.parts)] = True

    # -- nodes ------------------------------------------------------------------------------------

    def lookup(self, ids: pa.Array, *, by_key: bool) -> Iterator[Answer]:
        """Yield the new ids of original ids, or of node keys, in order.

        Raises:
            GraphFormatError: If ids are of another type.
            UnknownNode: If one names no node.
        """
        index = self.store.index
        found = index.new_ids_of_keys(ids.to_numpy()) if by_key else index.new_ids(ids)
        for piece in _pieces(len(found), 8):
            yield pa.record_batch({"new_id": found[piece]}), None

    def node_columns(self, new_ids: _Ids, names: list[str]) -> Iterator[Answer]:
        """Yield columns of nodes that are owned here, with the rows that were asked for.

        Raises:
            ConfigError: If there is no such column, or a node is owned elsewhere.
            UnknownNode: If there is no such node.
        """
        for part in self.parts.values():
            check_columns("node columns", part.tables.masters.column_names, names)
        owner, local = self._place(new_ids)
        self._check_open(owner)
        for part, rows in self._by_part(owner):
            columns = part.tables.masters.select(names)
            yield from _taken(columns, rows, local[rows])

    # -- edges ------------------------------------------------------------------------------------

    def neighbours(
        self,
        new_ids: _Ids,
        *,
        out: bool,
        drawn: DrawnEdges | None,
        columns: list[str],
        parts: NDArray[np.int32] | None = None,
        degrees: _Ids | None = None,
    ) -> Iterator[Answer]:
        """Yield in-edges (or out-edges), all or drawn, of nodes; a node's are sorted by edge key.

        Args:
            new_ids: (R,) nodes.
            out: Whether out-edges are asked for.
            drawn: How in-edges are drawn; None: all.
            columns: Edge columns to add.
            parts: (R,) the part to look at; None: all of them that are open, by way of the owner's.
            degrees: (R,) in-degrees in the whole graph, given with `parts`.

        Raises:
            ConfigError: If there is no such column or part, or out-edges are to be drawn.
            UnknownNode: If there is no such node.
        """
        self._check_edge_columns(columns)
        if drawn is not None:
            self._check_draw(drawn, out)
        owner, local = self._place(new_ids)
        holders = owner if parts is None else parts
        self._check_open(holders)
        for part, rows in self._by_part(holders):
            at = local[rows] if parts is None else part.local(owner[rows], local[rows])
            rows, at = rows[at >= 0], at[at >= 0]
            degree = part.in_degrees(at) if degrees is None else degrees[rows]
            yield from self._edges(part, rows, at, degree, out, drawn, columns)
            if parts is None and (out or self._spreads):
                which, peer = part.holders(at, out=out)
                for other, some_rows in self._by_part(peer):
                    asked = which[some_rows]
                    there = other.local(owner[rows[asked]], local[rows[asked]])
                    yield from self._edges(
                        other, rows[asked], there, degree[asked], out, drawn, columns
                    )
                yield from self._elsewhere(rows[which], peer, degree[which])

    def find_edges(
        self, src: _Ids, dst: _Ids, parts: NDArray[np.int32] | None = None
    ) -> Iterator[Answer]:
        """Yield the lowest edge key of pairs that are joined by an edge, with their rows.

        Shape:
            src, dst: (R,) new ids. parts: (R,) as of `neighbours`.

        Raises:
            ConfigError: If there is no such part.
            UnknownNode: If there is no such node.
        """

        def find(part: OpenPart, rows: _Ids, at: _Ids) -> Iterator[pa.RecordBatch]:
            place = np.empty(len(rows), np.int64)
            near = part.local(*(x[rows] for x in sources))
            edges_between(
                near,
                at,
                part.in_indptr,
                part.src,
                part.out_indptr,
                part.dst,
                part.csc_position,
                place,
            )
            found = np.flatnonzero(place >= 0)
            key = part.edge_key[place[found]]
            yield pa.record_batch({"row": rows[found].astype(np.int32), "edge_key": key})

        sources = self._place(src)
        yield from self._at_lists_of(dst, parts, find)

    def edge_columns(
        self,
        keys: _Ids,
        names: list[str],
        dst: _Ids | None = None,
        parts: NDArray[np.int32] | None = None,
    ) -> Iterator[Answer]:
        """Yield columns of the edges that are found here, with the rows that were asked for.

        Args:
            keys: (R,) edge keys.
            names: Edge columns.
            dst: (R,) new ids of their destinations, in whose lists they are looked up; None: all
                edges of the open parts are looked at.
            parts: (R,) as of `neighbours`.

        Raises:
            ConfigError: If there is no such column or part.
            UnknownNode: If there is no such node.
        """
        self._check_edge_columns(names)
        if dst is None:
            distinct, row = np.unique(keys, return_inverse=True)
            slots = empty_table(len(distinct))
            key_table(distinct, slots)
            for part in self.parts.values():
                places = np.full(len(distinct), -1, np.int64)
                for first in range(0, len(part.edge_key), _SCANNED):
                    if first:
                        yield None, None  # an empty piece: a caller that has gone is noticed
                    some = part.edge_key[first : first + _SCANNED]
                    edges_with_keys(distinct, slots, some, first, places)
                place = places[row]
                found = np.flatnonzero(place >= 0)
                yield from _taken(part.tables.in_edges.select(names), found, place[found])
            return

        def find(part: OpenPart, rows: _Ids, at: _Ids) -> Iterator[pa.RecordBatch]:
            place = np.empty(len(rows), np.int64)
            places_in_rows(keys[rows], at, part.in_indptr, part.edge_key, place)
            found = place >= 0
            columns = part.tables.in_edges.select(names)
            yield from (table for table, _ in _taken(columns, rows[found], place[found]))

        yield from self._at_lists_of(dst, parts, find)

    # -- where things are -------------------------------------------------------------------------

    def _edges(
        self,
        part: OpenPart,
        rows: _Ids,
        at: _Ids,
        degree: _Ids,
        out: bool,
        drawn: DrawnEdges | None,
        columns: list[str],
    ) -> Iterator[Answer]:
        table = part.tables.in_edges.select(columns)
        piece = max(1, _PIECE // (32 + _row_bytes(table)))
        if drawn is None:
            found = part.edges(at, out=out, piece=piece)
        else:
            found = part.drawn(at, degree, drawn, piece=piece)
        for edges in found:
            yield _edge_table(part, rows, edges, table), None

    def _at_lists_of(
        self, dst: _Ids, parts: NDArray[np.int32] | None, find: Any
    ) -> Iterator[Answer]:
        """Look at the parts that hold in-edges of nodes: `find(part, rows, local ids)`."""
        owner, local = self._place(dst)
        holders = owner if parts is None else parts
        self._check_open(holders)
        for part, rows in self._by_part(holders):
            at = local[rows] if parts is None else part.local(owner[rows], local[rows])
            yield from ((table, None) for table in find(part, rows, at))
            if parts is None and self._spreads:
                which, peer = part.holders(at, out=False)
                for other, some_rows in self._by_part(peer):
                    asked = rows[which[some_rows]]
                    there = other.local(owner[asked], local[asked])
                    yield from ((table, None) for table in find(other, asked, there))
                yield from self._elsewhere(rows[which], peer, np.zeros(len(which), np.int64))

    def _elsewhere(self, rows: _Ids, parts: NDArray[np.int32], degrees: _Ids) -> Iterator[Answer]:
        away = ~np.isin(parts, list(self.parts))
        if away.any():
            yield (
                None,
                pa.record_batch(
                    {
                        "row": rows[away].astype(np.int32),
                        "part": parts[away],
                        "in_degree": degrees[away],
                    }
                ),
            )

    def _place(self, new_ids: _Ids) -> tuple[_Ids, _Ids]:
        """Return the owners of nodes, and their local ids there."""
        num_nodes = self.store.manifest.num_nodes
        outside = (new_ids < 0) | (new_ids >= num_nodes)
        if outside.any():
            unknown = new_ids[outside].tolist()
            raise UnknownNode(
                f"nodes: expected new ids in [0, {num_nodes:,}), got "
                f"{some(unknown, len(unknown))}. Look them up in this store."
            )
        first = self._book.first_new_id
        owner = np.searchsorted(first, new_ids, side="right") - 1
        return owner, new_ids - first[owner]

    def _check_open(self, parts: NDArray[Any]) -> None:
        inside = np.clip(parts, 0, self.store.num_parts - 1)
        away = parts[(inside != parts) | ~self._is_open[inside]]
        if len(away):
            raise ConfigError(
                f"nodes: expected nodes of the parts {list(self.parts)} that are served here, got "
                f"some of {some(away.tolist(), len(away))}. Ask the servers of these."
            )

    def _by_part(self, parts: NDArray[Any]) -> Iterator[tuple[OpenPart, _Ids]]:
        """Yield open parts with the rows that name them."""
        for part in np.unique(parts).tolist():
            if part in self.parts:
                yield self.parts[part], np.flatnonzero(parts == part)

    def _check_edge_columns(self, names: list[str]) -> None:
        check_columns("edge columns", list(self.store.manifest.edge_columns), names)

    def _check_draw(self, drawn: DrawnEdges, out: bool) -> None:
        if out:
            raise ConfigError("draw: expected in-edges, got out-edges. Ask for all of these.")
        if drawn.fanout < 1 or drawn.layer >= 1 << 16:
            raise ConfigError(
                f"draw: expected a fanout >= 1 and a layer < 65,536, got {drawn.fanout} and "
                f"{drawn.layer}. Correct them."
            )
        if drawn.weight is not None:
            columns = self.store.manifest.edge_columns
            check_columns("draw", list(columns), [drawn.weight])
            kind = columns[drawn.weight]
            if kind.width is not None or not kind.dtype.startswith(("int", "float", "double")):
                raise ConfigError(
                    f"draw: expected one number an edge, got {kind.dtype} in '{drawn.weight}'. "
                    "Name another column."
                )


def check_columns(what: str, known: Iterable[str], names: list[str]) -> None:
    """Refuse names of columns that are not known, or that stand twice."""
    known = list(known)
    if set(names) - set(known) or len(set(names)) < len(names):
        raise ConfigError(
            f"{what}: expected some of {', '.join(known) or 'none at all'}, each once, got "
            f"{', '.join(names)}. Name some of these."
        )


def _edge_table(part: OpenPart, rows: _Ids, edges: Edges, table: pa.Table) -> pa.RecordBatch:
    node, node_key, edge_key = part.ends(edges)
    columns: dict[str, Any] = {
        "row": rows[edges.row].astype(np.int32),
        "node": node,
        "node_key": node_key,
        "edge_key": edge_key,
    }
    if edges.rank is not None:
        columns |= {"rank": edges.rank, "draw": edges.draw}
    return pa.record_batch(columns | _take(table, edges.place))


def _taken(table: pa.Table, rows: _Ids, places: _Ids) -> Iterator[Answer]:
    for piece in _pieces(len(rows), 4 + _row_bytes(table)):
        row = rows[piece].astype(np.int32)
        yield pa.record_batch({"row": row} | _take(table, places[piece])), None


def _take(table: pa.Table, places: _Ids) -> dict[str, pa.Array]:
    taken = pa.array(places)
    return {COLUMN + name: whole(table[name]).take(taken) for name in table.column_names}


def _pieces(rows: int, row_bytes: int) -> Iterator[slice]:
    size = max(1, _PIECE // row_bytes)
    for first in range(0, rows, size):
        yield slice(first, first + size)


def _row_bytes(table: pa.Table) -> int:
    return int(table.nbytes // max(1, table.num_rows))
