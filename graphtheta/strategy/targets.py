"""Targets: what a strategy cuts into steps, nodes or edges, and what a step of them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View

__all__ = ["Loss", "NodeTargets", "StepTargets", "Targets"]

# Of a step's view and the outputs of its seeds: the summed loss of this worker and its count.
Loss = Callable[[View, Tensor], tuple[Tensor, int]]


@dataclass(frozen=True)
class StepTargets:
    """What a step is about; some workers may have no part in it.

    Attributes:
        targets: (T,) int64 local ids of masters, or places of edges, that count in the loss.
        seeds: (O,) int64 local ids of the masters whose outputs the loss reads, ascending.
        masked_edges: (X,) int64 places of edges that carry no message in this step.
        loss: What is optimised; collective if targets are edges.
    """

    targets: NDArray[np.int64]
    seeds: NDArray[np.int64]
    masked_edges: NDArray[np.int64]
    loss: Loss


class Targets(Protocol):
    """What a task trains on, as far as this worker holds it."""

    @property
    def keys(self) -> NDArray[np.int64]:
        """(T,) a number for each target, its own on all workers together."""

    @property
    def bound(self) -> int:
        """Above every key."""

    @property
    def nodes(self) -> NDArray[np.int64]:
        """(T, J) local ids of the replicas that a target joins: it is where all of them are."""

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
        """Return what a step of some targets, or a part of one, needs; collective.

        Args:
            chosen: (T',) which of them, ascending.
            seed: Of what is drawn.
            step: The same.
            comm: What the workers talk through.
            among: Masters of this worker that nodes may be drawn from; None: any node of the graph.
            masked_edges: (S,) which targets, if they are edges, may be kept from carrying
                messages: those of the whole step; None: none.
        """


class NodeTargets:
    """Nodes, each of which is computed where it lives.

    Args:
        shard: Storage.
        rows: (T,) int64 local ids of masters.
        loss: Of outputs and the tensor of local ids that they are of: the sum and the count.
    """

    def __init__(
        self,
        shard: Shard,
        rows: Tensor,
        loss: Callable[[Tensor, Tensor], tuple[Tensor, int]],
    ) -> None:
        self._shard, self._rows, self._loss = shard, np.sort(rows.cpu().numpy()), loss
        self.keys = shard.node_key_L[self._rows]
        self.bound = shard.manifest.num_nodes
        self.nodes = self._rows[:, None]

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
        """Return the nodes themselves; talks to nobody."""
        rows = self._rows[chosen]
        index = self._shard.to_device(rows)
        return StepTargets(rows, rows, rows[:0], lambda view, outputs: self._loss(outputs, index))
