"""The parts of a store that one server serves, and the responses computed from them.

Responses are generated in chunks of bounded size while they are sent, so a request takes the memory
of its ids and of one chunk, however many edges it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.engine.kernels import (
    empty_table,
    fill_table,
    find_edges_between,
    find_edges_by_key,
    find_edges_in_rows,
)
from graphtheta.engine.server.part import OpenPart
from graphtheta.engine.server.response_rows import (
    CHUNK_BYTES,
    batch,
    check_columns,
    edge_table,
    row_bytes,
    spans,
    take_rows,
)
from graphtheta.engine.wire.chunks import ResponseChunk
from graphtheta.errors import ConfigError, UnknownNode
from graphtheta.partition import ColumnSpec, Store
from graphtheta.proto.v1.graph_pb2 import Draw
from graphtheta.wording import some

__all__ = ["ServerGraph"]

_SCANNED = 1 << 26  # edges to scan before checking whether the caller is still there
_Ids = NDArray[np.int64]
_Chunks = Iterator[ResponseChunk]

# Reads edges of nodes at one part, given the rows of the request, the nodes' local ids, and their
# in-degrees in the whole graph if they are known.
_Read = Callable[[OpenPart, _Ids, _Ids, _Ids | None], _Chunks]


class ServerGraph:
    """One or several memory-mapped parts of a store.

    Args:
        store: The store. Only the files of the served parts are read.
        parts: Indices of the parts to serve. If None, all parts.

    Raises:
        ConfigError: If there is no such part.
        StoreError: If a file is missing or damaged.

    Attributes:
        store: The store.
        parts: The open parts by index.
    """

    def __init__(self, store: Store, parts: Sequence[int] | None = None) -> None:
        self.store, self._book, self._index = store, store.book, store.index
        served = range(store.num_parts) if parts is None else sorted(set(parts))
        # In a vertex-cut the in-edges of a node may be spread over several parts.
        self._is_spread = store.manifest.cut == "vertex" and store.num_parts > 1
        self.parts = {
            part: OpenPart(store.part(part), store.book, is_whole=not self._is_spread)
            for part in served
        }
        self._is_open = np.zeros(store.num_parts, np.bool_)
        self._is_open[list(self.parts)] = True

    # -- nodes ------------------------------------------------------------------------------------

    def lookup(self, ids: pa.Array, *, by_key: bool, node_type: str = "") -> _Chunks:
        """Yield the new ids of nodes given by original ids or by node keys, in order.

        Args:
            ids: The ids.
            by_key: Whether they are node keys.
            node_type: Type of the nodes that original ids are of. If empty, the only type.

        Raises:
            ConfigError: If there is no such type.
            GraphFormatError: If ids are of another type.
            UnknownNode: If there is no such node.
        """
        index = self._index
        new_ids = (
            index.new_ids_of_keys(ids.to_numpy())
            if by_key
            else index.new_ids(ids, node_type or None)
        )
        for span in spans(len(new_ids), 8):
            yield ResponseChunk(pa.record_batch({"new_id": new_ids[span]}))

    def node_columns(
        self, new_ids: _Ids, names: list[str], node_type: str = "", *, skip: bool = False
    ) -> _Chunks:
        """Yield columns of nodes that the served parts own, with the rows of the request.

        Args:
            new_ids: (R,) nodes.
            names: Columns.
            node_type: Type of the nodes, whose columns may be named. If empty, the only type, or
                columns that all types have.
            skip: Whether to skip nodes of other types, which are an error otherwise.

        Raises:
            ConfigError: If there is no such type or column, a part that is not served owns a node,
                or a node is of another type.
            UnknownNode: If there is no such node.
        """
        manifest = self.store.manifest
        position = manifest.position_of_type(node_type) if node_type else None
        if len(manifest.node_types) == 1:
            position = None  # the columns of the only type are among those of all masters
        of_type = [] if position is None else list(manifest.node_types[position].columns)
        if position is not None:
            of_type.append("original_id")
        for part in self.parts.values():
            check_columns("node columns", [*part.masters.column_names, *of_type], names)
        common = [name for name in names if name not in of_type]
        own = [name for name in names if name in of_type]
        owner, local = self._locate(new_ids)
        self._check_open(owner)
        for part, rows in self._by_part(owner):
            if position is None:
                yield from take_rows(rows, (part.masters.select(names), local[rows]))
                continue
            table, found = part.rows_of_type(position, local[rows])
            if skip:
                rows, found = rows[found >= 0], found[found >= 0]
            elif (found < 0).any():
                other = int(new_ids[rows[found < 0][0]])
                raise ConfigError(
                    f"node columns: expected nodes of the type {node_type}, got the new id {other} "
                    "of another type. Request columns of one type at a time."
                )
            columns = (part.masters.select(common), local[rows]), (table.select(own), found)
            yield from take_rows(rows, *columns)

    # -- edges ------------------------------------------------------------------------------------

    def neighbours(
        self,
        new_ids: _Ids,
        *,
        out: bool,
        draw: Draw | None,
        columns: list[str],
        relation: str = "",
        parts: NDArray[np.int32] | None = None,
        degrees: _Ids | None = None,
    ) -> _Chunks:
        """Yield the edges of nodes: all, or the in-edges that are drawn.

        The edges of a node at one part are sorted by edge key.

        Args:
            new_ids: (R,) nodes.
            out: Whether to yield out-edges.
            draw: How in-edges are drawn. If None, all edges are yielded.
            columns: Edge columns to add.
            relation: Relation of the edges and columns. If empty, all edges are yielded.
            parts: (R,) part to read for each node. If None, the node's owner, and the other open
                parts that hold edges of it.
            degrees: (R,) in-degrees in the whole graph, given together with `parts`.

        Raises:
            ConfigError: If there is no such relation, column or part, or `draw` is given for
                out-edges, or for one relation with a weight or in a vertex-cut.
            UnknownNode: If there is no such node.
        """
        position, keys = self._relation(relation)
        check_columns("edge columns", self._edge_columns(position), columns)
        if draw is not None:
            self._check_draw(draw, out, position)

        def read(part: OpenPart, rows: _Ids, local: _Ids, degree: _Ids | None) -> _Chunks:
            table, _ = self._columns_at(part, position, local[:0])
            size = max(1, CHUNK_BYTES // (32 + row_bytes(table.select(columns))))
            if draw is None:
                chunks = part.edges(local, out=out, chunk=size, keys=keys)
            else:
                assert degree is not None
                one = None if position is None or keys is None else (position, keys)
                chunks = part.draw_edges(local, degree, draw, chunk=size, relation=one)
            for edges in chunks:
                table, at = self._columns_at(part, position if columns else None, edges.position)
                yield ResponseChunk(edge_table(part, rows, edges, table.select(columns), at))

        yield from self._read_edges(new_ids, parts, degrees, read, out=out)

    def find_edges(
        self,
        src: _Ids,
        dst: _Ids,
        parts: NDArray[np.int32] | None = None,
        relation: str = "",
    ) -> _Chunks:
        """Yield the lowest edge key of each pair of nodes with an edge, with the row of the pair.

        Args:
            src: (R,) new ids of the sources.
            dst: (R,) new ids of the destinations.
            parts: (R,) part to read for each destination; None as in `neighbours`.
            relation: Relation of the edges. If empty, all edges.

        Raises:
            ConfigError: If there is no such part or relation.
            UnknownNode: If there is no such node.
        """
        low, high = self._relation(relation)[1] or (0, np.iinfo(np.int64).max)
        src_owner, src_local = self._locate(src)

        def read(part: OpenPart, rows: _Ids, local: _Ids, degree: _Ids | None) -> _Chunks:
            position = np.empty(len(rows), np.int64)
            source = part.local_ids(src_owner[rows], src_local[rows])
            in_edges = part.in_indptr, part.src
            out_edges = part.out_indptr, part.dst, part.csc_position
            ends = *in_edges, *out_edges
            find_edges_between(source, local, *ends, part.edge_key, low, high, position)
            found = np.flatnonzero(position >= 0)
            yield ResponseChunk(batch(rows[found], edge_key=part.edge_key[position[found]]))

        yield from self._read_edges(dst, parts, None, read, out=False)

    def edge_columns(
        self,
        keys: _Ids,
        names: list[str],
        dst: _Ids | None = None,
        parts: NDArray[np.int32] | None = None,
        relation: str = "",
    ) -> _Chunks:
        """Yield columns of the edges that the served parts hold, with the rows of the request.

        Args:
            keys: (R,) edge keys.
            names: Edge columns.
            dst: (R,) new ids of the destinations, whose in-edges are searched. If None, all edges
                of the open parts are scanned.
            parts: (R,) part to read for each destination; None as in `neighbours`.
            relation: Relation of the columns; edges of others are not found. If empty, the only
                relation.

        Raises:
            ConfigError: If there is no such relation, column or part.
            UnknownNode: If there is no such node.
        """
        of, _ = self._relation(relation)
        check_columns("edge columns", self._edge_columns(of), names)
        if dst is None:
            yield from self._scan_edges(keys, names, of)
            return

        def read(part: OpenPart, rows: _Ids, local: _Ids, degree: _Ids | None) -> _Chunks:
            position = np.empty(len(rows), np.int64)
            find_edges_in_rows(keys[rows], local, part.in_indptr, part.edge_key, position)
            found = position >= 0
            yield from self._take_edges(part, rows[found], position[found], names, of)

        yield from self._read_edges(dst, parts, None, read, out=False)

    def _scan_edges(self, keys: _Ids, names: list[str], relation: int | None) -> _Chunks:
        distinct, index = np.unique(keys, return_inverse=True)
        table = empty_table(len(distinct))
        fill_table(distinct, table)
        for part in self.parts.values():
            positions = np.full(len(distinct), -1, np.int64)
            for first in range(0, len(part.edge_key), _SCANNED):
                if first:
                    yield ResponseChunk()  # lets the interceptor stop if the caller is gone
                scanned = part.edge_key[first : first + _SCANNED]
                find_edges_by_key(distinct, table, scanned, first, positions)
            position = positions[index]
            found = np.flatnonzero(position >= 0)
            yield from self._take_edges(part, found, position[found], names, relation)

    # -- relations --------------------------------------------------------------------------------

    def _relation(self, name: str) -> tuple[int | None, tuple[int, int] | None]:
        """Return the position and the range of edge keys of a relation; None for all edges."""
        manifest = self.store.manifest
        position = manifest.position_of_relation(name) if name else 0
        if not name or len(manifest.relations) == 1:
            return None, None
        ends = np.append(manifest.first_edge_keys, np.iinfo(np.int64).max)
        return position, (int(ends[position]), int(ends[position + 1]))

    def _edge_columns(self, relation: int | None) -> dict[str, ColumnSpec]:
        """Return the columns of a relation; if it is None, those of the only one."""
        relations = self.store.manifest.relations
        if relation is None and len(relations) > 1:
            return {}
        return relations[relation or 0].columns

    def _columns_at(
        self, part: OpenPart, relation: int | None, edges: _Ids
    ) -> tuple[pa.Table, _Ids]:
        """Return the columns of a relation at a part, and the rows of edges in them."""
        return (
            (part.in_edges, edges) if relation is None else part.rows_of_relation(relation, edges)
        )

    def _take_edges(
        self, part: OpenPart, rows: _Ids, edges: _Ids, names: list[str], relation: int | None
    ) -> _Chunks:
        table, at = self._columns_at(part, relation, edges)
        rows, at = rows[at >= 0], at[at >= 0]
        yield from take_rows(rows, (table.select(names), at))

    # -- which part holds what --------------------------------------------------------------------

    def _read_edges(
        self,
        new_ids: _Ids,
        parts: NDArray[np.int32] | None,
        degrees: _Ids | None,
        read: _Read,
        *,
        out: bool,
    ) -> _Chunks:
        """Read edges of nodes at the parts given for them, or else at all open parts that have any.

        In the second case, also yield the other parts that hold edges of the nodes.
        """
        owner, local = self._locate(new_ids)
        self._check_open(owner if parts is None else parts)
        if parts is not None:
            for part, rows in self._by_part(parts):
                ids = part.local_ids(owner[rows], local[rows])
                rows, ids = rows[ids >= 0], ids[ids >= 0]
                yield from read(part, rows, ids, None if degrees is None else degrees[rows])
            return
        for part, rows in self._by_part(owner):
            degree = part.in_degree[local[rows]]
            yield from read(part, rows, local[rows], degree)
            if out or self._is_spread:
                which, holder = part.other_holders(local[rows], out=out)
                for other, index in self._by_part(holder):
                    some_rows = rows[which[index]]
                    ids = other.local_ids(owner[some_rows], local[some_rows])
                    yield from read(other, some_rows, ids, degree[which[index]])
                away = ~self._is_open[holder]
                if away.any():
                    index = which[away]
                    others = batch(rows[index], part=holder[away], in_degree=degree[index])
                    yield ResponseChunk(other_parts=others)

    def _locate(self, new_ids: _Ids) -> tuple[_Ids, _Ids]:
        """Return the owners of nodes, and the nodes' local ids there."""
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
                f"nodes: expected nodes of the parts {', '.join(map(str, self.parts))} that are "
                f"served here, got nodes of {some(away.tolist(), len(away))}. Call the servers of "
                "these parts."
            )

    def _by_part(self, parts: NDArray[Any]) -> Iterator[tuple[OpenPart, _Ids]]:
        """Yield the open parts, each with the rows at which it is named."""
        for part in np.unique(parts).tolist():
            if part in self.parts:
                yield self.parts[part], np.flatnonzero(parts == part)

    def _check_draw(self, draw: Draw, out: bool, relation: int | None) -> None:
        if relation is not None and (draw.weight or self._is_spread):
            raise ConfigError(
                "draw: expected a draw from all in-edges, got one from a relation, "
                f"{'by weight' if draw.weight else 'in a vertex-cut'}. Request all its edges."
            )
        if out:
            raise ConfigError("draw: expected in-edges, got out-edges. Request all out-edges.")
        if draw.fanout < 1 or draw.layer >= 1 << 16:
            raise ConfigError(
                f"draw: expected a fanout >= 1 and a layer < 65,536, got {draw.fanout} and "
                f"{draw.layer}. Correct them."
            )
        if draw.weight:
            columns = self._edge_columns(None)
            check_columns("draw", columns, [draw.weight])
            spec = columns[draw.weight]
            if spec.width is not None or not spec.dtype.startswith(("int", "float", "double")):
                raise ConfigError(
                    f"draw: expected one number for each edge, got {spec.dtype} in "
                    f"'{draw.weight}'. Name another column."
                )
