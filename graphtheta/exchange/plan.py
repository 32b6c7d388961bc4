"""Exchange plan: which master rows are sent to which peer, and which mirror rows come from it.

A plan is read from one part of a store. Rows are grouped by peer (ascending) and, within a peer,
ordered by the local id at the owner, on both sides: the n-th row sent is the n-th row received, so
that no index travels with the values.
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
    """Why a worker holds a mirror."""

    SOURCE = 1  # it has out-edges: Gather reads its value
    DESTINATION = 2  # it has in-edges: it sends a partial sum, and Gather may read its value


@dataclass(frozen=True)
class Route:
    """Rows exchanged between masters and mirrors, for one selection of mirrors.

    Attributes:
        num_masters: Number of master rows (M).
        num_mirrors: Number of mirror rows (H), which follow the masters.
        master_S: (S,) int64 masters, grouped by the peer that mirrors them.
        mirror_R: (R,) int64 mirrors in [0, H), grouped by the peer that owns them.
        master_slices: By peer, the slice of `master_S` that it mirrors.
        mirror_slices: By peer, the slice of `mirror_R` that it owns.
    """

    num_masters: int
    num_mirrors: int
    master_S: NDArray[np.int64]
    mirror_R: NDArray[np.int64]
    master_slices: Mapping[int, slice]
    mirror_slices: Mapping[int, slice]

    @cached_property
    def covers_mirrors(self) -> bool:
        """Whether the rows received from peers are exactly all mirrors, in order."""
        return np.array_equal(self.mirror_R, np.arange(self.num_mirrors))


def _slices(peer_X: NDArray[np.int32]) -> dict[int, slice]:
    peers, starts = np.unique(peer_X, return_index=True)
    stops = np.append(starts, len(peer_X))[1:]
    return {int(p): slice(int(a), int(b)) for p, a, b in zip(peers, starts, stops, strict=True)}


@dataclass(frozen=True)
class ExchangePlan:
    """Mirrors that a worker holds, and mirrors that other workers hold of its masters.

    Attributes:
        num_masters: Number of masters held here (M).
        num_mirrors: Number of mirrors held here (H).
        peer_X: (X,) int32 rank that mirrors a master held here, ascending.
        master_X: (X,) int64 local id of that master, ascending within a peer.
        peer_role_X: (X,) int8 `Role` of the mirror on that peer.
        owner_H: (H,) int32 rank that owns each mirror held here, ascending.
        role_H: (H,) int8 `Role` of each mirror held here.
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
        """Route of the mirrors with out-edges: Gather reads their values."""
        return self._route(Role.SOURCE)

    @cached_property
    def destinations(self) -> Route:
        """Route of the mirrors with in-edges: they send partial sums."""
        return self._route(Role.DESTINATION)

    @cached_property
    def mirrors(self) -> Route:
        """Route of all mirrors."""
        return self._route(Role.SOURCE | Role.DESTINATION)
