"""Cluster-batch: a few communities a step, alone or with what is around them.

Source: Chiang et al., "Cluster-GCN", KDD 2019: communities alone, `boundary_hops` = 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import stretches
from graphtheta.errors import ConfigError
from graphtheta.exchange.plan import Route
from graphtheta.exchange.rows import exchange_rows
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.shard.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, check_count, in_micro_batch, is_count
from graphtheta.strategy.label_propagation import LabelPropagation
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Boundary, Degrees, Neighbourhoods, View

__all__ = ["ClusterBatch"]

_STAGE = "prepare clusters"


class ClusterBatch:
    """The targets of communities, in an order that is drawn anew each epoch.

    An edge is a target of a step where both of its ends are in the step's communities. Only
    communities with a target of their own count. A node is computed from the in-edges whose sources
    are in the step's communities, or within `boundary_hops` in-hops of them.

    Parts of a step are whole communities, so that little is computed for two of them.

    Args:
        clusters_per_batch: Communities of a step at most; all steps of an epoch have as many, or
            one less.
        communities: Name of communities in the store; "hanp" or a `LabelPropagation`, which finds
            them before training; or an array of one number a node, in node_key order.
        boundary_hops: 0 reads the communities' nodes alone, as Cluster-GCN does; as many as the
            model has graph layers is exact.
        only: The communities to train on, by number; None: all.
        renormalise: Whether degrees and the columns of self-loops are those of the step's subgraph,
            as Cluster-GCN has them, and not of the whole graph.

    Raises:
        ConfigError: If a number is none or too small, or `only` holds none.
    """

    def __init__(
        self,
        clusters_per_batch: int,
        communities: str | LabelPropagation | NDArray[np.integer[Any]] = "louvain",
        *,
        boundary_hops: int = 0,
        only: Collection[int] | None = None,
        renormalise: bool = False,
    ) -> None:
        check_count(clusters_per_batch, 1, "clusters_per_batch", "cluster-batch")
        check_count(boundary_hops, 0, "boundary_hops", "cluster-batch")
        if only is not None and not _are_communities(only):
            none = isinstance(only, Collection) and not len(only)
            raise ConfigError(
                f"cluster-batch: expected communities in only, got {'none' if none else only}. "
                "Name some, by number."
            )
        self.clusters_per_batch, self.boundary_hops = clusters_per_batch, boundary_hops
        self.communities = LabelPropagation() if _is_hanp(communities) else communities
        self.only = None if only is None else np.unique(np.asarray(list(only), np.int64))
        self.renormalise = renormalise

    def schedule(
        self,
        shard: Shard,
        targets: Targets,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Steps:
        """Return the steps of each epoch; see `Strategy`.

        Raises:
            ConfigError: If the communities or `only` do not fit the graph, or none of them has a
                target.
            StoreError: If the store's communities are damaged.
        """
        neighbourhoods = Neighbourhoods(shard, comm)
        comm = neighbourhoods.comm
        clusters = _Clusters(shard, comm, self._labels(shard, comm, seed), targets, self.only)
        marks = Boundary(shard, comm)
        steps = -(-clusters.number // self.clusters_per_batch)
        fanouts = [None] * (layers + self.renormalise)

        def batch(step: int, ranks: NDArray[np.int64], part: int = 0, parts: int = 1) -> Batch:
            members = clusters.members.of(ranks)
            places = np.arange(len(ranks))
            every = chosen = clusters.targets(ranks, places)
            if parts > 1:
                chosen = clusters.targets(ranks, in_micro_batch(places, len(ranks), part, parts))
            step_targets = targets.of_step(
                chosen,
                seed=seed,
                step=step,
                comm=comm,
                among=members[members < shard.num_masters],
                masked_edges=every,
            )
            with marks.around(members, self.boundary_hops) as allowed:
                blocks = neighbourhoods.blocks(
                    step_targets.seeds,
                    fanouts,
                    seed=seed,
                    step=step,
                    allowed=allowed,
                    masked_edges=step_targets.masked_edges,
                )
            degrees = Degrees(blocks.pop(0)) if self.renormalise else None
            return Batch.of(
                View(shard, seed=seed, step=step, blocks=blocks, degrees=degrees), step_targets
            )

        def epoch_steps(epoch: int) -> Iterator[Step]:
            order = Permutation(clusters.number, seed, Purpose.BATCH, step=epoch)
            for number in range(steps):
                # Of even sizes: a last step of one community is as large for Adam as any other.
                first, end = (n * clusters.number // steps for n in (number, number + 1))
                chosen = np.arange(first, end)
                yield partial(batch, epoch * steps + number, order.inverse(chosen))

        return epoch_steps

    def _labels(self, shard: Shard, comm: Communicator, seed: int) -> NDArray[np.int64]:
        """Return the community of each master: (M,) int64."""
        if isinstance(self.communities, str):
            return shard.communities(self.communities)
        if isinstance(self.communities, LabelPropagation):
            return self.communities(shard, comm, seed)
        given, num_nodes = np.asarray(self.communities), shard.manifest.num_nodes
        if given.shape != (num_nodes,) or given.dtype.kind not in "iu" or given.min() < 0:
            raise ConfigError(
                f"cluster-batch: expected ({num_nodes:,},) integers from 0 as communities, got "
                f"{given.shape} {given.dtype}. Give a number for each node, in node_key order."
            )
        return given[shard.node_key_L[: shard.num_masters]].astype(np.int64)


def _are_communities(values: object) -> bool:
    return (
        isinstance(values, Collection)
        and len(values) > 0
        and all(is_count(value, 0) for value in values)
    )


def _is_hanp(communities: Any) -> bool:
    return isinstance(communities, str) and communities == "hanp"


class _ByRank:
    """What has which rank; ranks below 0 are left out."""

    def __init__(self, ranks: NDArray[np.int64]) -> None:
        self._order = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]
        self._ranks = ranks[self._order]

    def of(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of what has some ranks."""
        first = np.searchsorted(self._ranks, ranks)
        count = np.searchsorted(self._ranks, ranks, side="right") - first
        places: NDArray[np.int64] = self._order[stretches(first, count)]
        return places


class _Clusters:
    """The communities with targets of their own, by dense rank, and what is in each.

    Attributes:
        number: How many there are, over all workers.
        members: The local ids of all replicas of their nodes.

    Communication:
        As of `dense_ranks`, and 17 bytes a mirror.
    """

    def __init__(
        self,
        shard: Shard,
        comm: Communicator,
        labels: NDArray[np.int64],
        targets: Targets,
        only: NDArray[np.int64] | None,
    ) -> None:
        nodes, route = targets.nodes, shard.plan.mirrors
        label_L = _with_mirrors(labels, route, comm)
        inside = (label_L[nodes] == label_L[nodes[:, :1]]).all(axis=1)
        counted = np.zeros(len(label_L), np.bool_)
        counted[nodes[inside, 0]] = True
        if only is not None:
            _refuse_unknown(only, labels, comm)
            counted &= np.isin(label_L, only)
        told = np.empty(len(route.master_S), np.bool_)
        mirrors = counted[shard.num_masters :]
        exchange_rows(comm, mirrors, told, route, to_mirrors=False, stage=_STAGE)
        counted[route.master_S[told]] = True
        bound = np.array([labels.max(initial=-1) + 1])
        comm.all_reduce(bound, "max", stage=_STAGE)
        rank_M, self.number = dense_ranks(labels, int(bound[0]), comm, counted[: shard.num_masters])
        if not self.number:
            where = "any" if only is None else "only"
            raise ConfigError(
                f"cluster-batch: expected a training target in {where} of the communities, got "
                "none. Choose others, or mark more as train."
            )
        rank_L = _with_mirrors(rank_M, route, comm)
        self.members = _ByRank(rank_L)
        self._rank_TJ = rank_L[nodes]
        self._targets = _ByRank(self._rank_TJ[:, 0])

    def targets(self, ranks: NDArray[np.int64], part: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which targets lie in some communities with all of their nodes, ascending.

        Args:
            ranks: (C,) of the communities.
            part: Which of `ranks` a target's first node is to be in.
        """
        found = self._targets.of(ranks[part])
        return np.sort(found[np.isin(self._rank_TJ[found], ranks).all(axis=1)])


def _with_mirrors(rows_M: NDArray[np.int64], route: Route, comm: Communicator) -> NDArray[np.int64]:
    rows_H = np.empty(route.num_mirrors, np.int64)
    exchange_rows(comm, rows_M[route.master_S], rows_H, route, to_mirrors=True, stage=_STAGE)
    return np.concatenate([rows_M, rows_H])


def _refuse_unknown(only: NDArray[np.int64], labels: NDArray[np.int64], comm: Communicator) -> None:
    present = np.isin(only, labels).astype(np.int8)
    comm.all_reduce(present, "max", stage=_STAGE)
    if not present.all():
        raise ConfigError(
            f"cluster-batch: expected communities of the graph in only, got "
            f"{only[present == 0].tolist()}, which have no node. Leave them out."
        )
