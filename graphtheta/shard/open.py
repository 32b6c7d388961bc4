"""Opening of shards: of a store on disk, or of a graph that is partitioned on the spot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.data.schema import need_attribute
from graphtheta.errors import ConfigError
from graphtheta.exchange.channel import Channel
from graphtheta.partition import (
    GraphSource,
    Plan,
    Resources,
    Store,
    build,
    open_store,
)
from graphtheta.shard.local_graph import local_graph, parts_of_rank
from graphtheta.shard.shard import Shard
from graphtheta.wording import counted

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
    """Open this worker's shard of a graph; collective.

    Args:
        graph: A store, opened or as a path, whose parts are divided evenly among the workers; or a
            `Graph` or another source of rows, which is partitioned on the spot into one part per
            worker.
        comm: The workers. If None, this process is the only one.
        method: Partitioner for a graph that is not a store.
        seed: Random seed of that partitioner.
        undirected: Whether that partitioner adds the reverse of every edge.
        device: Device of features, labels and edges, on which training runs. "cuda" assigns the
            GPUs of a host to its workers in turn; "cuda:1" is that GPU.

    Raises:
        ConfigError: If the number of parts is not a multiple of the workers, or the device does not
            exist.
        StoreError: If the store is missing or damaged.
        GraphFormatError: If the graph is malformed.
    """
    comm = comm or SingleCommunicator()
    device = pick_device(device, comm)
    if isinstance(graph, str | Path):
        graph = open_store(Path(graph), parts=())  # `Store.part` checks the parts it opens
    if isinstance(graph, Store):
        if graph.num_parts % comm.size:
            raise ConfigError(
                f"open_shard: {counted(comm.size, 'worker')} do not divide the "
                f"{counted(graph.num_parts, 'part')} of "
                f"{graph.path}. Use a number of workers that does, or partition it again with "
                f"--parts {comm.size}."
            )
        store, manifest, book = graph, graph.manifest, graph.book
        # Reading the files for their hashes takes a fraction of the first epoch, which then finds
        # them in memory. Training never reads changed values.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            mine = parts_of_rank(store.num_parts, comm.rank, comm.size)
            parts = list(pool.map(partial(store.part, verified=True), mine))
    else:
        need_attribute(graph, "edge_tables", "open_shard", "a store, its path, or a Graph")
        plan = Plan(comm.size, method, seed=seed, undirected=undirected)
        built = build(graph, plan, Resources(comm))
        store, manifest, book = None, built.manifest, built.book
        parts = [built.parts[comm.rank]]
    local = local_graph(parts, manifest, book, comm.rank, comm.size, torch.get_num_threads())
    return Shard(local, manifest, Channel(comm), device, store)


def pick_device(name: str | torch.device, comm: Communicator) -> torch.device:
    """Return this worker's device; for "cuda", the GPUs of a host are assigned in turn.

    Raises:
        ConfigError: If the device does not exist.
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
            f"device: expected one that torch sees, got {device}, and {counted(gpus, 'GPU')}. Use "
            "--device cpu, or install torch for CUDA; graphtheta doctor shows what it sees."
        )
    return device if device.index is not None else torch.device("cuda", comm.local_rank % gpus)
