"""Edges as targets: a step of some of them, and the embeddings of their ends brought together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graphtheta.comm.communicator import Communicator
from graphtheta.exchange.directory import Directory
from graphtheta.shard.shard import Shard
from graphtheta.strategy import StepTargets
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.task.negatives import Corrupted, draw_negatives
from graphtheta.tgar import ParallelEdges, RemoteRows, View

__all__ = ["EdgeTargets", "Negatives", "PairLoss", "ends_of", "in_rounds"]

# Of edges (T,) and the embeddings of the ends of each and of its K negatives, (T, 1 + K, F) twice:
# the summed loss of this worker and its count.
PairLoss = Callable[[NDArray[np.int64], Tensor, Tensor], tuple[Tensor, int]]

_NONE = np.zeros(0, np.int64)


def ends_of(shard: Shard, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the local ids of both ends of edges, source and destination: (T, 2)."""
    dst = np.searchsorted(shard.topology.indptr, edges, side="right") - 1
    return np.stack([shard.in_edges.other[edges].astype(np.int64), dst], axis=1)


class Negatives:
    """Negatives of a shard's edges, and where the nodes that are drawn live.

    Args:
        shard: Storage; making one is collective.
        number: Of each edge.
        corrupt: Which end is drawn.
        seed: Of the draws.
    """

    def __init__(self, shard: Shard, number: int, corrupt: Corrupted, seed: int) -> None:
        self._shard, self._seed = shard, seed
        self.number, self._corrupt = number, corrupt
        self._bound = shard.manifest.num_nodes
        masters = np.arange(shard.num_masters)
        self._every = Directory(shard.node_key_L[masters], masters, self._bound, shard.comm)

    def owner_locations(
        self,
        keys: NDArray[np.int64],
        comm: Communicator,
        *,
        step: int,
        among: NDArray[np.int64] | None = None,
        evaluation: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return where the nodes that are drawn live; collective.

        Args:
            keys: (T,) of the edges.
            comm: The workers.
            step: Of the draws.
            among: Masters of this worker that are drawn from; None: any node of the graph.
            evaluation: Draw one of each edge, as of `draw_negatives`.

        Shape:
            Returns (T, number) `location_code`, and whether each is at the source.
        """
        directory, bound = self._every, self._bound
        if among is not None:  # by rank, so that it is the same of whoever holds them
            ranks, bound = dense_ranks(self._shard.node_key_L[among], bound, comm)
            directory = Directory(ranks, among, bound, comm)
        drawn, at_source = draw_negatives(
            keys,
            1 if evaluation else self.number,
            self._corrupt,
            bound,
            seed=self._seed,
            step=step,
            evaluation=evaluation,
        )
        return directory.find(drawn.reshape(-1), comm).reshape(drawn.shape), at_source


class EdgeTargets:
    """Edges, each of which is scored where it is held; see `Targets`.

    Args:
        shard: Storage, whose edges carry messages; making one is collective.
        edges: (T,) int64 places of the edges, ascending.
        loss: What is optimised.
        negatives: What is drawn beside them, if anything.
        masked_edges: Whether a step's targets, and all edges between the same two nodes, carry no
            message in it.
    """

    def __init__(
        self,
        shard: Shard,
        edges: NDArray[np.int64],
        loss: PairLoss,
        *,
        negatives: Negatives | None = None,
        masked_edges: bool = False,
    ) -> None:
        self._shard, self._edges, self._loss = shard, edges, loss
        self._negatives = negatives
        self.keys = shard.edge_key[edges]
        largest = np.array([self.keys.max(initial=-1)])
        shard.comm.all_reduce(largest, "max", stage="count targets")
        self.bound = int(largest[0]) + 1
        self.nodes = ends_of(shard, edges)
        self._homes = shard.owner_locations[self.nodes]
        self._between = ParallelEdges(shard, shard.comm) if masked_edges else None

    def of_step(
        self,
        chosen: NDArray[np.int64],
        *,
        seed: int,
        step: int,
        comm: Communicator,
        among: NDArray[np.int64] | None = None,
        masked_edges: NDArray[np.int64] | None = None,
    ) -> StepTargets:
        """Return what a step of some edges needs: their ends, and those of their negatives."""
        edges, owner_locations = self._edges[chosen], self._homes[chosen]
        quiet = _NONE
        if masked_edges is not None and self._between is not None:
            quiet = self._between.of(self._edges[masked_edges], comm)
        drawn, at_source = np.zeros((len(edges), 0), np.int64), np.zeros((len(edges), 0), np.bool_)
        if self._negatives is not None:
            drawn, at_source = self._negatives.owner_locations(
                self.keys[chosen], comm, step=step, among=among
            )
        ends = RemoteRows.request(
            np.concatenate([owner_locations.T.reshape(-1), drawn.reshape(-1)]), comm
        )
        src, dst, other = np.split(ends.rows, [len(edges), 2 * len(edges)])
        src, dst, other = src[:, None], dst[:, None], other.reshape(drawn.shape)
        pairs = [
            np.concatenate([src, np.where(at_source, other, src)], axis=1),
            np.concatenate([dst, np.where(at_source, dst, other)], axis=1),
        ]

        def loss(view: View, outputs: Tensor) -> tuple[Tensor, int]:
            view.token, table = ends.fetch(outputs, view.token, self._shard.channel)
            of_src, of_dst = (F.embedding(self._shard.to_device(rows), table) for rows in pairs)
            return self._loss(edges, of_src, of_dst)

        return StepTargets(edges, ends.seeds, quiet, loss)


def in_rounds(
    owner_locations: NDArray[np.int64], outputs: Tensor, shard: Shard, size: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Bring the embeddings of pairs' ends, some at a time, without gradients; collective.

    Args:
        owner_locations: (R, 2) `location_code` of the ends; workers may have any number.
        outputs: (M, F) of all masters.
        shard: Whose they are.
        size: Pairs at a time, of each worker.

    Yields:
        Which of the pairs, and the embeddings of their sources and destinations; as often on every
        worker.
    """
    most = shard.comm.all_gather_int(len(owner_locations), stage="count pairs").max()
    token = torch.zeros((), device=outputs.device)
    for first in range(0, int(most), size):
        some = slice(min(first, len(owner_locations)), min(first + size, len(owner_locations)))
        ends = RemoteRows.request(owner_locations[some].T.reshape(-1), shard.comm)
        with torch.no_grad():
            _, table = ends.fetch(outputs[shard.to_device(ends.seeds)], token, shard.channel)
        src, dst = np.split(ends.rows, 2)
        yield some, table[shard.to_device(src)], table[shard.to_device(dst)]
