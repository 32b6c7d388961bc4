"""Edges as training targets, and the embeddings of their endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from graphtheta.comm.communicator import Communicator
from graphtheta.shard.shard import Shard
from graphtheta.strategy import StepTargets
from graphtheta.task.candidates import Candidates, endpoints
from graphtheta.task.negatives import Corrupted, draw_negatives
from graphtheta.tgar import ParallelEdges, RemoteRows, View

__all__ = ["EdgeTargets", "Negatives", "PairLoss", "fetch_endpoints"]

# From edges (T,) and the embeddings of the sources and destinations of each edge and its K
# negatives, (T, 1 + K, F) twice, to this worker's summed loss and number (or weight) of terms.
PairLoss = Callable[[NDArray[np.int64], Tensor, Tensor], tuple[Tensor, float]]

_NONE = np.zeros(0, np.int64)


class Negatives:
    """Negative samples of a graph's edges.

    Args:
        candidates: Nodes to draw from.
        number: Negatives for each edge.
        corrupt: Endpoint that is replaced.
        seed: Random seed.
    """

    def __init__(self, candidates: Candidates, number: int, corrupt: Corrupted, seed: int) -> None:
        self.candidates, self._seed = candidates, seed
        self.number, self._corrupt = number, corrupt

    def draw(
        self,
        keys: NDArray[np.int64],
        groups: NDArray[np.int64],
        comm: Communicator,
        *,
        step: int,
        masters: NDArray[np.int64] | None = None,
        evaluation: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Draw the negatives of edges, and look up the owners of the nodes drawn; collective.

        Args:
            keys: (T,) keys of the edges.
            groups: (T, 2) groups of their endpoints, as returned by `Candidates.groups`.
            comm: The workers.
            step: Number of the step.
            masters: Masters of this worker to draw from; if None, from all nodes of the graph.
            evaluation: Whether to draw from a random stream that training does not use.

        Shape:
            Returns (T, number) `location_code` of the nodes, and whether each replaces the source.
        """
        members = self.candidates.members(masters, comm)
        groups = self.candidates.resolve(groups, members)
        drawn, at_source = draw_negatives(
            keys,
            self.number,
            self._corrupt,
            members.size[groups],
            seed=self._seed,
            step=step,
            evaluation=evaluation,
        )
        of_source, of_destination = members.first[groups].T[..., None]
        drawn += np.where(at_source, of_source, of_destination)
        found = members.directory.find(drawn.reshape(-1), comm)
        return found.reshape(drawn.shape), at_source


class EdgeTargets:
    """Edges as targets, each scored by the worker that stores it; construction is collective.

    Args:
        shard: Graph whose edges carry messages.
        edges: (T,) int64 positions of the target edges, ascending.
        loss: Loss function.
        negatives: Negative samples that are scored with each target; if None, none.
        parallel_edges: Index of the shard's edges, with which the targets of a step and all edges
            between the same two nodes carry no message in it; if None, they do.
    """

    def __init__(
        self,
        shard: Shard,
        edges: NDArray[np.int64],
        loss: PairLoss,
        *,
        negatives: Negatives | None = None,
        parallel_edges: ParallelEdges | None = None,
    ) -> None:
        self._shard, self._edges, self._loss = shard, edges, loss
        self._negatives = negatives
        self.keys = shard.edge_key[edges]
        largest = np.array([self.keys.max(initial=-1)])
        shard.comm.all_reduce(largest, "max", stage="count targets")
        self.bound = int(largest[0]) + 1
        self.nodes = endpoints(shard, edges)
        self._owner_locations = shard.owner_locations[self.nodes]
        self._parallel_edges = parallel_edges
        self._groups = None if negatives is None else negatives.candidates.groups(shard, edges)

    def of_step(
        self,
        chosen: NDArray[np.int64],
        *,
        step: int,
        comm: Communicator,
        candidates: NDArray[np.int64] | None = None,
        masked: NDArray[np.int64] | None = None,
    ) -> StepTargets:
        edges, masked_edges = self._edges[chosen], _NONE
        if masked is not None and self._parallel_edges is not None:
            masked_edges = self._parallel_edges.of(self._edges[masked], comm)
        drawn, at_source = np.zeros((len(edges), 0), np.int64), np.zeros((len(edges), 0), np.bool_)
        if self._negatives is not None and self._groups is not None:
            drawn, at_source = self._negatives.draw(
                self.keys[chosen], self._groups[chosen], comm, step=step, masters=candidates
            )
        known = self._owner_locations[chosen].T.reshape(-1)
        remote = RemoteRows.request(np.concatenate([known, drawn.reshape(-1)]), comm)
        src, dst, other = np.split(remote.rows, [len(edges), 2 * len(edges)])
        src, dst, other = src[:, None], dst[:, None], other.reshape(drawn.shape)
        pairs = [
            np.concatenate([src, np.where(at_source, other, src)], axis=1),
            np.concatenate([dst, np.where(at_source, dst, other)], axis=1),
        ]

        def loss(view: View, outputs: Tensor) -> tuple[Tensor, float]:
            view.token, table = remote.fetch(outputs, view.token, self._shard.channel)
            of_src, of_dst = (F.embedding(self._shard.to_device(rows), table) for rows in pairs)
            return self._loss(edges, of_src, of_dst)

        return StepTargets(edges, remote.seeds, masked_edges, loss)


def fetch_endpoints(
    owner_locations: NDArray[np.int64], outputs: Tensor, shard: Shard, size: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield the embeddings of pairs' endpoints in chunks, without gradients; collective.

    Args:
        owner_locations: (R, 2) `location_code` of the endpoints; R may differ between workers.
        outputs: (M, F) embeddings of all masters.
        shard: Graph of the nodes.
        size: Pairs of this worker in a chunk.

    Yields:
        The slice of the pairs, and the embeddings of their sources and destinations; as many times
        on every worker.
    """
    most = shard.comm.all_gather_int(len(owner_locations), stage="count pairs").max()
    token = torch.zeros((), device=outputs.device)
    for first in range(0, int(most), size):
        some = slice(min(first, len(owner_locations)), min(first + size, len(owner_locations)))
        remote = RemoteRows.request(owner_locations[some].T.reshape(-1), shard.comm)
        with torch.no_grad():
            _, table = remote.fetch(outputs[shard.to_device(remote.seeds)], token, shard.channel)
        src, dst = np.split(remote.rows, 2)
        yield some, table[shard.to_device(src)], table[shard.to_device(dst)]
