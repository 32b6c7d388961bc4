"""One part that a server holds open: its mapped columns, and the edges of some of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphtheta.engine.kernels import edge_ends, find_mirrors
from graphtheta.partition import Book, PartTables, column_numpy
from graphtheta.partition.store.part import ROLE_IN, ROLE_OUT
from graphtheta.rng.edge_sampling import draw_positions, draw_ranks, edges_at, number_drawn
from graphtheta.rng.philox import Purpose, step_key, stream_id

__all__ = ["DrawnEdges", "Edges", "OpenPart"]


@dataclass(frozen=True)
class DrawnEdges:
    """How edges are drawn: as `graphtheta.tgar.Fanout` at a layer, seed and step of training."""

    fanout: int
    replace: bool
    weight: str | None
    seed: int
    step: int
    layer: int


@dataclass(frozen=True)
class Edges:
    """A piece of an answer.

    Shape:
        row: (E,) which of the rows that were asked for. place: (E,) in CSC order of the part.
        other: (E,) local ids of the other ends. rank, draw: (E,) by which draws by weight merge.
    """

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    other: NDArray[np.int32]
    rank: NDArray[np.float64] | None = None
    draw: NDArray[np.int32] | None = None


class OpenPart:
    """A part's tables as arrays over the mapped files; nothing is copied.

    Attributes:
        tables: The Arrow tables.
        part: Which part.
    """

    def __init__(self, tables: PartTables, book: Book, *, is_whole: bool) -> None:
        """Map the columns; `is_whole` if every master's in-edges are all here."""
        self.tables, self.part, self._is_whole = tables, tables.part, is_whole
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
        self._in_degree = column_numpy(tables.masters, "in_degree")
        peers = column_numpy(tables.plan, "peer")
        self._peers = np.unique(peers)
        self._peer_starts = np.append(np.searchsorted(peers, self._peers), len(peers))
        self._plan_master = column_numpy(tables.plan, "master")
        self._plan_role = column_numpy(tables.plan, "role")

    def local(self, owner_R: NDArray[np.int64], local_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the local ids of nodes given by owner and local id there, -1 if absent."""
        rows = np.empty(len(owner_R), np.int64)
        find_mirrors(owner_R, local_R, self._owner, self._owner_local, self._num_masters, rows)
        found: NDArray[np.int64] = np.where(owner_R == self.part, local_R, rows)
        return found

    def ends(self, edges: Edges) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return new ids and node keys of edges' other ends, and the edges' keys: (E,) each."""
        node, key, edge = np.empty((3, len(edges.place)), np.int64)
        edge_ends(
            edges.other,
            edges.place,
            self._first_new_id,
            self._owner,
            self._owner_local,
            self._node_key,
            self.edge_key,
            node,
            key,
            edge,
        )
        return node, key, edge

    def in_degrees(self, master_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the in-degrees of masters in the whole graph."""
        degrees: NDArray[np.int64] = self._in_degree[master_R]
        return degrees

    def holders(
        self, master_R: NDArray[np.int64], *, out: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return which other parts hold in-edges (or out-edges) of masters: the exchange plan says.

        Shape:
            Returns (H,) which of the masters, (H,) the part.
        """
        role = ROLE_OUT if out else ROLE_IN
        wanted = master_R.astype(np.int32)  # of the plan's type: the search copies neither
        rows, parts = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        for number, peer in enumerate(self._peers):
            span = slice(self._peer_starts[number], self._peer_starts[number + 1])
            masters = self._plan_master[span]
            at = np.minimum(np.searchsorted(masters, wanted), len(masters) - 1)
            held = (masters[at] == wanted) & ((self._plan_role[span][at] & role) != 0)
            rows.append(np.flatnonzero(held))
            parts.append(np.full(len(rows[-1]), peer, np.int32))
        return np.concatenate(rows), np.concatenate(parts)

    def edges(self, rows: NDArray[np.int64], *, out: bool, piece: int) -> Iterator[Edges]:
        """Yield all in-edges (or out-edges) held here of local rows, `piece` edges at a time.

        Shape:
            rows: (R,) local ids.
        """
        indptr = self.out_indptr if out else self.in_indptr
        starts = indptr[rows]
        ends = np.cumsum(indptr[rows + 1] - starts)
        shift = starts - np.append(0, ends[:-1])[: len(ends)]
        total = int(ends[-1]) if len(ends) else 0
        for first in range(0, total, piece):
            flat = np.arange(first, min(first + piece, total))
            row = np.searchsorted(ends, flat, side="right")
            place = shift[row] + flat
            if out:
                yield Edges(row, self.csc_position[place].astype(np.int64), self.dst[place])
            else:
                yield Edges(row, place, self.src[place])

    def drawn(
        self,
        rows: NDArray[np.int64],
        degrees: NDArray[np.int64],
        drawn: DrawnEdges,
        *,
        piece: int,
    ) -> Iterator[Edges]:
        """Yield those drawn of the in-edges of local rows that are held here, piece by piece.

        By weight, they are the candidates: a list that several parts hold is merged by rank.

        Shape:
            rows: (R,) local ids. degrees: (R,) in the whole graph.
        """
        key_2 = step_key(drawn.seed, drawn.step)
        stream = stream_id(Purpose.SAMPLE, drawn.layer)
        block = max(1, piece // drawn.fanout)
        for first in range(0, len(rows), block):
            some = rows[first : first + block]
            if drawn.weight is not None:
                yield self._by_weight(some, first, drawn, stream, key_2)
                continue
            degree = degrees[first : first + block]
            count = number_drawn(degree, drawn.fanout, replace=drawn.replace)
            positions = np.empty(int(count.sum()), np.int64)
            draw_positions(
                self._node_key[some], degree, count, drawn.replace, stream, key_2, positions
            )
            places = np.empty_like(positions)
            size = edges_at(
                some, self.in_indptr, self._in_position, self._is_whole, positions, count, places
            )
            places = places[:size]
            yield Edges(first + np.repeat(np.arange(len(some)), count), places, self.src[places])

    def _by_weight(
        self,
        rows: NDArray[np.int64],
        first: int,
        drawn: DrawnEdges,
        stream: np.uint32,
        key_2: NDArray[np.uint32],
    ) -> Edges:
        weight = column_numpy(self.tables.in_edges, drawn.weight or "")
        rank, edge = draw_ranks(
            rows,
            self.in_indptr,
            self.edge_key,
            weight,
            drawn.fanout,
            drawn.replace,
            stream,
            key_2,
        )
        row, draw = np.nonzero(edge >= 0)
        place = edge[row, draw]
        return Edges(first + row, place, self.src[place], rank[row, draw], draw.astype(np.int32))
