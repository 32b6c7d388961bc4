"""The exchange plan: which master rows go to which peer, and which mirror rows come from it.

A plan is read off one part of a store. Rows are grouped by peer (ascending) and, for one peer,
ordered by the local id at the owner, on both sides: so the n-th row sent is the n-th row received
and no index ever travels with the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExchangePlan", "Role", "Route"]


class Role(IntFlag):
    """What a mirror is for on the worker that holds it."""

    SOURCE = 1  # it has out-edges: Gather reads its value
    DESTINATION = 2  # it has in-edges: it sends a partial sum, and Gather may read its value


@dataclass(frozen=True)
class Route:
    """Rows that travel between masters and mirrors, for one choice of mirrors.

    Attributes:
        num_masters: M, rows of masters.
        num_mirrors: H, rows of mirrors behind them.
        master_S: (S,) int64 masters, grouped by the peer that mirrors them.
        mirror_R: (R,) int64 mirrors in [0, H), grouped by the peer that owns them.
        master_slices: Slice of `master_S` for each peer that mirrors some of ours.
        mirror_slices: Slice of `mirror_R` for each peer that owns some of ours.
    """

    num_masters: int
    num_mirrors: int
    master_S: NDArray[np.int64]
    mirror_R: NDArray[np.int64]
    master_slices: Mapping[int, slice]
    mirror_slices: Mapping[int, slice]

    @cached_property
    def fills(self) -> bool:
        """Whether what comes from peers is every mirror, in its place."""
        return np.array_equal(self.mirror_R, np.arange(self.num_mirrors))


def _slices(peer_X: NDArray[np.int32]) -> dict[int, slice]:
    peers, starts = np.unique(peer_X, return_index=True)
    stops = np.append(starts, len(peer_X))[1:]
    return {int(p): slice(int(a), int(b)) for p, a, b in zip(peers, starts, stops, strict=True)}


@dataclass(frozen=True)
class ExchangePlan:
    """One worker's mirrors elsewhere, and its own mirrors of others.

    Attributes:
        num_masters: M, masters held here.
        num_mirrors: H, mirrors held here.
        peer_X: (X,) int32 rank that mirrors a master of ours, ascending.
        master_X: (X,) int64 that master's local id, ascending within a peer.
        peer_role_X: (X,) int8 `Role` of the mirror over there.
        owner_H: (H,) int32 rank that owns each mirror of ours, ascending.
        role_H: (H,) int8 `Role` of each mirror of ours.
    """

    num_masters: int
    num_mirrors: int
    peer_X: NDArray[np.int32]
    master_X: NDArray[np.int64]
    peer_role_X: NDArray[np.int8]
    owner_H: NDArray[np.int32]
    role_H: NDArray[np.int8]

    def _route(self, role: Role) -> Route:
        here = np.flatnonzero(self.role_H & role)
        there = np.flatnonzero(self.peer_role_X & role)
        return Route(
            num_masters=self.num_masters,
            num_mirrors=self.num_mirrors,
            master_S=self.master_X[there],
            mirror_R=here,
            master_slices=_slices(self.peer_X[there]),
            mirror_slices=_slices(self.owner_H[here]),
        )

    @cached_property
    def sources(self) -> Route:
        """Mirrors whose value Gather reads at the message's source."""
        return self._route(Role.SOURCE)

    @cached_property
    def destinations(self) -> Route:
        """Mirrors that hold in-edges: partial sums leave from here."""
        return self._route(Role.DESTINATION)

    @cached_property
    def mirrors(self) -> Route:
        """All mirrors."""
        return self._route(Role.SOURCE | Role.DESTINATION)
