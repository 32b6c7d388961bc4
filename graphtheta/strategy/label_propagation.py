"""Communities by label propagation with hop attenuation and node preference (HANP).

Each node starts with a label of its own, its node_key, and score 1. In a round, a node takes the
label with the largest sum of score x degree^preference over its neighbours. Its score becomes the
largest score of that label among them, less `attenuation` if the label is new to the node, so that
labels weaken as they spread. Edges count in both directions, parallel edges count each, and
self-loops do not count.

A round has two halves. In each half one half of the nodes, drawn by node_key, is updated: if all
nodes were, the two sides of a bipartite component could swap labels for ever. On a tie a node keeps
its own label if that is among the best, and otherwise takes one drawn by label. Scores are integer
multiples of 2^-16 and degree^preference of 2^-8, so that sums are exact in any order (below 2^38
edges) and the same on any number of workers.

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

Ints = NDArray[np.int64]
_STAGE = "label propagation"
_ONE = 1 << 16  # a score of 1
_UNIT = 1 << 8  # a preference of 1
_LEAST_CHANGED = 0.001  # share of the nodes: rounds end after one that changes fewer labels

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@dataclass(frozen=True)
class LabelPropagation:
    """Community detection by label propagation; calling it returns the communities.

    Attributes:
        rounds: Largest number of rounds. Each round updates every node once.
        attenuation: Loss of a label's score when a node takes the label, in [0, 1).
        preference: Exponent of a neighbour's degree in the weight of its label, in [-1, 1].

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

    def __call__(self, shard: Shard, comm: Communicator, seed: int) -> Ints:
        """Return the community of each master, as the node_key its label started at; collective.

        Shape:
            Returns (M,) int64 node keys.

        Communication:
            Per round, 48 bytes a mirror, and 24 bytes for each distinct label among its neighbours
            on the same worker: at most two an edge, and few after the first rounds.
        """
        labels = _Labels(shard, comm, self.preference)
        attenuation = round(self.attenuation * _ONE)
        for number in range(self.rounds):
            changed = sum(labels.update_half(seed, number, half, attenuation) for half in (0, 1))
            if changed <= _LEAST_CHANGED * shard.manifest.num_nodes:
                break
        return labels.label_L[: shard.num_masters]


class _Labels:
    """Labels and scores of this worker's replicas.

    Attributes:
        label_L: (L,) int64.
        score_L: (L,) int64.
        weight_L: (L,) int64: degree^preference.
    """

    def __init__(self, shard: Shard, comm: Communicator, preference: float) -> None:
        self._shard, self._comm, self._route = shard, comm, shard.plan.mirrors
        num_masters = shard.num_masters
        degrees_M = [shard.node_column(f"{way}_degree").cpu().numpy() for way in ("in", "out")]
        degree_L = np.zeros(num_masters + shard.num_mirrors, np.int64)
        degree_L[:num_masters] = degrees_M[0] + degrees_M[1]
        self._sync(degree_L)
        degrees, at = np.unique(degree_L, return_inverse=True)
        # Not vectorised: the last bit of a power may depend on a number's position in the vector.
        powers = [max(1, round(_UNIT * max(d, 1) ** preference)) for d in degrees.tolist()]
        self.weight_L = np.array(powers, np.int64)[at]
        self.label_L = shard.node_key_L.astype(np.int64)
        self.score_L = np.full(len(self.label_L), _ONE, np.int64)
        into, out = shard.in_edges, shard.out_edges
        self._edges = (into.indptr, into.other, out.indptr, out.other)
        mirrored = RoutePositions(self._route, num_masters)
        self._mirrors_of = mirrored.indptr, mirrored.positions
        self._num_edges_L = np.diff(out.indptr)  # of each replica on this worker
        self._num_edges_L[: into.num_rows] += np.diff(into.indptr)

    def update_half(self, seed: int, number: int, half: int, attenuation: int) -> int:
        """Update one half of the nodes; return how many of all workers changed their label."""
        route, num_masters = self._route, self._shard.num_masters
        draws = hash_keys(self._shard.node_key_L, seed, Purpose.COMMUNITY, step=2 * number)
        updated = draws >> np.uint64(63) == half
        count_S, received = self._send_to_owners(updated)
        masters = np.flatnonzero(updated[:num_masters])
        start_S = np.cumsum(count_S) - count_S
        num_received = np.bincount(route.master_S, weights=count_S, minlength=num_masters)
        label, score = self.label_L[masters], self.score_L[masters]
        _choose_labels(
            masters,
            self._edges,
            (self.label_L, self.score_L, self.weight_L),
            (*self._mirrors_of, start_S, count_S, received),
            _table(self._num_edges_L[masters] + num_received[masters].astype(np.int64)),
            stream_id(Purpose.COMMUNITY),
            step_key(seed, 2 * number + 1),
            attenuation,
            label,
            score,
        )
        changed = np.array([np.count_nonzero(label != self.label_L[masters])], np.int64)
        self.label_L[masters], self.score_L[masters] = label, score
        self._sync(self.label_L)
        self._sync(self.score_L)
        self._comm.all_reduce(changed, stage=f"{_STAGE}: changed")
        return int(changed[0])

    def _send_to_owners(self, updated: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Send the labels of the neighbours of updated mirrors to the mirrors' owners.

        Shape:
            Returns (S,) int64, number of labels received for each master of the route, and (n, 3)
            int64: labels, sums, and largest scores.
        """
        route, num_masters = self._route, self._shard.num_masters
        mirrors = num_masters + np.flatnonzero(updated[num_masters:])
        num_edges = self._num_edges_L[mirrors]
        out, count = np.empty((int(num_edges.sum()), 3), np.int64), np.empty(len(mirrors), np.int64)
        state = self.label_L, self.score_L, self.weight_L
        _list_labels(mirrors, self._edges, state, _table(num_edges), count, out)
        count_H = np.zeros(route.num_mirrors, np.int64)
        count_H[mirrors - num_masters] = count
        count_S = np.empty(len(route.master_S), np.int64)
        stage = f"{_STAGE}: sizes"
        exchange_rows(self._comm, count_H, count_S, route, to_mirrors=False, stage=stage)
        received = np.empty((int(count_S.sum()), 3), np.int64)
        self._comm.exchange(
            _by_peer(out, count_H, route.mirror_slices),
            _by_peer(received, count_S, route.master_slices),
            stage=_STAGE,
        ).wait()
        return count_S, received

    def _sync(self, column_L: Ints) -> None:
        """Copy masters' values to their mirrors."""
        sent, mirrors = column_L[self._route.master_S], column_L[self._route.num_masters :]
        stage = f"{_STAGE}: sync"
        exchange_rows(self._comm, sent, mirrors, self._route, to_mirrors=True, stage=stage)


def _by_peer(rows: Ints, count_X: Ints, slices: Any) -> dict[int, Ints]:
    """Return the rows of each peer that has any, given their number for each row of a route."""
    last = np.concatenate([[0], np.cumsum(count_X)])
    found = {peer: rows[last[span.start] : last[span.stop]] for peer, span in slices.items()}
    return {peer: some for peer, some in found.items() if len(some)}


# -- loops over edges -----------------------------------------------------------------------------
#
# A hash table adds up the labels of one row at a time. Columns 0 to 2 of a slot are its label (-1
# if it is free), sum of scores and largest score; column 3 lists the slots in use.


def _table(most: Ints) -> Ints:
    """Return an empty table for rows with at most `most` labels each, at least half of it free."""
    table = np.empty((1 << int(2 * most.max(initial=1) - 1).bit_length(), 4), np.int64)
    table[:, 0] = -1
    return table


@_jit
def _add(table: Ints, used: int, label: np.int64, amount: np.int64, score: np.int64) -> int:
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
def _add_neighbours(row: np.int64, edges: Any, state: Any, table: Ints) -> int:
    """Add the labels of a row's neighbours on this worker; return the number of slots in use."""
    in_indptr, src, out_indptr, dst = edges
    label, score, weight = state
    used = 0
    if row < in_indptr.shape[0] - 1:
        for e in range(in_indptr[row], in_indptr[row + 1]):
            j = src[e]
            if j != row:
                used = _add(table, used, label[j], score[j] * weight[j], score[j])
    for e in range(out_indptr[row], out_indptr[row + 1]):
        j = dst[e]
        if j != row:
            used = _add(table, used, label[j], score[j] * weight[j], score[j])
    return used


@_jit
def _list_labels(rows: Ints, edges: Any, state: Any, table: Ints, count: Ints, out: Ints) -> None:
    """List the distinct labels of each row's neighbours, row after row.

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
def _choose_labels(
    rows: Ints,
    edges: Any,
    state: Any,
    received: Any,
    table: Ints,
    stream: np.uint32,
    key_2: NDArray[np.uint32],
    attenuation: int,
    label_R: Ints,
    score_R: Ints,
) -> None:
    """Choose the label of each master from its neighbours here and those of its mirrors.

    Shape:
        label_R, score_R: (R,), present labels and scores of the rows; overwritten.
    """
    indptr, order, start, count, found = received
    for r in range(rows.shape[0]):
        row = rows[r]
        used = _add_neighbours(row, edges, state, table)
        for at in range(indptr[row], indptr[row + 1]):
            first = start[order[at]]
            for i in range(first, first + count[order[at]]):
                used = _add(table, used, found[i, 0], found[i, 1], found[i, 2])
        own, best, most, draw = label_R[r], np.int64(-1), np.int64(0), np.uint64(0)
        reached = np.int64(0)
        for i in range(used):
            slot = table[i, 3]
            label, amount = table[slot, 0], table[slot, 1]
            if amount > 0 and amount >= most:
                drawn = hash_key(np.uint64(label), stream, key_2[0], key_2[1])
                if label == own:
                    drawn = np.uint64(0xFFFFFFFFFFFFFFFF)
                if amount > most or drawn > draw or (drawn == draw and label < best):
                    best, most, draw, reached = label, amount, drawn, table[slot, 2]
            table[slot, 0] = -1
        if best >= 0:
            label_R[r] = best
            score_R[r] = reached if best == own else max(reached - attenuation, np.int64(0))
