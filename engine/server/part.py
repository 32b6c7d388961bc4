"""One memory-mapped part of a store, and the edges of some of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.engine.kernels import find_mirrors, range_of_keys
from graphtheta.partition import Book, PartTables, column_numpy
from graphtheta.partition.store.part import ROLE_IN, ROLE_OUT
from graphtheta.proto.v1.graph_pb2 import Draw
from graphtheta.rng.edge_sampling import draw_positions, draw_priorities, edges_at, number_drawn
from graphtheta.rng.philox import Purpose, step_key, stream_id

__all__ = ["Edges", "OpenPart"]


@dataclass(frozen=True)
class Edges:
    """A chunk of the edges of some rows.

    Shape:
        row: (E,) index among the requested rows. position: (E,) position in CSC order of the part.
        other: (E,) local ids of the other ends. rank, draw: (E,) for weighted draws: the random
        rank of a candidate (the lowest are drawn), and the number of its draw.
    """

    row: NDArray[np.int64]
    position: NDArray[np.int64]
    other: NDArray[np.int32]
    rank: NDArray[np.float64] | None = None
    draw: NDArray[np.int32] | None = None


class OpenPart:
    """The tables of a part as arrays over the mapped files, without copies.

    Args:
        tables: The Arrow tables.
        book: Sizes of all parts.
        is_whole: Whether the part holds all in-edges of its masters.

    Attributes:
        tables: The Arrow tables.
        part: Index of the part.
        masters: The masters with all columns; in a graph of several node types, without those of
            the types, see `rows_of_type`.
        in_edges: The in-edges with all columns; in a graph of several relations, without those of
            the relations, see `rows_of_relation`.
        in_degree: (M,) in-degrees of the masters in the whole graph.
    """

    def __init__(self, tables: PartTables, book: Book, *, is_whole: bool) -> None:
        self.tables, self.part, self._is_whole = tables, tables.part, is_whole
        one_type, one_relation = len(tables.node_columns) == 1, len(tables.edge_columns) == 1
        self.masters = tables.masters_of() if one_type else tables.masters
        self.in_edges = tables.in_edges_of() if one_relation else tables.in_edges
        self._rows: dict[tuple[str, int], NDArray[np.int64]] = {}
        self._first_new_id = book.first_new_id
        self._num_masters = tables.num_masters
        self.in_indptr = column_numpy(tables.in_indptr, "indptr")
        self.out_indptr = column_numpy(tables.out_indptr, "indptr")
        self.src = column_numpy(tables.in_edges, "src")
        self.edge_key = column_numpy(tables.in_edges, "edge_key")
        self._in_position = column_numpy(tables.in_edges, "in_position")
        self.dst = column_numpy(tables.out_edges, "dst")
        self.csc_position = column_numpy(tables.out_edges, "csc_position")
        self._owner = column_numpy(tables.replicas, "owner")
        self._owner_local = column_numpy(tables.replicas, "owner_local")
        self._node_key = column_numpy(tables.replicas, "node_key")
        self.in_degree = column_numpy(tables.masters, "in_degree")
        peers = column_numpy(tables.plan, "peer")
        self._peers = np.unique(peers)
        self._peer_starts = np.append(np.searchsorted(peers, self._peers), len(peers))
        self._plan_master = column_numpy(tables.plan, "master")
        self._plan_role = column_numpy(tables.plan, "role")

    def local_ids(
        self, owner_R: NDArray[np.int64], owner_local_R: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the local ids of nodes, -1 for nodes that this part does not hold.

        Shape:
            owner_R, owner_local_R: owner of each node and its local id there. Returns (R,).
        """
        mirrors = np.empty(len(owner_R), np.int64)
        args = (self._owner, self._owner_local, self._num_masters)
        find_mirrors(owner_R, owner_local_R, *args, mirrors)
        local: NDArray[np.int64] = np.where(owner_R == self.part, owner_local_R, mirrors)
        return local

    def rows_of_type(
        self, position: int, local: NDArray[np.int64]
    ) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return the columns of a node type, and the rows of some masters in them.

        The rows are -1 for masters of other types. The local ids of the type are kept in memory
        from the first call: 8 bytes for each.

        Args:
            position: Position of the type in the manifest.
            local: (R,) local ids of masters.
        """
        key = "masters", position
        if key not in self._rows:
            self._rows[key] = self.tables.rows_of_type(position)
        return self.tables.node_columns[position], _rows_in(self._rows[key], local)

    def rows_of_relation(
        self, position: int, edges: NDArray[np.int64]
    ) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return the columns of a relation, and the rows of some edges in them.

        The rows are -1 for edges of other relations. The positions of the relation's edges are
        kept in memory from the first call: 8 bytes for each.

        Args:
            position: Position of the relation in the manifest.
            edges: (R,) positions of edges in CSC order.
        """
        table = self.tables.edge_columns[position]
        if table is None:
            return self.tables.in_edges.select([]), edges
        key = "in_edges", position
        if key not in self._rows:
            self._rows[key] = self.tables.rows_of_relation(position)
        return table, _rows_in(self._rows[key], edges)

    def describe(
        self, edges: Edges
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the new ids and node keys of the edges' other ends, and the edge keys.

        Shape:
            Returns (E,) each.
        """
        other = edges.other.astype(np.int64)  # once, for the three arrays that are read with it
        node = self._first_new_id.take(self._owner.take(other)) + self._owner_local.take(other)
        return node, self._node_key.take(other), self.edge_key.take(edges.position)

    def other_holders(
        self, master_R: NDArray[np.int64], *, out: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return which other parts hold in-edges (or out-edges) of masters, from the exchange plan.

        Shape:
            Returns (H,) indices into `master_R`, and (H,) parts.
        """
        role = ROLE_OUT if out else ROLE_IN
        wanted = master_R.astype(np.int32)  # the plan's type, so that the search copies neither
        rows, parts = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        for number, peer in enumerate(self._peers):
            span = slice(self._peer_starts[number], self._peer_starts[number + 1])
            masters = self._plan_master[span]
            at = np.minimum(np.searchsorted(masters, wanted), len(masters) - 1)
            holds = (masters[at] == wanted) & ((self._plan_role[span][at] & role) != 0)
            rows.append(np.flatnonzero(holds))
            parts.append(np.full(len(rows[-1]), peer, np.int32))
        return np.concatenate(rows), np.concatenate(parts)

    def edges(
        self,
        rows: NDArray[np.int64],
        *,
        out: bool,
        chunk: int,
        keys: tuple[int, int] | None = None,
    ) -> Iterator[Edges]:
        """Yield the in-edges (or out-edges) of nodes that this part holds.

        Args:
            rows: (R,) local ids.
            out: Whether to yield out-edges.
            chunk: Edges to yield at a time.
            keys: First edge key to yield, and the one after the last. If None, all edges.
        """
        if keys is not None and not out:
            starts, stops = self._range_of_keys(rows, keys)
        else:
            indptr = self.out_indptr if out else self.in_indptr
            starts, stops = indptr[rows], indptr[rows + 1]
        ends = np.cumsum(stops - starts)
        shift = starts - np.append(0, ends[:-1])[: len(ends)]
        total = int(ends[-1]) if len(ends) else 0
        for first in range(0, total, chunk):
            flat = np.arange(first, min(first + chunk, total))
            row = np.searchsorted(ends, flat, side="right")
            position = shift[row] + flat
            if out:
                at, other = self.csc_position[position].astype(np.int64), self.dst[position]
                if keys is not None:
                    key = self.edge_key.take(at)
                    kept = (key >= keys[0]) & (key < keys[1])
                    row, at, other = row[kept], at[kept], other[kept]
                yield Edges(row, at, other)
            else:
                yield Edges(row, position, self.src[position])

    def _range_of_keys(
        self, rows: NDArray[np.int64], keys: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        first, last = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        range_of_keys(rows, self.in_indptr, self.edge_key, *keys, first, last)
        return first, last

    def draw_edges(
        self,
        rows: NDArray[np.int64],
        degrees: NDArray[np.int64],
        draw: Draw,
        *,
        chunk: int,
        relation: tuple[int, tuple[int, int]] | None = None,
    ) -> Iterator[Edges]:
        """Yield the drawn in-edges of nodes that this part holds.

        In a weighted draw, these are candidates with their ranks: where several parts hold in-edges
        of a node, the lowest ranks of all parts are drawn.

        Args:
            rows: (R,) local ids.
            degrees: (R,) in-degrees in the whole graph.
            draw: How edges are drawn.
            chunk: Edges to yield at a time.
            relation: Relation to draw from: its position, its first edge key and the one after its
                last. The part must be whole. If None, all in-edges.
        """
        key_2 = step_key(draw.seed, draw.step)
        stream = stream_id(Purpose.SAMPLE, draw.layer, relation[0] if relation else 0)
        size = max(1, chunk // draw.fanout)
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            if draw.weight:
                yield self._draw_by_weight(some, first, draw, stream, key_2)
                continue
            begin, degree = None, degrees[first : first + size]
            if relation is not None:
                begin, stop = self._range_of_keys(some, relation[1])
                degree = stop - begin
            count = number_drawn(degree, draw.fanout, replace=draw.replace)
            drawn = np.empty(int(count.sum()), np.int64)
            draw_positions(self._node_key[some], degree, count, draw.replace, stream, key_2, drawn)
            if begin is not None:
                drawn += np.repeat(begin - self.in_indptr[some], count)
            found = np.empty_like(drawn)
            num_found = edges_at(
                some, self.in_indptr, self._in_position, self._is_whole, drawn, count, found
            )
            position = found[:num_found]
            row = first + np.repeat(np.arange(len(some)), count)
            yield Edges(row, position, self.src[position])

    def _draw_by_weight(
        self,
        rows: NDArray[np.int64],
        first: int,
        draw: Draw,
        stream: np.uint32,
        key_2: NDArray[np.uint32],
    ) -> Edges:
        weight = column_numpy(self.in_edges, draw.weight)
        edges, draws = (self.in_indptr, self.edge_key, weight), (draw.fanout, draw.replace)
        rank, edge = draw_priorities(rows, *edges, *draws, stream, key_2)
        row, number = np.nonzero(edge >= 0)
        position = edge[row, number]
        return Edges(
            first + row, position, self.src[position], rank[row, number], number.astype(np.int32)
        )


def _rows_in(ascending: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each value in an ascending array, -1 for values that are not there."""
    if not len(ascending):
        return np.full(len(values), -1)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.where(ascending[at] == values, at, -1)
