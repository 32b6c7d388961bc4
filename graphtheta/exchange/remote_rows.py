"""Ends: bringing the outputs of nodes from where they are computed to where they are read.

What a task scores are pairs of nodes, held by any worker. A worker asks the owners of the distinct
nodes it needs, once each; autograd takes the cotangents back the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.timers import Stage
from graphtheta.exchange.autograd import fetch
from graphtheta.exchange.channel import Channel
from graphtheta.exchange.directory import rank_and_row
from graphtheta.exchange.plan import Route

__all__ = ["RemoteRows"]

_STAGE = "prepare ends"
_ENDS = Stage("ends")


@dataclass(frozen=True)
class RemoteRows:
    """Which outputs are brought here, and which of this worker's go elsewhere.

    Attributes:
        seeds: (O,) int64 masters that some worker asks for, ascending.
        rows: (R,) int64 where each node that was asked for stands among the outputs of the seeds,
            and what others sent behind them.
        route: What is sent: the seeds are its masters.
    """

    seeds: NDArray[np.int64]
    rows: NDArray[np.int64]
    route: Route

    @classmethod
    def ask(cls, owner_locations: NDArray[np.int64], comm: Communicator) -> RemoteRows:
        """Ask the owners of nodes; collective.

        Args:
            owner_locations: (R,) `location_code` of each node, any number of times each.
            comm: The workers.

        Communication:
            An all-to-all of 8 bytes a distinct node of another worker.
        """
        distinct, at = np.unique(owner_locations, return_inverse=True)
        owner, place = rank_and_row(distinct)
        is_own = owner == comm.rank
        away_owner, away = owner[~is_own], place[~is_own]
        cuts = np.searchsorted(away_owner, np.arange(comm.size + 1))
        heard = comm.all_to_all(np.split(away, cuts[1:-1]), stage=_STAGE)
        asked = np.concatenate(heard)
        seeds = np.unique(np.concatenate([place[is_own], asked]))
        where = np.empty(len(distinct), np.int64)
        where[is_own] = np.searchsorted(seeds, place[is_own])
        where[~is_own] = len(seeds) + np.arange(len(away))
        ends = np.append(0, np.cumsum([len(block) for block in heard]))
        route = Route(
            num_masters=len(seeds),
            num_mirrors=len(away),
            master_S=np.searchsorted(seeds, asked),
            mirror_R=np.arange(len(away)),
            master_slices=_slices(ends),
            mirror_slices=_slices(cuts),
        )
        return cls(seeds, where[at], route)

    def fetch(self, outputs: Tensor, token: Tensor, channel: Channel) -> tuple[Tensor, Tensor]:
        """Bring the outputs of the nodes that were asked for; collective, and differentiable.

        Args:
            outputs: Of the seeds, in order.
            token: Of the step.
            channel: What carries them.

        Shape:
            outputs: (O, F). Returns the token to hand on, and a row a distinct node, which `rows`
            are places in. To be read by `F.embedding`, whose backward all threads share.

        Communication:
            A row a distinct node of another worker, and its cotangent back.
        """
        return fetch(outputs, token, channel, self.route, _ENDS)


def _slices(ends: NDArray[np.int64]) -> dict[int, slice]:
    return {
        int(peer): slice(int(ends[peer]), int(ends[peer + 1]))
        for peer in np.flatnonzero(np.diff(ends))
    }
