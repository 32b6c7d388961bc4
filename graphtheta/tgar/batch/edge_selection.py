"""Selection of the in-edges that a layer of a batch computes on: all of them, or a sample.

Communication: none for all edges. For a sample in a vertex-cut, the in-degrees of mirrors (8 bytes
each), or with weights `fanout` numbers (8 bytes each) per mirror and direction.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.exchange.plan import Route
from graphtheta.exchange.rows import exchange_rows
from graphtheta.rng.edge_sampling import (
    draw_positions,
    draw_priorities,
    edges_at,
    edges_of,
    number_drawn,
)
from graphtheta.rng.philox import Purpose, stream_id
from graphtheta.shard.shard import Shard
from graphtheta.tgar.batch.block import Fanout
from graphtheta.tgar.batch.relabel import read_sources

__all__ = ["EdgeSelection", "RowEdges"]

Ints = NDArray[np.int64]
_STAGE = "prepare neighbourhood"
_PARALLEL = 1 << 13  # number of edges from which threads are worth their start
_NO_EDGE = np.iinfo(np.int64).max


class RowEdges(NamedTuple):
    """In-edges of some rows.

    Attributes:
        indptr: (R + 1,) int64; row i's edges are [indptr[i], indptr[i + 1]).
        edges: (E,) int64 positions of the edges in the shard.
        src: (E,) int32 local ids of their sources.
    """

    indptr: Ints
    edges: Ints
    src: NDArray[np.int32]

    def where(self, kept: NDArray[np.bool_]) -> RowEdges:
        """Return the edges for which a mask is set."""
        indptr = np.append(0, np.cumsum(kept))[self.indptr]
        return RowEdges(indptr, self.edges[kept], self.src[kept])


class EdgeSelection:
    """Finds the in-edges of destinations that take part in a batch.

    Args:
        shard: The graph.
        comm: Communicator of the workers.
    """

    def __init__(self, shard: Shard, comm: Communicator) -> None:
        self._shard, self._comm = shard, comm
        self._weights: dict[str, NDArray[Any]] = {}
        self._largest_in_degree: int | None = None
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), "graphtheta-prepare")

    def all_edges(self, rows: Ints, allowed: NDArray[np.uint8]) -> RowEdges:
        """Return all in-edges of some destinations.

        Args:
            rows: (R,) int64 local ids of the destinations.
            allowed: (L,) uint8 mask of the sources that may be read. If empty, all may.
        """
        whole = self._shard.in_edges

        def find(part: slice, count: Ints, edges: Ints) -> int:
            return edges_of(rows[part], whole.indptr, whole.other, allowed, count[part], edges)

        return self._by_threads(whole.indptr[rows + 1] - whole.indptr[rows], find)

    def sample(
        self, rows: Ints, route: Route, fanout: Fanout, layer: int, key_2: NDArray[np.uint32]
    ) -> RowEdges:
        """Return a sample of the in-edges of some destinations; collective in a vertex-cut.

        Args:
            rows: (R,) int64 local ids: the masters of the route, then its mirrors.
            route: Route of the mirrors of the destinations.
            fanout: Number of edges per destination, and how they are sampled.
            layer: Index of the layer.
            key_2: Philox key of the step.
        """
        stream = stream_id(Purpose.SAMPLE, layer)
        if isinstance(fanout.size, tuple):
            return self._sample_by_relation(rows, route, fanout.size, fanout.replace, layer, key_2)
        if fanout.weight is not None:
            return self._sample_by_weight(rows, route, fanout, fanout.size, stream, key_2)
        degree = self._degrees(rows, route)
        number = number_drawn(degree, fanout.size, replace=fanout.replace)
        return self._draw(rows, None, degree, number, fanout.replace, stream, key_2)

    def _draw(
        self,
        rows: Ints,
        first: Ints | None,
        degree: Ints,
        number: Ints,
        replace: bool,
        stream: np.uint32,
        key_2: NDArray[np.uint32],
    ) -> RowEdges:
        """Return a number of edges drawn from a range of the in-list of each row.

        Args:
            rows: (R,) local ids.
            first: (R,) first position of the range among all in-edges of the node. If None, 0.
            degree: (R,) length of the range.
            number: (R,) number of draws.
            replace: Whether draws are with replacement.
            stream: Random stream.
            key_2: Philox key of the step.
        """
        shard, whole, is_whole = self._shard, self._shard.in_edges, not self._shard.is_vertex_cut
        keys = shard.node_key_L[rows]

        def draw(part: slice, count: Ints, edges: Ints) -> int:
            some, mine, positions = rows[part], count[part], np.empty(len(edges), np.int64)
            mine[:] = number[part]
            draw_positions(keys[part], degree[part], mine, replace, stream, key_2, positions)
            if first is not None:
                positions += np.repeat(first[part], mine)
            return edges_at(some, whole.indptr, shard.in_position, is_whole, positions, mine, edges)

        return self._by_threads(number, draw)

    def _sample_by_relation(
        self,
        rows: Ints,
        route: Route,
        sizes: tuple[int | None, ...],
        replace: bool,
        layer: int,
        key_2: NDArray[np.uint32],
    ) -> RowEdges:
        """Return a number of edges of each relation: in-lists are in the order of relations."""
        degrees = self._degrees_by_relation(rows, route)
        first = np.cumsum(degrees, axis=1) - degrees
        found: list[RowEdges] = []
        for relation, size in enumerate(sizes):
            degree = degrees[:, relation]
            some = np.flatnonzero(degree)
            degree = degree[some]
            number = degree if size is None else number_drawn(degree, size, replace=replace)
            stream = stream_id(Purpose.SAMPLE, layer, relation)
            drawn = self._draw(
                rows[some], first[some, relation], degree, number, replace and size is not None,
                stream, key_2,
            )  # fmt: skip
            indptr = np.zeros(len(rows) + 1, np.int64)
            indptr[some + 1] = np.diff(drawn.indptr)
            found.append(RowEdges(np.cumsum(indptr), drawn.edges, drawn.src))
        counts = np.stack([np.diff(part.indptr) for part in found])
        row = np.concatenate([np.repeat(np.arange(len(rows)), count) for count in counts])
        order = np.argsort(row, kind="stable")
        edges, src = (np.concatenate([part[i] for part in found])[order] for i in (1, 2))
        return RowEdges(np.append(0, np.cumsum(counts.sum(axis=0))), edges, src)

    def weight(self, name: str) -> NDArray[Any]:
        """Return the edge column that edges are sampled by: (E,).

        Raises:
            ConfigError: If there is no such column, it has more than one number per edge, or one
                is negative or NaN.
        """
        if name in self._weights:
            return self._weights[name]
        columns = self._shard.edge_columns
        need_name(name, self._shard.manifest.edge_columns, "edge column of weights (--edge-weight)")
        if columns[name].dim() != 1:
            raise ConfigError(
                f"sampling: expected one weight per edge, got {tuple(columns[name].shape[1:])} in "
                f"'{name}'. Name a column of one number."
            )
        weight = self._weights[name] = columns[name].cpu().numpy()
        if not (weight >= 0).all():
            raise ConfigError(
                f"sampling: expected weights of at least 0, got {weight.min()} in '{name}'. "
                "Correct them, or name another column."
            )
        return weight

    def _by_threads(self, largest: Ints, find: Callable[[slice, Ints, Ints], int]) -> RowEdges:
        """Find edges on all threads.

        Args:
            largest: (R,) largest number of edges of each row.
            find: Called as find(rows, count, edges): it writes the edges of a slice of rows and
                their number per row, and returns how many edges it wrote.
        """
        ends = np.append(0, np.cumsum(largest))
        threads = torch.get_num_threads() if ends[-1] >= _PARALLEL else 1
        cuts = np.searchsorted(ends, np.arange(threads + 1) * ends[-1] / threads)
        cuts[0], cuts[-1] = 0, len(largest)
        count = np.empty(len(largest), np.int64)
        edges, src = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.int32)

        def work(number: int) -> slice:
            part = slice(cuts[number], cuts[number + 1])
            mine = edges[ends[part.start] : ends[part.stop]]
            size = find(part, count, mine)
            written = slice(int(ends[part.start]), int(ends[part.start]) + size)
            read_sources(mine[:size], self._shard.in_edges.other, src[written])
            return written

        written = list(self._pool.map(work, range(threads))) if threads > 1 else [work(0)]
        indptr = np.append(0, np.cumsum(count))
        if indptr[-1] < ends[-1]:
            edges, src = (np.concatenate([x[w] for w in written]) for x in (edges, src))
        return RowEdges(indptr, edges, src)

    @cached_property
    def _in_degree(self) -> Ints:
        degree: Ints = self._shard.node_column("in_degree").cpu().numpy()
        return degree

    def _degrees(self, rows: Ints, route: Route) -> Ints:
        """Return the in-degrees of rows in the whole graph, sent from masters to mirrors."""
        return self._with_mirrors(self._in_degree[rows[: route.num_masters]], route)

    @cached_property
    def _in_degree_by_relation(self) -> Ints:
        if len(self._shard.relations) == 1:  # edges may have types of the user's, or none
            return self._in_degree[:, None]
        degree: Ints = self._shard.in_degree_by_type.cpu().numpy().astype(np.int64)
        return degree

    def _degrees_by_relation(self, rows: Ints, route: Route) -> Ints:
        """Return the in-degrees of rows by relation, sent to mirrors: (R, relations)."""
        return self._with_mirrors(self._in_degree_by_relation[rows[: route.num_masters]], route)

    def _with_mirrors(self, degree_O: Ints, route: Route) -> Ints:
        degree_D = np.empty((route.num_mirrors, *degree_O.shape[1:]), np.int64)
        self._exchange(degree_O[route.master_S], degree_D, route, to_mirrors=True)
        return np.concatenate([degree_O, degree_D])

    def _sample_by_weight(
        self,
        rows: Ints,
        route: Route,
        fanout: Fanout,
        size: int,
        stream: np.uint32,
        key_2: NDArray[np.uint32],
    ) -> RowEdges:
        """Return the edges of smallest priority per row; each worker draws for its own edges."""
        shard, whole, num_outputs = self._shard, self._shard.in_edges, route.num_masters
        assert fanout.weight is not None
        weight = self.weight(fanout.weight)
        size = size if fanout.replace else min(size, self._find_largest_in_degree())
        priority, edge = draw_priorities(
            rows, whole.indptr, shard.edge_key, weight, size, fanout.replace, stream, key_2
        )
        kept = edge >= 0
        if shard.is_vertex_cut:
            received = np.empty((len(route.master_S), size))
            self._exchange(priority[num_outputs:], received, route, to_mirrors=False)
            own = priority[:num_outputs]
            limit_O = _priority_limits(own, received, route.master_S, replace=fanout.replace)
            limit_D = np.empty((route.num_mirrors, limit_O.shape[1]))
            self._exchange(limit_O[route.master_S], limit_D, route, to_mirrors=True)
            kept &= priority <= np.concatenate([limit_O, limit_D])
        sampled = np.where(kept, edge, _NO_EDGE)
        sampled.sort(axis=1)  # by edge_key, as in the shard
        edges = sampled[sampled < _NO_EDGE]
        return RowEdges(np.append(0, np.cumsum(kept.sum(axis=1))), edges, whole.other[edges])

    def _find_largest_in_degree(self) -> int:
        """Return the largest in-degree of the graph, at least 1; collective the first time."""
        if self._largest_in_degree is None:
            largest = np.array([self._in_degree.max(initial=1)])
            self._comm.all_reduce(largest, "max", stage=_STAGE)
            self._largest_in_degree = int(largest[0])
        return self._largest_in_degree

    def _exchange(
        self, rows: NDArray[Any], received: NDArray[Any], route: Route, *, to_mirrors: bool
    ) -> None:
        exchange_rows(self._comm, rows, received, route, to_mirrors=to_mirrors, stage=_STAGE)


def _priority_limits(
    own: NDArray[np.float64], received: NDArray[np.float64], master_S: Ints, *, replace: bool
) -> NDArray[np.float64]:
    """Return the largest priority at which an edge is in the sample of its row.

    Shape:
        own: (O, size) smallest priorities held here. received: (S, size) those of mirrors.
        master_S: (S,) row of each. Returns (O, size) with replacement, one limit per draw; else
        (O, 1).
    """
    if replace:
        limit = own.copy()
        np.minimum.at(limit, master_S, received)
        return limit
    order = np.argsort(master_S, kind="stable")
    rows, starts = np.unique(master_S[order], return_index=True)
    limit = own[:, -1:].copy()
    width = own.shape[1]
    # Rows are grouped by how many workers hold in-edges of them.
    lists = np.diff(np.append(starts, len(master_S)))
    for size in np.unique(lists):
        some = np.flatnonzero(lists == size)
        theirs = received[order[starts[some][:, None] + np.arange(size)]]
        together = np.concatenate([own[rows[some]], theirs.reshape(len(some), -1)], axis=1)
        limit[rows[some], 0] = np.partition(together, width - 1, axis=1)[:, width - 1]
    return limit
