"""Where nodes and edges go: a part for each node of this rank's block and each of its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError, PartitionError
from graphtheta.partition.columns import column_numpy
from graphtheta.partition.distinct import distinct
from graphtheta.partition.partitioner import Partitioner, part_of_hash
from graphtheta.partition.quality import PartCounts
from graphtheta.partition.read import GraphBlock
from graphtheta.partition.registry import PARTITIONERS
from graphtheta.partition.shuffle import shuffle
from graphtheta.random import Purpose, hash_keys

__all__ = ["Placement", "count_parts", "named_partitioner", "place"]

_MASTER_STEP = 1  # keeps the draw of masters independent of the draw of edges


@dataclass(frozen=True, slots=True)
class Placement:
    """Parts of this rank's nodes and edges.

    Attributes:
        num_parts: Parts (P).
        node_part: Part of the master of each node of this rank's block.
        edge_part: Part of each of this rank's edges.

    Shape:
        node_part: (B,) int32. edge_part: (E,) int32.
    """

    num_parts: int
    node_part: NDArray[np.int32]
    edge_part: NDArray[np.int32]


def named_partitioner(method: str) -> Partitioner:
    """Return the partitioner called `method`.

    Raises:
        ConfigError: If there is none.
    """
    if method not in PARTITIONERS:
        raise ConfigError(
            f"partition: unknown method {method!r}. Choose one of {', '.join(PARTITIONERS)}."
        )
    return PARTITIONERS[method]


def place(
    graph: GraphBlock, num_parts: int, partitioner: Partitioner, *, seed: int, comm: Communicator
) -> Placement:
    """Return the parts of this rank's nodes and edges; collective.

    In a vertex-cut a node's master is in one of the parts that hold an edge of it, drawn by a hash;
    a node without edges goes to a part drawn by a hash.

    Raises:
        ConfigError: If there is less than one part.
        PartitionError: If there are more parts than nodes.
    """
    if num_parts < 1:
        raise ConfigError(f"partition: expected at least one part, got {num_parts}. Ask for more.")
    if num_parts > graph.nodes.total:
        raise PartitionError(
            f"partition: expected at most one part a node, got {num_parts:,} parts for "
            f"{graph.nodes.total:,} nodes. Ask for fewer parts."
        )
    parts = partitioner(graph.stream(), num_parts, seed=seed, comm=comm)
    if partitioner.cut == "edge":
        edge_part = graph.nodes.fetch(graph.dst, parts, stage="parts of destinations")
        return Placement(num_parts, parts, edge_part)
    held = _held(graph, parts, num_parts, comm)
    return Placement(num_parts, _masters(graph, held, num_parts, seed), parts)


def count_parts(graph: GraphBlock, placement: Placement, comm: Communicator) -> PartCounts:
    """Return what each part would hold, without building it; collective.

    Communication:
        8 bytes for each different (node, part) of this rank's edges, and 20 for each endpoint.
    """
    nodes, num_parts = graph.nodes, placement.num_parts
    node, part = np.divmod(_held(graph, placement.edge_part, num_parts, comm), num_parts)
    mirrors = part[part != placement.node_part[node - nodes.start]]
    masters_of = [
        nodes.fetch(ends, placement.node_part, stage="parts of endpoints")
        for ends in (graph.src, graph.dst)
    ]
    cut = placement.edge_part[masters_of[0] != masters_of[1]]
    counted = (placement.node_part, mirrors, placement.edge_part, cut)
    return PartCounts(*(np.bincount(parts, minlength=num_parts) for parts in counted)).total(comm)


def _held(
    graph: GraphBlock, edge_part: NDArray[np.int32], num_parts: int, comm: Communicator
) -> NDArray[np.int64]:
    """Return node_key * P + part, ascending, for each part that holds an edge of a node here."""
    part = edge_part.astype(np.int64)
    pairs = distinct(graph.src * num_parts + part, graph.dst * num_parts + part)
    owner = graph.nodes.owner(pairs // num_parts)
    arrived = shuffle(pa.table({"pair": pairs}), owner, comm, stage="parts that hold a node")
    return distinct(column_numpy(arrived, "pair"))


def _masters(
    graph: GraphBlock, held: NDArray[np.int64], num_parts: int, seed: int
) -> NDArray[np.int32]:
    hashes = hash_keys(graph.nodes.keys(), seed, Purpose.PLACEMENT, step=_MASTER_STEP)
    node_part = part_of_hash(hashes, num_parts)
    node, first, count = np.unique(held // num_parts, return_index=True, return_counts=True)
    row = node - graph.nodes.start
    chosen = first + (hashes[row] % count.astype(np.uint64)).astype(np.int64)
    node_part[row] = held[chosen] % num_parts
    return node_part
