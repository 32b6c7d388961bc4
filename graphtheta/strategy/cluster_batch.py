"""Cluster-batch: the targets of a few communities per step.

Source: Chiang et al., "Cluster-GCN", KDD 2019, which is `boundary_hops` = 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import concatenated_ranges
from graphtheta.errors import ConfigError
from graphtheta.exchange.plan import Route
from graphtheta.exchange.rows import exchange_rows
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.shard.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, check_count, in_micro_batch, is_count
from graphtheta.strategy.dense_ids import dense_ids
from graphtheta.strategy.label_propagation import LabelPropagation
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Boundary, Degrees, Neighbourhoods, View
from graphtheta.wording import call_text

__all__ = ["ClusterBatch"]

Ints = NDArray[np.int64]
_STAGE = "prepare clusters"


class ClusterBatch:
    """Strategy with the targets of a few communities per step, in a new random order each epoch.

    An edge is a target of a step if both of its endpoints are in communities of the step.
    Communities without a target are left out. A node is computed from those in-edges whose sources
    are in communities of the step, or within `boundary_hops` in-hops of them. Micro-batches are
    whole communities, so that they share few nodes.

    Args:
        clusters_per_batch: Communities per step. If they do not divide evenly, some steps of an
            epoch have one less.
        communities: Name of communities in the store, such as those that `graphtheta
            communities` finds by default; "hanp" or a `LabelPropagation`, which finds them before
            training; or an array with a number for each node, in node_key order.
        boundary_hops: In-hops around the communities whose nodes are read. 0 is Cluster-GCN; the
            number of graph layers of the model is exact.
        only: Numbers of the communities to train on; if None, all.
        renormalise: Whether degrees and the edge columns of self-loops are those of the step's
            subgraph, as in Cluster-GCN, rather than those of the whole graph.

    Raises:
        ConfigError: If a number is not an integer or is too small, or `only` is empty.
    """

    def __init__(
        self,
        clusters_per_batch: int,
        communities: str | LabelPropagation | NDArray[np.integer[Any]] = "leiden",
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
                "Give a list of their numbers."
            )
        self.clusters_per_batch, self.boundary_hops = clusters_per_batch, boundary_hops
        is_hanp = isinstance(communities, str) and communities == "hanp"
        self.communities = LabelPropagation() if is_hanp else communities
        self.only = None if only is None else np.unique(np.asarray(list(only), np.int64))
        self.renormalise = renormalise

    __repr__ = call_text

    def schedule(
        self,
        shard: Shard,
        targets: Targets,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Steps:
        """Return a function that yields the steps of an epoch; collective.

        Raises:
            ConfigError: If the communities or `only` do not fit the graph, or no community has a
                target.
            StoreError: If the store's communities are damaged.
        """
        neighbourhoods = Neighbourhoods(shard, comm)
        comm = neighbourhoods.comm
        clusters = _Clusters(shard, comm, self._labels(shard, comm, seed), targets, self.only)
        boundary = Boundary(shard, comm)
        num_steps = -(-clusters.number // self.clusters_per_batch)
        fanouts = [None] * (layers + self.renormalise)

        def batch(step: int, ids: Ints, micro_batch: int = 0, num_micro_batches: int = 1) -> Batch:
            members = clusters.members.of(ids)
            positions = np.arange(len(ids))
            every = chosen = clusters.targets(ids, positions)
            if num_micro_batches > 1:
                mine = in_micro_batch(positions, len(ids), micro_batch, num_micro_batches)
                chosen = clusters.targets(ids, mine)
            step_targets = targets.of_step(
                chosen,
                step=step,
                comm=comm,
                candidates=members[members < shard.num_masters],
                masked=every,
            )
            with boundary.around(members, self.boundary_hops) as allowed:
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
            for number in range(num_steps):
                # Even sizes: to Adam, a small last step would count as much as any other step.
                first, end = (n * clusters.number // num_steps for n in (number, number + 1))
                ids = order.inverse(np.arange(first, end))
                yield partial(batch, epoch * num_steps + number, ids)

        return epoch_steps

    def _labels(self, shard: Shard, comm: Communicator, seed: int) -> Ints:
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


class _ItemsById:
    """Index of the items with a given dense id; items with a negative id are left out."""

    def __init__(self, ids: Ints) -> None:
        self._order = np.argsort(ids, kind="stable")[np.count_nonzero(ids < 0) :]
        self._ids = ids[self._order]

    def of(self, ids: Ints) -> Ints:
        """Return the positions of the items with one of `ids`."""
        first = np.searchsorted(self._ids, ids)
        count = np.searchsorted(self._ids, ids, side="right") - first
        positions: Ints = self._order[concatenated_ranges(first, count)]
        return positions


class _Clusters:
    """Communities that have targets, by dense id, with their nodes and targets.

    Attributes:
        number: Number of communities, over all workers.
        members: Local ids of all replicas of a community's nodes.

    Communication:
        That of `dense_ids`, and 17 bytes a mirror.
    """

    def __init__(
        self, shard: Shard, comm: Communicator, labels: Ints, targets: Targets, only: Ints | None
    ) -> None:
        nodes, route = targets.nodes, shard.plan.mirrors
        label_L = _with_mirrors(labels, route, comm)
        inside = (label_L[nodes] == label_L[nodes[:, :1]]).all(axis=1)
        counted = np.zeros(len(label_L), np.bool_)
        counted[nodes[inside, 0]] = True
        if only is not None:
            _refuse_unknown(only, labels, comm)
            counted &= np.isin(label_L, only)
        counted_S = np.empty(len(route.master_S), np.bool_)
        mirrors = counted[shard.num_masters :]
        exchange_rows(comm, mirrors, counted_S, route, to_mirrors=False, stage=_STAGE)
        counted[route.master_S[counted_S]] = True
        bound = np.array([labels.max(initial=-1) + 1])
        comm.all_reduce(bound, "max", stage=_STAGE)
        id_M, self.number = dense_ids(labels, int(bound[0]), comm, counted[: shard.num_masters])
        if not self.number:
            where = "any" if only is None else "only"
            raise ConfigError(
                f"cluster-batch: expected a training target in {where} of the communities, got "
                "none. Choose other communities, or add targets to the training split."
            )
        id_L = _with_mirrors(id_M, route, comm)
        self.members = _ItemsById(id_L)
        self._id_TJ = id_L[nodes]
        self._targets = _ItemsById(self._id_TJ[:, 0])

    def targets(self, ids: Ints, some: Ints) -> Ints:
        """Return the targets whose nodes are all in some communities, ascending.

        Args:
            ids: (C,) dense ids of the communities.
            some: Indices into `ids` of the communities that a target's first node must be in.
        """
        found = self._targets.of(ids[some])
        return np.sort(found[np.isin(self._id_TJ[found], ids).all(axis=1)])


def _with_mirrors(rows_M: Ints, route: Route, comm: Communicator) -> Ints:
    rows_H = np.empty(route.num_mirrors, np.int64)
    exchange_rows(comm, rows_M[route.master_S], rows_H, route, to_mirrors=True, stage=_STAGE)
    return np.concatenate([rows_M, rows_H])


def _refuse_unknown(only: Ints, labels: Ints, comm: Communicator) -> None:
    present = np.isin(only, labels).astype(np.int8)
    comm.all_reduce(present, "max", stage=_STAGE)
    if not present.all():
        raise ConfigError(
            f"cluster-batch: expected communities of the graph in only, got "
            f"{only[present == 0].tolist()}, which have no nodes. Leave them out."
        )
