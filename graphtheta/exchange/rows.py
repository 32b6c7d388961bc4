"""Sending outside of a step: rows of a route, which of its rows are meant, or rows to any rank.

Never imports torch; `graphtheta.exchange.autograd` sends what autograd differentiates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import stretches
from graphtheta.exchange.plan import Route

__all__ = ["RoutePositions", "cut", "exchange_rows", "send_positions", "send_rows"]


class RoutePositions:
    """Where the masters stand in a route: any number of times each.

    Attributes:
        place: (S,) int64 places in `route.master_S`, by master.
        indptr: (M + 1,) int64: master m has those from indptr[m] on.
    """

    def __init__(self, route: Route, num_masters: int) -> None:
        self.place = np.argsort(route.master_S, kind="stable")
        self.indptr = np.zeros(num_masters + 1, np.int64)
        np.cumsum(np.bincount(route.master_S, minlength=num_masters), out=self.indptr[1:])

    def of(self, masters: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all places of the masters, and which of them each is of."""
        first = self.indptr[masters]
        count = self.indptr[masters + 1] - first
        which = np.repeat(np.arange(len(masters)), count)
        return self.place[stretches(first, count)], which


def exchange_rows(
    comm: Communicator,
    rows: NDArray[Any],
    arrived: NDArray[Any],
    route: Route,
    *,
    to_mirrors: bool,
    stage: str,
) -> None:
    """Send rows along a route and wait for those of the other side.

    Args:
        comm: The workers.
        rows: In the order of `route.master_S` to mirrors, of `route.mirror_R` to masters.
        arrived: In the order of the other; written.
        route: Whose rows.
        to_mirrors: Which way.
        stage: What the job is doing.
    """
    out, back = route.master_slices, route.mirror_slices
    if not to_mirrors:
        out, back = back, out
    rows = np.ascontiguousarray(rows)
    comm.exchange(
        {peer: rows[block] for peer, block in out.items()},
        {peer: arrived[block] for peer, block in back.items()},
        stage=stage,
    ).wait()


def cut(places: NDArray[np.int64], slices: Mapping[int, slice]) -> dict[int, slice]:
    """Return which of ascending places lie in the slice of each peer."""
    ends = {p: np.searchsorted(places, [block.start, block.stop]) for p, block in slices.items()}
    return {peer: slice(int(first), int(last)) for peer, (first, last) in ends.items()}


def send_rows(
    comm: Communicator, rank: NDArray[Any], rows: NDArray[np.int64], *, stage: str
) -> list[NDArray[np.int64]]:
    """Send each row to a rank of its own; collective.

    Shape:
        rank: (R,). rows: (R, W). Returns (R', W) by rank that sent them, each in its order.
    """
    order = np.argsort(rank, kind="stable")
    cuts = np.searchsorted(rank[order], np.arange(1, comm.size))
    blocks = [np.ascontiguousarray(b).reshape(-1) for b in np.split(rows[order], cuts)]
    heard = comm.all_to_all(blocks, stage=stage)
    return [block.reshape(-1, rows.shape[1]) for block in heard]


def send_positions(
    comm: Communicator,
    places: NDArray[np.int64],
    out: Mapping[int, slice],
    back: Mapping[int, slice],
    *,
    stage: str,
) -> dict[int, NDArray[np.int64]]:
    """Tell the peers of `out` which rows of a route are meant; return what those of `back` mean.

    Args:
        comm: The workers.
        places: Ascending, counted over the slices of `out`.
        out: A route's slices on one side, of masters or of mirrors.
        back: Its slices on the other.
        stage: What the job is doing.

    Returns:
        By peer the places that it means, ascending, counted over the slices of `back`.

    Communication:
        8 bytes a peer, then 4 bytes a place.
    """
    send = {
        peer: (places[chosen] - out[peer].start).astype(np.int32)
        for peer, chosen in cut(places, out).items()
    }
    sizes = {peer: np.array([len(values)], np.int64) for peer, values in send.items()}
    counts = {peer: np.empty(1, np.int64) for peer in back}
    comm.exchange(sizes, counts, stage=f"{stage}: sizes").wait()
    heard = {peer: np.empty(int(count[0]), np.int32) for peer, count in counts.items()}
    comm.exchange(
        {peer: values for peer, values in send.items() if len(values)},
        {peer: values for peer, values in heard.items() if len(values)},
        stage=stage,
    ).wait()
    return {peer: back[peer].start + values.astype(np.int64) for peer, values in heard.items()}
