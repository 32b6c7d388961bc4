"""The graph of a run: opened as its configuration says, by all workers together."""

from __future__ import annotations

from typing import NamedTuple

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.data.encode.recipe import Recipe
from graphtheta.datasets.store_cache import open_input
from graphtheta.run.config import RunConfig
from graphtheta.shard.open import open_shard, pick_device
from graphtheta.shard.shard import Shard

__all__ = ["RunGraph", "open_graph", "open_run_graph"]


class RunGraph(NamedTuple):
    """Graph of a run, which several runs can train on one after the other.

    Attributes:
        groups: The workers.
        shard: This worker's share of the graph.
    """

    groups: Groups
    shard: Shard


def open_run_graph(config: RunConfig, comm: Communicator) -> RunGraph:
    """Open the input of a run, and partition it first if it is not a store; collective."""
    groups = Groups(comm, config.groups)
    if groups.index:
        comm.barrier(stage="input of the first group")  # which may partition it
    shard = open_graph(config, config.input, groups.comm, config.device)
    if not groups.index and groups.number > 1:
        comm.barrier(stage="input of the first group")
    return RunGraph(groups, shard)


def open_graph(
    config: RunConfig,
    source: str,
    comm: Communicator,
    device: str,
    like: Recipe | None = None,
) -> Shard:
    """Open a graph as a run does, and partition it first if it is not a store; collective."""
    chosen = pick_device(device, comm)  # may fail, so before the input is partitioned
    store = open_input(
        source,
        comm,
        method=config.method,
        undirected=config.undirected,
        add_reverse=config.add_reverse,
        drop_self_loops=config.drop_self_loops,
        drop_duplicates=config.drop_duplicates,
        drop_unknown=config.drop_unknown,
        like=like,
    )
    return open_shard(store, comm, device=chosen)
