"""Filtered ranks of edges among all possible destinations and sources, in bounded memory.

For an edge (s, r, t), all nodes are ranked as its destination by the score of (s, r, node), and all
as its source, as is usual for knowledge graphs; or only candidates, such as all items if an edge
leads from a user to an item. Nodes that form another edge of the graph, in any split, are left out,
since a high score of theirs is no mistake ("filtered"). Nodes of equal score share the mean of
their ranks. Scores are equal if they differ by at most 64 units in the last place of the true
edge's score, or of 1, so that the metrics do not depend on the rounding on different workers.

Each worker scores its own masters, a chunk of them at a time, against a chunk of the edges of all
workers. The workers exchange one embedding per edge, and the numbers of nodes that score higher.

Source: Bordes et al., "Translating embeddings for modeling multi-relational data", NeurIPS 2013
(filtered ranks); Sun, Vashishth, Sanyal, Talukdar, Yang, "A re-evaluation of knowledge graph
completion methods", ACL 2020 (ties).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import concatenated_ranges
from graphtheta.exchange.directory import rank_and_row
from graphtheta.exchange.rows import send_rows
from graphtheta.nn.decoders import Endpoint
from graphtheta.shard.shard import Shard
from graphtheta.task.candidates import Candidates, endpoints
from graphtheta.task.edge_targets import fetch_endpoints
from graphtheta.task.pair_scorer import PairScorer

__all__ = ["HITS", "Ranking"]

Ints = NDArray[np.int64]
HITS = (1, 3, 10)
_STAGE = "rank"
_QUERIES = 1024  # edges that are ranked at a time, over all workers
_CANDIDATES = 4096  # masters of a worker that are scored at a time
_ULPS = 64
_SIDES: tuple[Endpoint, ...] = ("dst", "src")


class Ranking:
    """Ranks of edges of a graph; construction is collective.

    Args:
        shard: Shard with all edges of the graph.
        relation: (E,) relation of each edge, or None.
        num_relations: Number of relations, at least 1.
        candidates: Nodes to rank edges among. If None, all nodes.
        edges: (K,) positions of the edges of this worker that are left out of the ranks of others.
            If None, all edges.
        names: Names of the metrics, `mrr` and `hits@N`. If None, `mrr` and hits@1, 3 and 10.

    Communication:
        48 bytes an edge in construction: the owners of both endpoints keep each edge.
    """

    def __init__(
        self,
        shard: Shard,
        relation: Ints | None,
        num_relations: int,
        candidates: Candidates | None = None,
        edges: Ints | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self._names = ("mrr", *(f"hits@{k}" for k in HITS)) if names is None else tuple(names)
        self._shard, self._relation, self._num_relations = shard, relation, num_relations
        self._candidates = candidates
        edges = np.arange(shard.num_edges) if edges is None else edges
        nodes, known = endpoints(shard, edges), None if relation is None else relation[edges]
        self._known = {
            side: self._edges_by_answer(nodes[:, fixed], nodes[:, 1 - fixed], known)
            for side, fixed in (("dst", 0), ("src", 1))
        }

    def _edges_by_answer(
        self, fixed: Ints, answer: Ints, relation: Ints | None
    ) -> tuple[Ints, Ints]:
        """Send edges to the owners of their answers; return query and master, sorted by query."""
        shard = self._shard
        owner, master = rank_and_row(shard.owner_locations[answer])
        query = self._codes(shard.node_key_L[fixed], relation)
        rows = np.stack([query, master], axis=1)
        mine = np.concatenate(send_rows(shard.comm, owner, rows, stage=_STAGE))
        mine = mine[np.argsort(mine[:, 0], kind="stable")]
        return np.ascontiguousarray(mine[:, 0]), np.ascontiguousarray(mine[:, 1])

    def _codes(self, keys: Ints, relation: Ints | None) -> Ints:
        return keys * self._num_relations + (0 if relation is None else relation)

    def __call__(self, edges: Ints, outputs: Tensor, scorer: PairScorer) -> dict[str, float]:
        """Return the metrics over both endpoints of edges of all workers; collective.

        Args:
            edges: (T,) positions of this worker's edges; there is one on at least one worker.
            outputs: (M, F) embeddings of the masters.
            scorer: Scorer of pairs, with one output.

        Communication:
            F + 2 numbers for each edge and endpoint to all workers, one more with candidates, and
            two counts.
        """
        shard, total, count = self._shard, np.zeros(len(self._names)), 0
        nodes = endpoints(shard, edges)
        groups = None if self._candidates is None else self._candidates.groups(shard, edges)
        size = max(1, _QUERIES // shard.comm.size)
        for some, src, dst in fetch_endpoints(shard.owner_locations[nodes], outputs, shard, size):
            relation = None if self._relation is None else self._relation[edges[some]]
            with torch.no_grad():
                true = scorer(src, dst, None if relation is None else shard.to_device(relation))
                for side, fixed in zip(_SIDES, (0, 1), strict=True):
                    query = self._codes(shard.node_key_L[nodes[some, fixed]], relation)
                    group = None
                    if groups is not None:
                        group = np.ascontiguousarray(groups[some, 1 - fixed])
                    ranks = self._ranks(
                        query, group, (src, dst)[fixed], true, side, outputs, scorer
                    )
                    total += [_sum_of(name, ranks) for name in self._names]
                    count += len(ranks)
        return dict(zip(self._names, (total / count).tolist(), strict=True))

    def _ranks(
        self,
        query: Ints,
        group: Ints | None,
        fixed: Tensor,
        true: Tensor,
        side: Endpoint,
        outputs: Tensor,
        scorer: PairScorer,
    ) -> NDArray[np.float64]:
        """Return the ranks of the queries of all workers, on every worker."""
        comm = self._shard.comm
        numbers = torch.cat([fixed, true], dim=1).cpu().contiguous().numpy()
        every = torch.from_numpy(np.concatenate(comm.all_gather(numbers, stage=_STAGE)))
        queries = np.concatenate(comm.all_gather(query, stage=_STAGE))
        groups = None if group is None else np.concatenate(comm.all_gather(group, stage=_STAGE))
        every = every.to(outputs.device)
        fixed, true = every[:, :-1], every[:, -1:]
        relation = None
        if self._relation is not None:
            relation = self._shard.to_device(queries % self._num_relations)
        which, master = self._other_edges(side, queries)
        slack = _ULPS * torch.finfo(true.dtype).eps * true.abs().clamp(min=1)
        counts = torch.zeros((len(queries), 2), dtype=torch.int64, device=outputs.device)
        for first in range(0, len(outputs), _CANDIDATES):
            chunk = outputs[first : first + _CANDIDATES]
            table = scorer.decoder.table(fixed, chunk, relation, side)
            known = slice(*np.searchsorted(master, [first, first + _CANDIDATES]))
            filtered = (which[known], master[known] - first)
            table[tuple(self._shard.to_device(index) for index in filtered)] = -torch.inf
            if groups is not None and self._candidates is not None:
                allowed = self._candidates.are_members(groups, first, first + len(chunk))
                table[self._shard.to_device(~allowed)] = -torch.inf
            counts[:, 0] += (table > true + slack).sum(1)
            counts[:, 1] += ((table - true).abs() <= slack).sum(1)
        found = counts.cpu().numpy()
        comm.all_reduce(found, stage=_STAGE)
        ranks: NDArray[np.float64] = 1 + found[:, 0] + found[:, 1] / 2
        return ranks

    def _other_edges(self, side: Endpoint, queries: Ints) -> tuple[Ints, Ints]:
        """Return the queries and masters that form an edge of the graph, ascending by master."""
        known, master_of = self._known[side]
        first = np.searchsorted(known, queries)
        count = np.searchsorted(known, queries, side="right") - first
        which = np.repeat(np.arange(len(queries)), count)
        masters = master_of[concatenated_ranges(first, count)]
        order = np.argsort(masters, kind="stable")
        return which[order], masters[order]


def _sum_of(name: str, ranks: NDArray[np.float64]) -> float:
    """Return the sum over ranks whose mean is a metric."""
    if name == "mrr":
        return float((1 / ranks).sum())
    return float((ranks <= int(name.removeprefix("hits@"))).sum())
