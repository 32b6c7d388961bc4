"""Neighbourhoods: which nodes and edges a batch needs at each layer, found by all workers together.

From the targets back to the input, each worker looks at the in-edges that it holds of the active
destinations, and tells the owners of its mirrors which of them are read. Nothing as long as the
shard is made in a step: one array of numbers a replica is kept and wiped.

Communication of a layer: the places of the active mirrors, 4 bytes each, to plan peers; in a
vertex-cut first the same for mirrors of destinations, with their degrees (8 bytes) if edges are
drawn, and `fanout` numbers (8 bytes) each way if they are drawn by weight. Of a batch: one
all-reduce of three counts a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import Adjacency
from graphtheta.errors import ConfigError
from graphtheta.exchange.plan import Route
from graphtheta.exchange.rows import RoutePositions, exchange_rows, send_positions, split_by_peer
from graphtheta.rng.edge_sampling import (
    draw_positions,
    draw_priorities,
    edges_at,
    edges_of,
    number_drawn,
)
from graphtheta.rng.philox import Purpose, step_key, stream_id
from graphtheta.shard.shard import Shard
from graphtheta.tgar.batch.block import Active, Block, Fanout
from graphtheta.tgar.batch.relabel import list_new, number_rows, read_sources, translate

__all__ = ["Neighbourhoods"]

_STAGE = "prepare neighbourhood"
_EVERY = np.zeros(0, np.uint8)
_NONE = np.zeros(0, np.int64)
_PARALLEL = 1 << 13  # edges from which threads are worth their start

# Of some rows: (R + 1,) int64 where each row's edges start, (E,) int64 their places in the shard,
# and (E,) int32 local ids of their sources.
_Edges = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]


class Neighbourhoods:
    """Finds the blocks of batches; every worker makes one and asks for the same, in step.

    Args:
        shard: Storage.
        comm: What the workers talk through; the shard's own if None. Preparing batches while
            others are computed on needs one of its own.
    """

    def __init__(self, shard: Shard, comm: Communicator | None = None) -> None:
        self.shard = shard
        self.comm = comm or shard.comm
        self._sources = shard.plan.sources
        self._destinations = shard.plan.destinations
        self._slot = np.full(shard.num_masters + shard.num_mirrors, -1, np.int32)
        self._source_places = _places(self._sources, shard.num_mirrors)
        self._mirrored = RoutePositions(self._destinations, shard.num_masters)
        self._is_silent = np.zeros(shard.num_edges, np.bool_)
        self._most_in_edges: int | None = None
        self._weights: dict[str, NDArray[Any]] = {}
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), "graphtheta-prepare")

    def blocks(
        self,
        outputs: NDArray[np.int64],
        fanouts: Sequence[Fanout | None],
        *,
        seed: int = 0,
        step: int = 0,
        allowed: NDArray[np.uint8] = _EVERY,
        masked_edges: NDArray[np.int64] = _NONE,
    ) -> list[Block]:
        """Return the blocks of a batch, from the input; collective.

        Args:
            outputs: (O,) int64 local ids of masters, each once: rows of the last layer, in order.
            fanouts: Of each layer, from the input; None: all in-edges.
            seed: Of what is drawn.
            step: The same.
            allowed: (L,) uint8: which replicas may be read; empty: all.
            masked_edges: (X,) int64 places of edges that carry no message. If one is drawn, it is
                left out, and no other is drawn in its place.
        """
        blocks: list[Block] = []
        self._is_silent[masked_edges] = True
        for layer in reversed(range(len(fanouts))):
            block = self._block(
                outputs, fanouts[layer], layer, step_key(seed, step), allowed, len(masked_edges) > 0
            )
            assert block.rows is not None
            outputs = block.rows
            blocks.append(block)
        self._is_silent[masked_edges] = False
        counts = np.array([block.active for block in blocks], np.int64)
        self.comm.all_reduce(counts, stage=_STAGE)
        return [
            replace(block, active=Active(*count.tolist()))
            for block, count in zip(reversed(blocks), counts[::-1], strict=True)
        ]

    def _block(
        self,
        outputs: NDArray[np.int64],
        fanout: Fanout | None,
        layer: int,
        key_2: NDArray[np.uint32],
        allowed: NDArray[np.uint8],
        has_silent: bool,
    ) -> Block:
        shard, slot = self.shard, self._slot
        num_masters, num_outputs = shard.num_masters, len(outputs)
        to_mirrors, mirrors = self._tell_mirrors(outputs)
        rows = np.concatenate([outputs, num_masters + mirrors])
        if fanout is None:
            indptr, edges, other = self._all_edges(rows, allowed)
        else:
            indptr, edges, other = self._drawn_edges(rows, to_mirrors, fanout, layer, key_2)
        if has_silent:
            heard = ~self._is_silent[edges]
            indptr = np.append(0, np.cumsum(heard))[indptr]
            edges, other = edges[heard], other[heard]

        number_rows(outputs, 0, slot)
        found = np.empty(len(edges), np.int64)
        found = found[: list_new(other, slot, found)]
        own, read = found[found < num_masters], np.sort(found[found >= num_masters]) - num_masters
        slices, asked = self._ask_owners(read)
        others = _joined(asked.values())
        more = np.concatenate([own, np.unique(others[slot[others] == -1])])
        inputs = np.concatenate([outputs, more])
        number_rows(more, num_outputs, slot)
        number_rows(num_masters + mirrors, len(inputs), slot)
        rest = read[slot[num_masters + read] < 0]
        number_rows(num_masters + rest, len(inputs) + len(mirrors), slot)

        translate(slot, other)
        num_mirrors = len(mirrors) + len(rest)
        sources = Route(
            num_masters=len(inputs),
            num_mirrors=num_mirrors,
            master_S=_joined(slot[ids].astype(np.int64) for ids in asked.values()),
            mirror_R=slot[num_masters + read].astype(np.int64) - len(inputs),
            master_slices=_slices({peer: len(ids) for peer, ids in asked.items()}),
            mirror_slices=slices,
        )
        for touched in (inputs, num_masters + mirrors, num_masters + rest):
            slot[touched] = -1
        return Block(
            shard=shard,
            num_inputs=len(inputs),
            num_outputs=num_outputs,
            sources=sources,
            destinations=to_mirrors,
            in_edges=Adjacency(indptr, other, leading=num_outputs, shift=len(inputs) - num_outputs),
            rows=inputs,
            edges=edges,
            active=Active(len(inputs), num_outputs, len(edges)),
            fanout=fanout,
        )

    # -- which edges ------------------------------------------------------------------------------

    def _all_edges(self, rows: NDArray[np.int64], allowed: NDArray[np.uint8]) -> _Edges:
        whole = self.shard.in_edges

        def find(part: slice, count: NDArray[np.int64], edges: NDArray[np.int64]) -> int:
            return edges_of(rows[part], whole.indptr, whole.other, allowed, count[part], edges)

        return self._in_parts(whole.indptr[rows + 1] - whole.indptr[rows], find)

    def _drawn_edges(
        self,
        rows: NDArray[np.int64],
        route: Route,
        fanout: Fanout,
        layer: int,
        key_2: NDArray[np.uint32],
    ) -> _Edges:
        stream = stream_id(Purpose.SAMPLE, layer)
        if fanout.weight is not None:
            return self._best_edges(rows, route, fanout, stream, key_2)
        shard, whole, is_whole = self.shard, self.shard.in_edges, not self.shard.is_vertex_cut
        keys, degree = shard.node_key_L[rows], self._degrees(rows, route)
        number = number_drawn(degree, fanout.size, replace=fanout.replace)

        def draw(part: slice, count: NDArray[np.int64], edges: NDArray[np.int64]) -> int:
            some, mine, places = rows[part], count[part], np.empty(len(edges), np.int64)
            mine[:] = number[part]
            draw_positions(keys[part], degree[part], mine, fanout.replace, stream, key_2, places)
            return edges_at(some, whole.indptr, shard.in_position, is_whole, places, mine, edges)

        return self._in_parts(number, draw)

    def _in_parts(
        self,
        most: NDArray[np.int64],
        find: Callable[[slice, NDArray[np.int64], NDArray[np.int64]], int],
    ) -> _Edges:
        """Find edges by all threads: `find` writes those of some rows, at most `most` of each."""
        ends = np.append(0, np.cumsum(most))
        threads = torch.get_num_threads() if ends[-1] >= _PARALLEL else 1
        cuts = np.searchsorted(ends, np.arange(threads + 1) * ends[-1] / threads)
        cuts[0], cuts[-1] = 0, len(most)
        count = np.empty(len(most), np.int64)
        edges, other = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.int32)

        def work(number: int) -> slice:
            part = slice(cuts[number], cuts[number + 1])
            mine = edges[ends[part.start] : ends[part.stop]]
            size = find(part, count, mine)
            written = slice(int(ends[part.start]), int(ends[part.start]) + size)
            read_sources(mine[:size], self.shard.in_edges.other, other[written])
            return written

        written = list(self._pool.map(work, range(threads))) if threads > 1 else [work(0)]
        indptr = np.append(0, np.cumsum(count))
        if indptr[-1] < ends[-1]:
            edges, other = (np.concatenate([x[w] for w in written]) for x in (edges, other))
        return indptr, edges, other

    @cached_property
    def _in_degree(self) -> NDArray[np.int64]:
        degree: NDArray[np.int64] = self.shard.node_column("in_degree").cpu().numpy()
        return degree

    def _degrees(self, rows: NDArray[np.int64], route: Route) -> NDArray[np.int64]:
        """Return the in-degrees of rows in the whole graph, which mirrors are told."""
        degree_O = self._in_degree[rows[: route.num_masters]]
        degree_D = np.empty(route.num_mirrors, np.int64)
        self._carry(degree_O[route.master_S], degree_D, route, to_mirrors=True)
        return np.concatenate([degree_O, degree_D])

    def _best_edges(
        self,
        rows: NDArray[np.int64],
        route: Route,
        fanout: Fanout,
        stream: np.uint32,
        key_2: NDArray[np.uint32],
    ) -> _Edges:
        shard, whole, num_outputs = self.shard, self.shard.in_edges, route.num_masters
        assert fanout.weight is not None
        weight = self.weight(fanout.weight)
        size = fanout.size if fanout.replace else min(fanout.size, self._most())
        rank, edge = draw_priorities(
            rows,
            whole.indptr,
            shard.edge_key,
            weight,
            size,
            fanout.replace,
            stream,
            key_2,
        )
        kept = edge >= 0
        if shard.is_vertex_cut:
            arrived = np.empty((len(route.master_S), size))
            self._carry(rank[num_outputs:], arrived, route, to_mirrors=False)
            best_O = _merged(rank[:num_outputs], arrived, route.master_S, replace=fanout.replace)
            best_D = np.empty((route.num_mirrors, best_O.shape[1]))
            self._carry(best_O[route.master_S], best_D, route, to_mirrors=True)
            kept &= rank <= np.concatenate([best_O, best_D])
        chosen = np.where(kept, edge, np.iinfo(np.int64).max)
        chosen.sort(axis=1)  # by edge_key, as every list is
        edges = chosen[chosen < np.iinfo(np.int64).max]
        return np.append(0, np.cumsum(kept.sum(axis=1))), edges, whole.other[edges]

    def _most(self) -> int:
        """Return the largest in-degree, at least 1; collective the first time."""
        if self._most_in_edges is None:
            most = np.array([self._in_degree.max(initial=1)])
            self.comm.all_reduce(most, "max", stage=_STAGE)
            self._most_in_edges = int(most[0])
        return self._most_in_edges

    def weight(self, name: str) -> NDArray[Any]:
        """Return the edge column that edges are drawn by: (E,).

        Raises:
            ConfigError: If there is none, it has more than one number an edge, or one is below 0
                or NaN.
        """
        if name in self._weights:
            return self._weights[name]
        columns = self.shard.edge_columns
        if name not in columns:
            raise ConfigError(
                f"sampling: unknown edge column '{name}'; the graph has {sorted(columns)}."
            )
        if columns[name].dim() != 1:
            raise ConfigError(
                f"sampling: expected one weight an edge, got {tuple(columns[name].shape[1:])} in "
                f"'{name}'. Name a column of one number."
            )
        weight = self._weights[name] = columns[name].cpu().numpy()
        if not (weight >= 0).all():
            raise ConfigError(
                f"sampling: expected weights of at least 0, got {weight.min()} in '{name}'. "
                "Correct them, or name another column."
            )
        return weight

    # -- who is told what -------------------------------------------------------------------------

    def _tell_mirrors(self, outputs: NDArray[np.int64]) -> tuple[Route, NDArray[np.int64]]:
        """Tell mirrors with in-edges that they are destinations; return those of this worker."""
        route = self._destinations
        if not self.shard.is_vertex_cut:
            return Route(len(outputs), 0, _NONE, _NONE, {}, {}), _NONE
        place, output = self._mirrored.of(outputs)
        order = np.argsort(place)
        place, output = place[order], output[order]
        heard = send_positions(
            self.comm, place, route.master_slices, route.mirror_slices, stage=_STAGE
        )
        mirrors = _joined(route.mirror_R[places] for places in heard.values())
        found = Route(
            num_masters=len(outputs),
            num_mirrors=len(mirrors),
            master_S=output,
            mirror_R=np.arange(len(mirrors)),
            master_slices=_filled(split_by_peer(place, route.master_slices)),
            mirror_slices=_slices({peer: len(places) for peer, places in heard.items()}),
        )
        return found, mirrors

    def _ask_owners(
        self, read: NDArray[np.int64]
    ) -> tuple[dict[int, slice], dict[int, NDArray[np.int64]]]:
        """Ask for mirrors, ascending; return whose they are, and what masters others ask for."""
        route = self._sources
        place = self._source_places[read]
        heard = send_positions(
            self.comm, place, route.mirror_slices, route.master_slices, stage=_STAGE
        )
        asked = {peer: route.master_S[places] for peer, places in heard.items()}
        return _filled(split_by_peer(place, route.mirror_slices)), asked

    def _carry(
        self, rows: NDArray[Any], arrived: NDArray[Any], route: Route, *, to_mirrors: bool
    ) -> None:
        exchange_rows(self.comm, rows, arrived, route, to_mirrors=to_mirrors, stage=_STAGE)


def _places(route: Route, num_mirrors: int) -> NDArray[np.int64]:
    places = np.full(num_mirrors, -1, np.int64)
    places[route.mirror_R] = np.arange(len(route.mirror_R))
    return places


def _joined(arrays: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([_NONE, *arrays])


def _filled(slices: Mapping[int, slice]) -> dict[int, slice]:
    return {peer: block for peer, block in slices.items() if block.stop > block.start}


def _slices(counts: Mapping[int, int]) -> dict[int, slice]:
    slices, first = {}, 0
    for peer, count in counts.items():
        if count:
            slices[peer] = slice(first, first + count)
        first += count
    return slices


def _merged(
    own: NDArray[np.float64],
    arrived: NDArray[np.float64],
    at: NDArray[np.int64],
    *,
    replace: bool,
) -> NDArray[np.float64]:
    """Return the rank that each row's edges must not exceed: of each draw, or of all in one."""
    if replace:
        best = own.copy()
        np.minimum.at(best, at, arrived)
        return best
    order = np.argsort(at, kind="stable")
    rows, starts = np.unique(at[order], return_index=True)
    limit = own[:, -1:].copy()
    width = own.shape[1]
    # A row has at most as many lists as workers hold in-edges of it.
    lists = np.diff(np.append(starts, len(at)))
    for size in np.unique(lists):
        chosen = np.flatnonzero(lists == size)
        theirs = arrived[order[starts[chosen][:, None] + np.arange(size)]]
        together = np.concatenate([own[rows[chosen]], theirs.reshape(len(chosen), -1)], axis=1)
        limit[rows[chosen], 0] = np.partition(together, width - 1, axis=1)[:, width - 1]
    return limit
