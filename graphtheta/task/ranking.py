"""Ranking every node as the other end of an edge, filtered, in bounded memory.

For an edge (s, r, t) all nodes are ranked as its destination, by the score of (s, r, node), and all
as its source. Other nodes that make an edge of the graph, in whatever split, do not count: to rank
one of them higher is no mistake ("filtered"). Nodes of equal score share the mean of their ranks;
scores count as equal within rounding (64 units in the last place of the true edge's score, or of
1), so that the metrics do not depend on which worker multiplies what.

Each worker ranks its own masters, a block of them at a time, for some edges of all workers at a
time; what travels is an embedding an edge and the counts of who scored higher.

Source: Bordes et al., "Translating embeddings for modeling multi-relational data", NeurIPS 2013
(filtered ranks); Sun, Vashishth, Sanyal, Talukdar, Yang, "A re-evaluation of knowledge graph
completion methods", ACL 2020 (ties).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import stretches
from graphtheta.exchange.directory import rank_and_row
from graphtheta.exchange.rows import send_rows
from graphtheta.shard.shard import Shard
from graphtheta.task.edge_targets import ends_of, in_rounds
from graphtheta.task.pair_scorer import PairScorer

__all__ = ["HITS", "Ranking"]

HITS = (1, 3, 10)
_STAGE = "rank"
_QUERIES = 1024  # over all workers
_CANDIDATES = 4096
_ULPS = 64
_SIDES: tuple[Literal["dst", "src"], ...] = ("dst", "src")


class Ranking:
    """Ranks the ends of edges of a graph.

    Args:
        shard: With all edges of the graph; making one is collective.
        relation: (E,) of each edge, or None.
        num_relations: At least 1.

    Communication:
        48 bytes an edge when it is made: each is known to the owners of both ends.
    """

    def __init__(
        self, shard: Shard, relation: NDArray[np.int64] | None, num_relations: int
    ) -> None:
        self._shard, self._relation, self._num_relations = shard, relation, num_relations
        ends = ends_of(shard, np.arange(shard.num_edges))
        self._known = {
            side: self._edges_of_owners(ends[:, fixed], ends[:, 1 - fixed])
            for side, fixed in (("dst", 0), ("src", 1))
        }

    def _edges_of_owners(
        self, fixed: NDArray[np.int64], answer: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, of edges whose answer is a master here, query and answer, sorted by query."""
        shard = self._shard
        owner, place = rank_and_row(shard.owner_locations[answer])
        query = self._codes(shard.node_key_L[fixed], self._relation)
        rows = np.stack([query, place], axis=1)
        mine = np.concatenate(send_rows(shard.comm, owner, rows, stage=_STAGE))
        mine = mine[np.argsort(mine[:, 0], kind="stable")]
        return np.ascontiguousarray(mine[:, 0]), np.ascontiguousarray(mine[:, 1])

    def _codes(
        self, keys: NDArray[np.int64], relation: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        return keys * self._num_relations + (0 if relation is None else relation)

    def __call__(
        self, edges: NDArray[np.int64], outputs: Tensor, scorer: PairScorer
    ) -> dict[str, float]:
        """Return `mrr` and `hits@k` over both ends of edges of all workers; collective.

        Args:
            edges: (T,) places of this worker's; on all workers at least one.
            outputs: (M, F) embeddings of the masters.
            scorer: What scores pairs, one number each.

        Communication:
            F + 2 numbers an edge and end to all workers, and two counts.
        """
        shard, total, count = self._shard, np.zeros(1 + len(HITS)), 0
        nodes = ends_of(shard, edges)
        size = max(1, _QUERIES // shard.comm.size)
        for some, src, dst in in_rounds(shard.owner_locations[nodes], outputs, shard, size):
            of = None if self._relation is None else self._relation[edges[some]]
            with torch.no_grad():
                true = scorer(src, dst, None if of is None else shard.to_device(of))
                for side, fixed in zip(_SIDES, (0, 1), strict=True):
                    query = self._codes(shard.node_key_L[nodes[some, fixed]], of)
                    ranks = self._ranks(query, (src, dst)[fixed], true, side, outputs, scorer)
                    total += [(1 / ranks).sum(), *((ranks <= k).sum() for k in HITS)]
                    count += len(ranks)
        names = ("mrr", *(f"hits@{k}" for k in HITS))
        return dict(zip(names, (total / count).tolist(), strict=True))

    def _ranks(
        self,
        query: NDArray[np.int64],
        fixed: Tensor,
        true: Tensor,
        side: Literal["dst", "src"],
        outputs: Tensor,
        scorer: PairScorer,
    ) -> NDArray[np.float64]:
        """Return the ranks of the queries of all workers, on all of them."""
        comm = self._shard.comm
        numbers = torch.cat([fixed, true], dim=1).cpu().contiguous().numpy()
        every = torch.from_numpy(np.concatenate(comm.all_gather(numbers, stage=_STAGE)))
        queries = np.concatenate(comm.all_gather(query, stage=_STAGE))
        every = every.to(outputs.device)
        fixed, true = every[:, :-1], every[:, -1:]
        relation = None
        if self._relation is not None:
            relation = self._shard.to_device(queries % self._num_relations)
        which, place = self._others(side, queries)
        slack = _ULPS * torch.finfo(true.dtype).eps * true.abs().clamp(min=1)
        counts = torch.zeros((len(queries), 2), dtype=torch.int64, device=outputs.device)
        for first in range(0, len(outputs), _CANDIDATES):
            block = outputs[first : first + _CANDIDATES]
            table = scorer.decoder.table(fixed, block, relation, candidate_is=side)
            known = slice(*np.searchsorted(place, [first, first + _CANDIDATES]))
            hidden = (which[known], place[known] - first)
            table[tuple(self._shard.to_device(at) for at in hidden)] = -torch.inf
            counts[:, 0] += (table > true + slack).sum(1)
            counts[:, 1] += ((table - true).abs() <= slack).sum(1)
        found = counts.cpu().numpy()
        comm.all_reduce(found, stage=_STAGE)
        ranks: NDArray[np.float64] = 1 + found[:, 0] + found[:, 1] / 2
        return ranks

    def _others(
        self, side: Literal["dst", "src"], queries: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which masters make an edge with which query, ascending by master."""
        known, place = self._known[side]
        first = np.searchsorted(known, queries)
        count = np.searchsorted(known, queries, side="right") - first
        which = np.repeat(np.arange(len(queries)), count)
        masters = place[stretches(first, count)]
        order = np.argsort(masters, kind="stable")
        return which[order], masters[order]
