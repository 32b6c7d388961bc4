"""Output rows fetched from the workers that own them by the workers that read them.

A task scores pairs of nodes whose masters may be on any worker. Each worker requests the distinct
nodes that it needs from their owners; in backward, their gradients return the same way.
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

_REQUEST = "prepare remote rows"
_FETCH = Stage("remote rows")


@dataclass(frozen=True)
class RemoteRows:
    """Exchange of selected output rows between the workers that own them and those that read them.

    Attributes:
        seeds: (O,) int64 masters that some worker requested, ascending.
        rows: (R,) int64 row of each requested node in the table that `fetch` returns.
        route: Which rows go to which peer; its masters are the seeds.
    """

    seeds: NDArray[np.int64]
    rows: NDArray[np.int64]
    route: Route

    @classmethod
    def request(cls, owner_locations: NDArray[np.int64], comm: Communicator) -> RemoteRows:
        """Request nodes from their owners; collective.

        Args:
            owner_locations: (R,) `location_code` of each node; duplicates are allowed.
            comm: The workers.

        Communication:
            One all-to-all of 8 bytes per distinct node of another worker.
        """
        distinct, index = np.unique(owner_locations, return_inverse=True)
        owner, master = rank_and_row(distinct)
        is_own = owner == comm.rank
        remote_owner, remote = owner[~is_own], master[~is_own]
        remote_starts = np.searchsorted(remote_owner, np.arange(comm.size + 1))
        requests = comm.all_to_all(np.split(remote, remote_starts[1:-1]), stage=_REQUEST)
        requested = np.concatenate(requests)
        seeds = np.unique(np.concatenate([master[is_own], requested]))
        rows = np.empty(len(distinct), np.int64)
        rows[is_own] = np.searchsorted(seeds, master[is_own])
        rows[~is_own] = len(seeds) + np.arange(len(remote))
        request_starts = np.append(0, np.cumsum([len(ids) for ids in requests]))
        route = Route(
            num_masters=len(seeds),
            num_mirrors=len(remote),
            master_S=np.searchsorted(seeds, requested),
            mirror_R=np.arange(len(remote)),
            master_slices=_slices(request_starts),
            mirror_slices=_slices(remote_starts),
        )
        return cls(seeds, rows[index], route)

    def fetch(self, outputs: Tensor, token: Tensor, channel: Channel) -> tuple[Tensor, Tensor]:
        """Fetch the outputs of the requested nodes; collective and differentiable.

        Args:
            outputs: Outputs of the seeds, in order.
            token: Token of the step.
            channel: Exchanges between the workers.

        Shape:
            outputs: (O, F). Returns the next token, and a table of (O + remote nodes, F), which
            `rows` indexes. Read it by `F.embedding`, whose backward runs on all threads.

        Communication:
            One row per distinct node of another worker, and its gradient back.
        """
        return fetch(outputs, token, channel, self.route, _FETCH)


def _slices(starts: NDArray[np.int64]) -> dict[int, slice]:
    return {
        int(peer): slice(int(starts[peer]), int(starts[peer + 1]))
        for peer in np.flatnonzero(np.diff(starts))
    }
