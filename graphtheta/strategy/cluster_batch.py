"""Cluster-batch: a few communities a step, alone or with what is around them.

Source: Chiang et al., "Cluster-GCN", KDD 2019: communities alone, `boundary_hops` = 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.routes import carry_rows
from graphtheta.errors import ConfigError
from graphtheta.permutation import Permutation
from graphtheta.random import Purpose
from graphtheta.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, in_part
from graphtheta.strategy.label_propagation import LabelPropagation
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.tgar import Degrees, Marks, Neighbourhoods, View

__all__ = ["ClusterBatch"]

_STAGE = "prepare clusters"


class ClusterBatch:
    """The training nodes of communities, in an order that is drawn anew each epoch.

    Only communities with a training node count. A node is computed from the in-edges whose sources
    are in the step's communities, or within `boundary_hops` in-hops of them.

    Parts of a step are whole communities, so that little is computed for two of them.

    Args:
        clusters_per_batch: Communities of a step; the last step of an epoch has what is left.
        communities: Name of communities in the store; "hanp" or a `LabelPropagation`, which finds
            them before training; or an array of one number a node, in node_key order.
        boundary_hops: 0 reads the communities' nodes alone, as Cluster-GCN does; as many as the
            model has graph layers is exact.
        only: The communities to train on, by number; None: all.
        renormalise: Whether degrees and the columns of self-loops are those of the step's subgraph,
            as Cluster-GCN has them, and not of the whole graph.

    Raises:
        ConfigError: If a number is too small, or `only` is empty.
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
        if clusters_per_batch < 1:
            raise ConfigError(
                f"cluster-batch: expected clusters_per_batch >= 1, got {clusters_per_batch}."
            )
        if boundary_hops < 0:
            raise ConfigError(f"cluster-batch: expected boundary_hops >= 0, got {boundary_hops}.")
        if only is not None and not len(only):
            raise ConfigError("cluster-batch: expected communities in only, got none. Name some.")
        self.clusters_per_batch, self.boundary_hops = clusters_per_batch, boundary_hops
        self.communities = LabelPropagation() if _is_hanp(communities) else communities
        self.only = None if only is None else np.unique(np.asarray(list(only), np.int64))
        self.renormalise = renormalise

    def schedule(
        self,
        shard: Shard,
        train_rows: Tensor,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Steps:
        """Return the steps of each epoch; see `Strategy`.

        Raises:
            ConfigError: If the communities or `only` do not fit the graph, or none of them has a
                training node.
            StoreError: If the store's communities are damaged.
        """
        neighbourhoods = Neighbourhoods(shard, comm)
        comm = neighbourhoods.comm
        is_target = np.zeros(shard.num_masters, np.bool_)
        is_target[train_rows.cpu().numpy()] = True
        clusters = _Clusters(shard, comm, self._labels(shard, comm, seed), is_target, self.only)
        marks, size = Marks(shard, comm), self.clusters_per_batch
        steps = -(-clusters.number // size)
        fanouts = [None] * (layers + self.renormalise)

        def batch(
            step: int,
            members: NDArray[np.int64],
            place: NDArray[np.int64],
            size: int,
            part: int = 0,
            parts: int = 1,
        ) -> Batch:
            some = members[in_part(place, size, part, parts)]
            some = some[some < shard.num_masters]
            targets = np.sort(some[is_target[some]])
            with marks.around(members, self.boundary_hops) as allowed:
                blocks = neighbourhoods.blocks(
                    targets, fanouts, seed=seed, step=step, allowed=allowed
                )
            degrees = Degrees(blocks.pop(0)) if self.renormalise else None
            return Batch(
                View(shard, seed=seed, step=step, blocks=blocks, degrees=degrees),
                targets=shard.place(targets),
                rows=torch.arange(len(targets), device=shard.device),
            )

        def epoch_steps(epoch: int) -> Iterator[Step]:
            order = Permutation(clusters.number, seed, Purpose.BATCH, step=epoch)
            for number in range(steps):
                chosen = np.arange(number * size, min((number + 1) * size, clusters.number))
                members, place = clusters.members(order.inverse(chosen))
                yield partial(batch, epoch * steps + number, members, place, len(chosen))

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


def _is_hanp(communities: Any) -> bool:
    return isinstance(communities, str) and communities == "hanp"


class _Clusters:
    """The communities with training nodes, by dense rank, and the replicas in each.

    Attributes:
        number: How many there are, over all workers.

    Communication:
        As of `dense_ranks`, and 8 bytes a mirror.
    """

    def __init__(
        self,
        shard: Shard,
        comm: Communicator,
        labels: NDArray[np.int64],
        is_target: NDArray[np.bool_],
        only: NDArray[np.int64] | None,
    ) -> None:
        counted = is_target
        if only is not None:
            _refuse_unknown(only, labels, comm)
            counted = is_target & np.isin(labels, only)
        bound = np.array([labels.max(initial=-1) + 1])
        comm.all_reduce(bound, "max", stage=_STAGE)
        rank_M, self.number = dense_ranks(labels, int(bound[0]), comm, counted)
        if not self.number:
            where = "any" if only is None else "only"
            raise ConfigError(
                f"cluster-batch: expected a training node in {where} of the communities, got none. "
                "Choose others, or mark nodes as train."
            )
        route = shard.plan.mirrors
        rank_H = np.empty(route.num_mirrors, np.int64)
        carry_rows(comm, rank_M[route.master_S], rank_H, route, to_mirrors=True, stage=_STAGE)
        rank_L = np.concatenate([rank_M, rank_H])
        self._order = np.argsort(rank_L, kind="stable")[np.count_nonzero(rank_L < 0) :]
        self._ranks = rank_L[self._order]

    def members(self, ranks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the local ids of all replicas of some communities' nodes.

        Args:
            ranks: (C,) of the communities.

        Shape:
            Returns (R,) int64 ids, and (R,) int64 which of `ranks` each is in.
        """
        first = np.searchsorted(self._ranks, ranks)
        count = np.searchsorted(self._ranks, ranks, side="right") - first
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        members: NDArray[np.int64] = self._order[np.repeat(first, count) + within]
        return members, np.repeat(np.arange(len(ranks)), count)


def _refuse_unknown(only: NDArray[np.int64], labels: NDArray[np.int64], comm: Communicator) -> None:
    present = np.isin(only, labels).astype(np.int8)
    comm.all_reduce(present, "max", stage=_STAGE)
    if not present.all():
        raise ConfigError(
            f"cluster-batch: expected communities of the graph in only, got "
            f"{only[present == 0].tolist()}, which have no node. Leave them out."
        )
