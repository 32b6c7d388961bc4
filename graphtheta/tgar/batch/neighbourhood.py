"""Neighbourhoods: the nodes and edges that a batch needs at each layer, found by all workers.

From the outputs back to the input, each worker selects in-edges of the active destinations, and
requests the mirrors that it reads from their owners. A step makes no array of the length of the
shard: one array with a number per replica is kept, and cleared after each layer.

Communication of a layer: the positions of the active mirrors, 4 bytes each, to plan peers; in a
vertex-cut also those of the mirrors of destinations, and what `EdgeSelection` sends. Of a batch:
one all-reduce of three counts per layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import Adjacency
from graphtheta.exchange.plan import Route
from graphtheta.exchange.rows import RoutePositions, send_positions, split_by_peer
from graphtheta.rng.philox import step_key
from graphtheta.shard.shard import Shard
from graphtheta.tgar.batch.block import Active, Block, Fanout
from graphtheta.tgar.batch.edge_selection import EdgeSelection, RowEdges
from graphtheta.tgar.batch.relabel import list_new, number_rows, translate

__all__ = ["Neighbourhoods"]

_STAGE = "prepare neighbourhood"
_ALL = np.zeros(0, np.uint8)
_NONE = np.zeros(0, np.int64)


class Neighbourhoods:
    """Finds the blocks of batches; collective, each worker has its own instance.

    Args:
        shard: The graph.
        comm: Communicator of the workers. If None, the shard's own. Preparing batches in the
            background needs another one.
    """

    def __init__(self, shard: Shard, comm: Communicator | None = None) -> None:
        self.shard = shard
        self.comm = comm or shard.comm
        self._selection = EdgeSelection(shard, self.comm)
        self._sources = shard.plan.sources
        self._destinations = shard.plan.destinations
        self._block_row = np.full(shard.num_masters + shard.num_mirrors, -1, np.int32)
        self._source_position = np.full(shard.num_mirrors, -1, np.int64)
        self._source_position[self._sources.mirror_R] = np.arange(len(self._sources.mirror_R))
        self._destination_positions = RoutePositions(self._destinations, shard.num_masters)
        self._is_masked = np.zeros(shard.num_edges, np.bool_)

    def blocks(
        self,
        outputs: NDArray[np.int64],
        fanouts: Sequence[Fanout | None],
        *,
        seed: int = 0,
        step: int = 0,
        allowed: NDArray[np.uint8] = _ALL,
        masked_edges: NDArray[np.int64] = _NONE,
    ) -> list[Block]:
        """Return the blocks of a batch, from the input to the output; collective.

        Args:
            outputs: (O,) int64 local ids of masters, each once: rows of the last layer, in order.
            fanouts: Fan-out of each layer, from the input. If None, all in-edges of the layer.
            seed: Random seed of the sample.
            step: Step of the run; each step has a sample of its own.
            allowed: (L,) uint8 mask of the replicas that may be read. If empty, all may.
            masked_edges: (X,) int64 positions of edges that carry no message. One that is sampled
                is left out, and not replaced by another.
        """
        blocks: list[Block] = []
        key_2 = step_key(seed, step)
        self._is_masked[masked_edges] = True
        for layer in reversed(range(len(fanouts))):
            block = self._block(
                outputs, fanouts[layer], layer, key_2, allowed, len(masked_edges) > 0
            )
            assert block.rows is not None
            outputs = block.rows
            blocks.append(block)
        self._is_masked[masked_edges] = False
        counts = np.array([block.active for block in blocks], np.int64)
        self.comm.all_reduce(counts, stage=_STAGE)
        return [
            replace(block, active=Active(*count.tolist()))
            for block, count in zip(reversed(blocks), counts[::-1], strict=True)
        ]

    def weight(self, name: str) -> NDArray[Any]:
        """Return the edge column that edges are sampled by: (E,).

        Raises:
            ConfigError: If edges cannot be sampled by it, as `EdgeSelection.weight` checks.
        """
        return self._selection.weight(name)

    def _block(
        self,
        outputs: NDArray[np.int64],
        fanout: Fanout | None,
        layer: int,
        key_2: NDArray[np.uint32],
        allowed: NDArray[np.uint8],
        has_masked: bool,
    ) -> Block:
        num_masters, num_outputs, block_row = self.shard.num_masters, len(outputs), self._block_row
        destinations, mirrors = self._send_outputs(outputs)
        rows = np.concatenate([outputs, num_masters + mirrors])
        if fanout is None:
            found = self._selection.all_edges(rows, allowed)
        else:
            found = self._selection.sample(rows, destinations, fanout, layer, key_2)
        if has_masked:
            found = found.where(~self._is_masked[found.edges])

        # Rows of the block: outputs, other inputs, mirrors of destinations, other mirrors.
        number_rows(outputs, 0, block_row)
        own, read = self._new_sources(found)
        slices, requested = self._request_mirrors(read)
        others = _joined(requested.values())
        more = np.concatenate([own, np.unique(others[block_row[others] == -1])])
        inputs = np.concatenate([outputs, more])
        number_rows(more, num_outputs, block_row)
        number_rows(num_masters + mirrors, len(inputs), block_row)
        rest = read[block_row[num_masters + read] < 0]
        number_rows(num_masters + rest, len(inputs) + len(mirrors), block_row)

        translate(block_row, found.src)
        sources = Route(
            num_masters=len(inputs),
            num_mirrors=len(mirrors) + len(rest),
            master_S=_joined(block_row[ids].astype(np.int64) for ids in requested.values()),
            mirror_R=block_row[num_masters + read].astype(np.int64) - len(inputs),
            master_slices=_slices({peer: len(ids) for peer, ids in requested.items()}),
            mirror_slices=slices,
        )
        for replicas in (inputs, num_masters + mirrors, num_masters + rest):
            block_row[replicas] = -1
        return Block(
            shard=self.shard,
            num_inputs=len(inputs),
            num_outputs=num_outputs,
            sources=sources,
            destinations=destinations,
            in_edges=Adjacency(
                found.indptr, found.src, leading=num_outputs, shift=len(inputs) - num_outputs
            ),
            rows=inputs,
            edges=found.edges,
            active=Active(len(inputs), num_outputs, len(found.edges)),
            fanout=fanout,
        )

    def _new_sources(self, found: RowEdges) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the masters among the sources that are not outputs, and the mirrors, ascending."""
        num_masters = self.shard.num_masters
        new = np.empty(len(found.edges), np.int64)
        new = new[: list_new(found.src, self._block_row, new)]
        return new[new < num_masters], np.sort(new[new >= num_masters]) - num_masters

    def _send_outputs(self, outputs: NDArray[np.int64]) -> tuple[Route, NDArray[np.int64]]:
        """Send outputs to their mirrors with in-edges; return the route, and the mirrors here."""
        route = self._destinations
        if not self.shard.is_vertex_cut:
            return Route(len(outputs), 0, _NONE, _NONE, {}, {}), _NONE
        position, output = self._destination_positions.of(outputs)
        order = np.argsort(position)
        position, output = position[order], output[order]
        received = send_positions(
            self.comm, position, route.master_slices, route.mirror_slices, stage=_STAGE
        )
        mirrors = _joined(route.mirror_R[positions] for positions in received.values())
        found = Route(
            num_masters=len(outputs),
            num_mirrors=len(mirrors),
            master_S=output,
            mirror_R=np.arange(len(mirrors)),
            master_slices=_non_empty(split_by_peer(position, route.master_slices)),
            mirror_slices=_slices({peer: len(some) for peer, some in received.items()}),
        )
        return found, mirrors

    def _request_mirrors(
        self, mirrors: NDArray[np.int64]
    ) -> tuple[dict[int, slice], dict[int, NDArray[np.int64]]]:
        """Request mirrors from their owners.

        Args:
            mirrors: (R,) int64 mirrors that this worker reads, ascending.

        Returns:
            By peer, the slice of `mirrors` that it owns, and the masters that it requests.
        """
        route = self._sources
        position = self._source_position[mirrors]
        received = send_positions(
            self.comm, position, route.mirror_slices, route.master_slices, stage=_STAGE
        )
        requested = {peer: route.master_S[positions] for peer, positions in received.items()}
        return _non_empty(split_by_peer(position, route.mirror_slices)), requested


def _joined(arrays: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([_NONE, *arrays])


def _non_empty(slices: Mapping[int, slice]) -> dict[int, slice]:
    return {peer: rows for peer, rows in slices.items() if rows.stop > rows.start}


def _slices(counts: Mapping[int, int]) -> dict[int, slice]:
    """Return consecutive slices of the given lengths, without empty ones."""
    slices, first = {}, 0
    for peer, count in counts.items():
        if count:
            slices[peer] = slice(first, first + count)
        first += count
    return slices
