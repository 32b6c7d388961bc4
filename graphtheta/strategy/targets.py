"""Targets of training, nodes or edges, and what one step of them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View

__all__ = ["Loss", "NodeTargets", "StepTargets", "Targets"]

# From a view and the outputs of a step's seeds to this worker's summed loss, and the number or
# summed weight of its terms.
Loss = Callable[[View, Tensor], tuple[Tensor, float]]


@dataclass(frozen=True)
class StepTargets:
    """Targets of one step on this worker, which may have none, and their loss.

    Attributes:
        targets: (T,) int64 local ids of masters, or positions of edges, that the loss is computed
            on.
        seeds: (O,) int64 local ids of the masters whose outputs the loss reads, ascending.
        masked_edges: (X,) int64 positions of edges that carry no message in this step.
        loss: Loss function; collective if targets are edges.
    """

    targets: NDArray[np.int64]
    seeds: NDArray[np.int64]
    masked_edges: NDArray[np.int64]
    loss: Loss


class Targets(Protocol):
    """All training targets that this worker holds."""

    @property
    def keys(self) -> NDArray[np.int64]:
        """(T,) key of each target, unique over all workers."""

    @property
    def bound(self) -> int:
        """Exclusive upper bound of the keys."""

    @property
    def nodes(self) -> NDArray[np.int64]:
        """(T, J) local ids of the nodes of each target: the node itself, or an edge's endpoints."""

    def of_step(
        self,
        chosen: NDArray[np.int64],
        *,
        step: int,
        comm: Communicator,
        candidates: NDArray[np.int64] | None = None,
        masked: NDArray[np.int64] | None = None,
    ) -> StepTargets:
        """Return what a step, or a micro-batch of it, needs; collective.

        Args:
            chosen: (T',) indices of its targets, ascending.
            step: Number of the step, for random draws.
            comm: The workers.
            candidates: Masters of this worker that negatives are drawn from; if None, from all
                nodes of the graph.
            masked: (S,) indices of all targets of the step. If they are edges, the task may keep
                them from carrying messages. If None, all edges carry messages.
        """


class NodeTargets:
    """Nodes as targets, each computed by its owner.

    Args:
        shard: Graph of the nodes.
        rows: (T,) int64 local ids of masters.
        loss: Function of outputs and the local ids they belong to that returns the sum, and the
            count or the summed weight.
    """

    def __init__(
        self, shard: Shard, rows: Tensor, loss: Callable[[Tensor, Tensor], tuple[Tensor, float]]
    ) -> None:
        self._shard, self._rows, self._loss = shard, np.sort(rows.cpu().numpy()), loss
        self.keys = shard.node_key_L[self._rows]
        self.bound = shard.manifest.num_nodes
        self.nodes = self._rows[:, None]

    def of_step(self, chosen: NDArray[np.int64], **_: Any) -> StepTargets:
        rows = self._rows[chosen]
        index = self._shard.to_device(rows)
        return StepTargets(rows, rows, rows[:0], lambda view, outputs: self._loss(outputs, index))
