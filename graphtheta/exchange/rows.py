"""Exchanges of NumPy rows outside of a step: along a route, or to any rank.

Never imports torch; `graphtheta.exchange.autograd` has the exchanges that are differentiated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import concatenated_ranges
from graphtheta.exchange.plan import Route

__all__ = ["RoutePositions", "exchange_rows", "send_positions", "send_rows", "split_by_peer"]


class RoutePositions:
    """Positions of each master in a route; a master may have any number of them.

    Attributes:
        positions: (S,) int64 positions in `route.master_S`, grouped by master.
        indptr: (M + 1,) int64: those of master m are [indptr[m], indptr[m + 1]).
    """

    def __init__(self, route: Route, num_masters: int) -> None:
        self.positions = np.argsort(route.master_S, kind="stable")
        self.indptr = np.zeros(num_masters + 1, np.int64)
        np.cumsum(np.bincount(route.master_S, minlength=num_masters), out=self.indptr[1:])

    def of(self, masters: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all positions of some masters, and for each the index of its master in `masters`.

        Shape:
            masters: (R,). Returns (X,) and (X,) int64.
        """
        first = self.indptr[masters]
        count = self.indptr[masters + 1] - first
        index = np.repeat(np.arange(len(masters)), count)
        return self.positions[concatenated_ranges(first, count)], index


def exchange_rows(
    comm: Communicator,
    rows: NDArray[Any],
    received: NDArray[Any],
    route: Route,
    *,
    to_mirrors: bool,
    stage: str,
) -> None:
    """Send rows along a route, and wait for those of the peers.

    Args:
        comm: The workers.
        rows: Rows to send: in the order of `route.master_S` to mirrors, of `route.mirror_R` to
            masters.
        received: Rows received, in the order of the other side; written.
        route: Which rows go to which peer.
        to_mirrors: Whether rows go from masters to mirrors, or from mirrors to masters.
        stage: Name of the stage, for error messages.
    """
    send, receive = route.master_slices, route.mirror_slices
    if not to_mirrors:
        send, receive = receive, send
    rows = np.ascontiguousarray(rows)
    comm.exchange(
        {peer: rows[rows_of_peer] for peer, rows_of_peer in send.items()},
        {peer: received[rows_of_peer] for peer, rows_of_peer in receive.items()},
        stage=stage,
    ).wait()


def split_by_peer(positions: NDArray[np.int64], slices: Mapping[int, slice]) -> dict[int, slice]:
    """Return, by peer, the slice of ascending positions that lie in the peer's slice of a route."""
    ends = {p: np.searchsorted(positions, [some.start, some.stop]) for p, some in slices.items()}
    return {peer: slice(int(first), int(last)) for peer, (first, last) in ends.items()}


def send_rows(
    comm: Communicator, rank: NDArray[Any], rows: NDArray[np.int64], *, stage: str
) -> list[NDArray[np.int64]]:
    """Send each row to a rank of its own; collective.

    Shape:
        rank: (R,). rows: (R, W). Returns (R', W) per rank that sent them, in the order sent.
    """
    order = np.argsort(rank, kind="stable")
    cuts = np.searchsorted(rank[order], np.arange(1, comm.size))
    to_ranks = [np.ascontiguousarray(r).reshape(-1) for r in np.split(rows[order], cuts)]
    received = comm.all_to_all(to_ranks, stage=stage)
    return [r.reshape(-1, rows.shape[1]) for r in received]


def send_positions(
    comm: Communicator,
    positions: NDArray[np.int64],
    send: Mapping[int, slice],
    receive: Mapping[int, slice],
    *,
    stage: str,
) -> dict[int, NDArray[np.int64]]:
    """Send a selection of a route's rows to peers, by position, and return the peers' selections.

    Args:
        comm: The workers.
        positions: Positions of the selected rows, ascending, over the slices of `send`.
        send: The route's slices on this side, of masters or of mirrors.
        receive: Its slices on the other side.
        stage: Name of the stage, for error messages.

    Returns:
        By peer, the positions that it selected, ascending, over the slices of `receive`.

    Communication:
        8 bytes per peer, then 4 bytes per position.
    """
    sent = {
        peer: (positions[some] - send[peer].start).astype(np.int32)
        for peer, some in split_by_peer(positions, send).items()
    }
    sizes = {peer: np.array([len(values)], np.int64) for peer, values in sent.items()}
    counts = {peer: np.empty(1, np.int64) for peer in receive}
    comm.exchange(sizes, counts, stage=f"{stage}: sizes").wait()
    received = {peer: np.empty(int(count[0]), np.int32) for peer, count in counts.items()}
    comm.exchange(
        {peer: values for peer, values in sent.items() if len(values)},
        {peer: values for peer, values in received.items() if len(values)},
        stage=stage,
    ).wait()
    return {
        peer: receive[peer].start + values.astype(np.int64) for peer, values in received.items()
    }
