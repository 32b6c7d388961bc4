"""Communities by label propagation over all workers: hop attenuation and node preference (HANP).

Every node starts with a label of its own, its node_key, at score 1. In a round a node takes the
label whose neighbours have the largest sum of score x degree^preference. Its score becomes the
largest of theirs, less `attenuation` if the label is new to the node: a label weakens as it
spreads. Edges count in both directions, each repeat of one too, self-loops not.

In each half of a round one half of the nodes, drawn by node_key, looks at its neighbours: if all
did at once, two sides of a bipartite piece would swap labels for ever. A tie goes to the node's own
label, else to one drawn by label. Scores are whole numbers of 2^-16 and degree^preference of 2^-8,
so that sums are exact in any order (below 2^38 edges), and the same on any number of workers.

Source: Leung, Hui, Liò, Crowcroft, "Towards real-time community detection in large networks",
Phys. Rev. E 79, 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.exchange.rows import RoutePositions, exchange_rows
from graphtheta.rng.philox import Purpose, hash_key, hash_keys, step_key, stream_id
from graphtheta.shard.shard import Shard

__all__ = ["LabelPropagation"]

_STAGE = "label propagation"
_ONE = 1 << 16  # a score of 1
_UNIT = 1 << 8  # a preference of 1
_LEAST_CHANGED = 0.001  # of the nodes; after a round that changes fewer, the next would not pay

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@dataclass(frozen=True)
class LabelPropagation:
    """How labels spread.

    Attributes:
        rounds: Most rounds; in each every node looks at its neighbours once.
        attenuation: What a label's score loses when a node takes it, in [0, 1).
        preference: Power of a neighbour's degree that its label weighs, in [-1, 1].

    Raises:
        ConfigError: If a number is out of range.
    """

    rounds: int = 25
    attenuation: float = 0.05
    preference: float = 0.1

    def __post_init__(self) -> None:
        for name, value, expected, fits in (
            ("rounds", self.rounds, "at least 1", self.rounds >= 1),
            ("attenuation", self.attenuation, "in [0, 1)", 0 <= self.attenuation < 1),
            ("preference", self.preference, "in [-1, 1]", -1 <= self.preference <= 1),
        ):
            if not fits:
                raise ConfigError(f"label propagation: expected {name} {expected}, got {value}.")

    def __call__(self, shard: Shard, comm: Communicator, seed: int) -> NDArray[np.int64]:
        """Return the community of each master: the node that its label began with; collective.

        Shape:
            Returns (M,) int64 node keys.

        Communication:
            A round: 48 bytes a mirror, and 24 bytes for each label that its neighbours on the
            same worker have: at most two an edge, and few after the first rounds.
        """
        labels = _Labels(shard, comm, self.preference)
        loss = round(self.attenuation * _ONE)
        for number in range(self.rounds):
            changed = sum(labels.look(seed, number, half, loss) for half in (0, 1))
            if changed <= _LEAST_CHANGED * shard.manifest.num_nodes:
                break
        return labels.label_L[: shard.num_masters]


class _Labels:
    """Labels and scores of this worker's replicas.

    Attributes:
        label_L: (L,) int64.
        score_L: (L,) int64.
        worth_L: (L,) int64: preferences.
    """

    def __init__(self, shard: Shard, comm: Communicator, preference: float) -> None:
        self._shard, self._comm, self._route = shard, comm, shard.plan.mirrors
        num_masters = shard.num_masters
        ways = [shard.node_column(f"{way}_degree").cpu().numpy() for way in ("in", "out")]
        degree_L = np.zeros(num_masters + shard.num_mirrors, np.int64)
        degree_L[:num_masters] = ways[0] + ways[1]
        self._sync(degree_L)
        degrees, at = np.unique(degree_L, return_inverse=True)
        # One by one: the last bit of a vector's power may depend on where a number stands.
        powers = [max(1, round(_UNIT * max(d, 1) ** preference)) for d in degrees.tolist()]
        self.worth_L = np.array(powers, np.int64)[at]
        self.label_L = shard.node_key_L.astype(np.int64)
        self.score_L = np.full(len(self.label_L), _ONE, np.int64)
        into, out = shard.in_edges, shard.out_edges
        self._edges = (into.indptr, into.other, out.indptr, out.other)
        mirrored = RoutePositions(self._route, num_masters)
        self._places = mirrored.indptr, mirrored.positions
        self._held_L = np.diff(out.indptr)
        self._held_L[: into.num_rows] += np.diff(into.indptr)

    def look(self, seed: int, number: int, half: int, loss: int) -> int:
        """Run half a round; return how many nodes of all workers changed their label."""
        route, num_masters = self._route, self._shard.num_masters
        draws = hash_keys(self._shard.node_key_L, seed, Purpose.COMMUNITY, step=2 * number)
        looks = draws >> np.uint64(63) == half
        count_S, found = self._tell_owners(looks)
        # What arrived for a master: lists of several peers, behind each other.
        masters = np.flatnonzero(looks[:num_masters])
        start_S = np.cumsum(count_S) - count_S
        heard = np.bincount(route.master_S, weights=count_S, minlength=num_masters)
        label, score = self.label_L[masters], self.score_L[masters]
        _choose(
            masters,
            self._edges,
            (self.label_L, self.score_L, self.worth_L),
            (*self._places, start_S, count_S, found),
            _table(self._held_L[masters] + heard[masters].astype(np.int64)),
            stream_id(Purpose.COMMUNITY),
            step_key(seed, 2 * number + 1),
            loss,
            label,
            score,
        )
        changed = np.array([np.count_nonzero(label != self.label_L[masters])], np.int64)
        self.label_L[masters], self.score_L[masters] = label, score
        self._sync(self.label_L)
        self._sync(self.score_L)
        self._comm.all_reduce(changed, stage=f"{_STAGE}: changed")
        return int(changed[0])

    def _tell_owners(self, looks: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Send what the neighbours of mirrors that look have to the mirrors' owners.

        Shape:
            Returns (S,) int64, how many labels arrived for each master of the route, and (n, 3)
            int64: labels, sums, and largest scores.
        """
        route, num_masters = self._route, self._shard.num_masters
        mirrors = num_masters + np.flatnonzero(looks[num_masters:])
        held = self._held_L[mirrors]
        out, count = np.empty((int(held.sum()), 3), np.int64), np.empty(len(mirrors), np.int64)
        state = self.label_L, self.score_L, self.worth_L
        _tally(mirrors, self._edges, state, _table(held), count, out)
        count_H = np.zeros(route.num_mirrors, np.int64)
        count_H[mirrors - num_masters] = count
        count_S = np.empty(len(route.master_S), np.int64)
        stage = f"{_STAGE}: sizes"
        exchange_rows(self._comm, count_H, count_S, route, to_mirrors=False, stage=stage)
        found = np.empty((int(count_S.sum()), 3), np.int64)
        self._comm.exchange(
            _parts(out, count_H, route.mirror_slices),
            _parts(found, count_S, route.master_slices),
            stage=_STAGE,
        ).wait()
        return count_S, found

    def _sync(self, column_L: NDArray[np.int64]) -> None:
        """Overwrite mirrors by their masters."""
        sent, mirrors = column_L[self._route.master_S], column_L[self._route.num_masters :]
        stage = f"{_STAGE}: sync"
        exchange_rows(self._comm, sent, mirrors, self._route, to_mirrors=True, stage=stage)


def _parts(
    rows: NDArray[np.int64], count_X: NDArray[np.int64], slices: Any
) -> dict[int, NDArray[np.int64]]:
    """Return the rows of each peer that has any: `count_X` of them for each row of a route."""
    last = np.concatenate([[0], np.cumsum(count_X)])
    parts = {peer: rows[last[block.start] : last[block.stop]] for peer, block in slices.items()}
    return {peer: part for peer, part in parts.items() if len(part)}


# -- loops over edges -----------------------------------------------------------------------------
#
# A table counts labels of one row: label (-1: free), sum of scores, largest score, of each slot,
# and the slots in use in column 3.


def _table(most: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a table for rows of at most so many labels: a power of two, half of it free."""
    table = np.empty((1 << int(2 * most.max(initial=1) - 1).bit_length(), 4), np.int64)
    table[:, 0] = -1
    return table


@_jit
def _add(
    table: NDArray[np.int64], used: int, label: np.int64, amount: np.int64, score: np.int64
) -> int:
    mask = table.shape[0] - 1
    slot = np.int64((np.uint64(label) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while table[slot, 0] >= 0 and table[slot, 0] != label:
        slot = (slot + 1) & mask
    if table[slot, 0] < 0:
        table[slot, 0], table[slot, 1], table[slot, 2] = label, 0, 0
        table[used, 3] = slot
        used += 1
    table[slot, 1] += amount
    table[slot, 2] = max(table[slot, 2], score)
    return used


@_jit
def _add_neighbours(row: np.int64, edges: Any, state: Any, table: NDArray[np.int64]) -> int:
    """Count the labels of a row's neighbours that are held here; return how many labels."""
    in_indptr, src, out_indptr, dst = edges
    label, score, worth = state
    used = 0
    if row < in_indptr.shape[0] - 1:
        for e in range(in_indptr[row], in_indptr[row + 1]):
            j = src[e]
            if j != row:
                used = _add(table, used, label[j], score[j] * worth[j], score[j])
    for e in range(out_indptr[row], out_indptr[row + 1]):
        j = dst[e]
        if j != row:
            used = _add(table, used, label[j], score[j] * worth[j], score[j])
    return used


@_jit
def _tally(
    rows: NDArray[np.int64],
    edges: Any,
    state: Any,
    table: NDArray[np.int64],
    count: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    """List the labels of each row's neighbours, one row's behind the other's.

    Shape:
        count: (R,) written. out: (n, 3) written: label, sum, largest score.
    """
    size = 0
    for r in range(rows.shape[0]):
        used = _add_neighbours(rows[r], edges, state, table)
        for i in range(used):
            slot = table[i, 3]
            out[size] = table[slot, :3]
            table[slot, 0] = -1
            size += 1
        count[r] = used


@_jit
def _choose(
    rows: NDArray[np.int64],
    edges: Any,
    state: Any,
    arrived: Any,
    table: NDArray[np.int64],
    stream: np.uint32,
    key_2: NDArray[np.uint32],
    loss: int,
    label_R: NDArray[np.int64],
    score_R: NDArray[np.int64],
) -> None:
    """Choose the label of each master, from its neighbours here and what mirrors have sent.

    Shape:
        label_R, score_R: (R,), those that rows have; replaced.
    """
    indptr, order, start, count, found = arrived
    for r in range(rows.shape[0]):
        row = rows[r]
        used = _add_neighbours(row, edges, state, table)
        for at in range(indptr[row], indptr[row + 1]):
            first = start[order[at]]
            for i in range(first, first + count[order[at]]):
                used = _add(table, used, found[i, 0], found[i, 1], found[i, 2])
        own, best, most, rank = label_R[r], np.int64(-1), np.int64(0), np.uint64(0)
        reached = np.int64(0)
        for i in range(used):
            slot = table[i, 3]
            label, amount = table[slot, 0], table[slot, 1]
            if amount > 0 and amount >= most:
                drawn = hash_key(np.uint64(label), stream, key_2[0], key_2[1])
                if label == own:
                    drawn = np.uint64(0xFFFFFFFFFFFFFFFF)
                if amount > most or drawn > rank or (drawn == rank and label < best):
                    best, most, rank, reached = label, amount, drawn, table[slot, 2]
            table[slot, 0] = -1
        if best >= 0:
            label_R[r] = best
            score_R[r] = reached if best == own else max(reached - loss, np.int64(0))
