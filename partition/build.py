"""Partition a graph: every rank reads its own rows and builds its own parts.

The result is the same, byte for byte, on any number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.partition.assemble import assemble
from graphtheta.partition.degrees import count_degrees
from graphtheta.partition.files import part_digest
from graphtheta.partition.manifest import Book, Manifest, checksum
from graphtheta.partition.part import PartTables
from graphtheta.partition.placement import count_parts, named_partitioner, place
from graphtheta.partition.quality import PartCounts, Quality, measure
from graphtheta.partition.read import read_block
from graphtheta.partition.schema import describe
from graphtheta.partition.source import GraphSource

__all__ = ["Build", "build", "estimate"]


@dataclass(frozen=True, slots=True)
class Build:
    """A partitioned graph in memory: what one rank built of it.

    Attributes:
        parts: The parts that this rank built, by index; part p is built by rank
            p * comm.size // num_parts.
        manifest: The same on every rank.
        book: The same on every rank.
    """

    parts: dict[int, PartTables]
    manifest: Manifest
    book: Book


def build(
    source: GraphSource,
    num_parts: int,
    method: str = "node-hash",
    *,
    seed: int = 0,
    undirected: bool = False,
    comm: Communicator | None = None,
) -> Build:
    """Partition a graph into parts in memory; collective.

    Args:
        source: The graph; each rank reads its own rows of it.
        num_parts: Parts (P), at most the number of nodes.
        method: A key of `PARTITIONERS`.
        seed: Seed of the partitioner.
        undirected: Add the reverse of every edge that is not a self-loop.
        comm: The ranks; None: this process alone.

    Raises:
        ConfigError: If the method is unknown or there is less than one part.
        PartitionError: If there are more parts than nodes, or a part would be too large.
        GraphFormatError: If the input is wrong.

    Communication:
        Every row of the graph about once, and some tens of bytes for each different node of a
        rank's edges.
    """
    comm = comm or SingleCommunicator()
    partitioner = named_partitioner(method)
    graph = read_block(source, undirected=undirected, comm=comm)
    nodes, edges, num_edge_types = describe(graph, comm)
    placement = place(graph, num_parts, partitioner, seed=seed, comm=comm)
    parts, counts = assemble(graph, count_degrees(graph, comm), placement, comm)
    book = _book(parts, counts, comm)
    manifest = Manifest(
        num_nodes=graph.nodes.total,
        num_edges=graph.num_edges,
        num_parts=num_parts,
        method=method,
        cut=partitioner.cut,
        seed=seed,
        undirected=undirected,
        id_type=str(graph.ids.type),
        node_columns=nodes.columns,
        edge_columns=edges.columns,
        labels=nodes.labels,
        splits=nodes.splits,
        edge_labels=edges.labels,
        edge_splits=edges.splits,
        num_edge_types=num_edge_types,
        quality=measure(counts),
    )
    return Build(parts, manifest.model_copy(update={"checksum": checksum(manifest, book)}), book)


def estimate(
    source: GraphSource,
    num_parts: int,
    method: str = "node-hash",
    *,
    seed: int = 0,
    undirected: bool = False,
    comm: Communicator | None = None,
) -> Quality:
    """Return the quality that `build` would reach, without building; collective.

    Arguments and errors are those of `build`.
    """
    comm = comm or SingleCommunicator()
    partitioner = named_partitioner(method)
    graph = read_block(source, undirected=undirected, comm=comm)
    placement = place(graph, num_parts, partitioner, seed=seed, comm=comm)
    return measure(count_parts(graph, placement, comm))


def _book(parts: dict[int, PartTables], counts: PartCounts, comm: Communicator) -> Book:
    digests = [bytes.fromhex(part_digest(part)) for part in parts.values()]
    # Parts ascend with the ranks that build them.
    everyone = comm.all_gather(np.frombuffer(b"".join(digests), np.uint8), stage="digests")
    digest_P16 = np.concatenate(everyone).reshape(-1, 16)
    return Book(
        first_new_id=np.cumsum(counts.masters) - counts.masters,
        masters=counts.masters,
        mirrors=counts.mirrors,
        edges=counts.edges,
        digests=tuple(row.tobytes().hex() for row in digest_P16),
    )
