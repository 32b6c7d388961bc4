"""One memory-mapped part of a store, and the edges of some of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphtheta.engine.kernels import find_mirrors
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
            the types.
        in_edges: The in-edges with all columns; in a graph of several relations, without those of
            the relations.
        in_degree: (M,) in-degrees of the masters in the whole graph.
    """

    def __init__(self, tables: PartTables, book: Book, *, is_whole: bool) -> None:
        self.tables, self.part, self._is_whole = tables, tables.part, is_whole
        one_type, one_relation = len(tables.node_columns) == 1, len(tables.edge_columns) == 1
        self.masters = tables.masters_of() if one_type else tables.masters
        self.in_edges = tables.in_edges_of() if one_relation else tables.in_edges
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

    def edges(self, rows: NDArray[np.int64], *, out: bool, chunk: int) -> Iterator[Edges]:
        """Yield all in-edges (or out-edges) of nodes that this part holds.

        Args:
            rows: (R,) local ids.
            out: Whether to yield out-edges.
            chunk: Edges to yield at a time.
        """
        indptr = self.out_indptr if out else self.in_indptr
        starts = indptr[rows]
        ends = np.cumsum(indptr[rows + 1] - starts)
        shift = starts - np.append(0, ends[:-1])[: len(ends)]
        total = int(ends[-1]) if len(ends) else 0
        for first in range(0, total, chunk):
            flat = np.arange(first, min(first + chunk, total))
            row = np.searchsorted(ends, flat, side="right")
            position = shift[row] + flat
            if out:
                yield Edges(row, self.csc_position[position].astype(np.int64), self.dst[position])
            else:
                yield Edges(row, position, self.src[position])

    def draw_edges(
        self, rows: NDArray[np.int64], degrees: NDArray[np.int64], draw: Draw, *, chunk: int
    ) -> Iterator[Edges]:
        """Yield the drawn in-edges of nodes that this part holds.

        In a weighted draw, these are candidates with their ranks: where several parts hold in-edges
        of a node, the lowest ranks of all parts are drawn.

        Args:
            rows: (R,) local ids.
            degrees: (R,) in-degrees in the whole graph.
            draw: How edges are drawn.
            chunk: Edges to yield at a time.
        """
        key_2 = step_key(draw.seed, draw.step)
        stream = stream_id(Purpose.SAMPLE, draw.layer)
        size = max(1, chunk // draw.fanout)
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            if draw.weight:
                yield self._draw_by_weight(some, first, draw, stream, key_2)
                continue
            degree = degrees[first : first + size]
            count = number_drawn(degree, draw.fanout, replace=draw.replace)
            drawn = np.empty(int(count.sum()), np.int64)
            draw_positions(self._node_key[some], degree, count, draw.replace, stream, key_2, drawn)
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
