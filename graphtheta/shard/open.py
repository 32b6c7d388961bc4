"""Opening a shard: of a store on disk, or of a graph that is partitioned on the spot."""

from __future__ import annotations

from pathlib import Path

import torch

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.partition import GraphSource, Plan, Resources, Store, build, open_store
from graphtheta.runtime.malloc import tune_allocator
from graphtheta.shard.shard import Shard

__all__ = ["open_shard", "pick_device"]


def open_shard(
    graph: GraphSource | Store | str | Path,
    comm: Communicator | None = None,
    *,
    method: str = "node-hash",
    seed: int = 0,
    undirected: bool = False,
    device: str | torch.device = "cpu",
) -> Shard:
    """Open this worker's share of a graph; collective.

    The process's allocator is tuned from here on (`graphtheta.runtime.malloc`).

    Args:
        graph: A `Graph` or another source of rows, which is partitioned on the spot into one part a
            worker; or a store, opened or as a path, whose parts are shared out evenly.
        comm: The workers; None: this process alone.
        method: Partitioner for a graph that is not a store.
        seed: Of that partitioner.
        undirected: Whether that partitioner adds the reverse of every edge.
        device: Where features, labels and edges go, and training happens. "cuda" gives the workers
            of a host its GPUs in turn; "cuda:1" is that one.

    Raises:
        ConfigError: If the workers do not divide the store's parts, or there is no such device.
        StoreError: If the store is missing or damaged.
        GraphFormatError: If the graph is wrong.
    """
    comm = comm or SingleCommunicator()
    tune_allocator()
    device = pick_device(device, comm)
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
        return Shard([graph.part(k) for k in mine], graph.manifest, graph.book, comm, device, graph)
    plan = Plan(comm.size, method, seed=seed, undirected=undirected)
    built = build(graph, plan, Resources(comm))
    return Shard([built.parts[comm.rank]], built.manifest, built.book, comm, device)


def pick_device(name: str | torch.device, comm: Communicator) -> torch.device:
    """Return this worker's device: of "cuda", one of the host's GPUs in turn.

    Raises:
        ConfigError: If there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: expected one such as cpu or cuda, got '{name}'.") from None
    if device.type != "cuda":
        return device
    gpus = torch.cuda.device_count()
    if not (device.index or 0) < gpus:
        raise ConfigError(
            f"device: expected one that torch sees, got {device}, and {gpus} GPUs. Use "
            "--device cpu, or install torch for CUDA; graphtheta doctor shows what it sees."
        )
    return device if device.index is not None else torch.device("cuda", comm.local_rank % gpus)
