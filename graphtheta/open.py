"""Opening a shard: of a store on disk, or of a graph that is partitioned on the spot."""

from __future__ import annotations

from pathlib import Path

from graphtheta.allocator import keep_freed_memory
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.partition import GraphSource, Plan, Resources, Store, build, open_store
from graphtheta.shard import Shard

__all__ = ["open_shard"]


def open_shard(
    graph: GraphSource | Store | str | Path,
    comm: Communicator | None = None,
    *,
    method: str = "node-hash",
    seed: int = 0,
    undirected: bool = False,
) -> Shard:
    """Open this worker's share of a graph; collective.

    The process keeps freed memory from here on (`graphtheta.allocator`).

    Args:
        graph: A `Graph` or another source of rows, which is partitioned on the spot into one part a
            worker; or a store, opened or as a path, whose parts are shared out evenly.
        comm: The workers; None: this process alone.
        method: Partitioner for a graph that is not a store.
        seed: Of that partitioner.
        undirected: Whether that partitioner adds the reverse of every edge.

    Raises:
        ConfigError: If the workers do not divide the store's parts.
        StoreError: If the store is missing or damaged.
        GraphFormatError: If the graph is wrong.
    """
    comm = comm or SingleCommunicator()
    keep_freed_memory()
    if isinstance(graph, str | Path):
        graph = open_store(Path(graph), parts=())  # `part` checks the ones that are opened
    if isinstance(graph, Store):
        if graph.num_parts % comm.size:
            raise ConfigError(
                f"open_shard: {comm.size} workers do not divide the {graph.num_parts} parts of "
                f"{graph.path}. Use a number of workers that does, or partition it again with "
                f"--parts {comm.size}."
            )
        share = graph.num_parts // comm.size
        mine = range(comm.rank * share, (comm.rank + 1) * share)
        return Shard([graph.part(k) for k in mine], graph.manifest, graph.book, comm)
    plan = Plan(comm.size, method, seed=seed, undirected=undirected)
    built = build(graph, plan, Resources(comm))
    return Shard([built.parts[comm.rank]], built.manifest, built.book, comm)
