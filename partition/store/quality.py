"""Quality of a partitioning: replication factor, edge cut and balance.

Source: Gonzalez et al., "PowerGraph", OSDI 2012 (replication factor of a vertex-cut).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from graphtheta.comm.communicator import Communicator
from graphtheta.data.types import positions_of_keys
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.tables import column_numpy

__all__ = [
    "PartCounts",
    "Quality",
    "RelationQuality",
    "TypeQuality",
    "count_part",
    "measure",
    "quality_rows",
]


class TypeQuality(BaseModel):
    """Measured quality of a partitioning for the nodes of one type; 1.0 without any.

    Attributes:
        replication_factor: Replicas (masters and mirrors) per node.
        balance: Largest number of masters of a part, divided by the mean.
    """

    model_config = ConfigDict(frozen=True)

    replication_factor: float
    balance: float


class RelationQuality(BaseModel):
    """Measured quality of a partitioning for the edges of one relation.

    Attributes:
        num_edges: Number of stored edges.
        edge_cut: Fraction of edges whose endpoints have masters in different parts.
        balance: Largest number of edges of a part, divided by the mean.
    """

    model_config = ConfigDict(frozen=True)

    num_edges: int
    edge_cut: float
    balance: float


class Quality(BaseModel):
    """Measured quality of a partitioning.

    Attributes:
        replication_factor: Replicas (masters and mirrors) per node; at least 1.0.
        edge_cut: Fraction of edges whose endpoints have masters in different parts; 0.0 without
            edges.
        node_balance: Largest number of masters of a part, divided by the mean; at least 1.0.
        edge_balance: Largest number of edges of a part, divided by the mean; at least 1.0, and 1.0
            without edges.
        mirrors: Number of mirrors in all parts.
        node_types: Quality for each node type, in a graph of several.
        relations: Quality for each relation, in a graph of several.
    """

    model_config = ConfigDict(frozen=True)

    replication_factor: float
    edge_cut: float
    node_balance: float
    edge_balance: float
    mirrors: int
    node_types: tuple[TypeQuality, ...] = ()
    relations: tuple[RelationQuality, ...] = ()


@dataclass(frozen=True, slots=True)
class PartCounts:
    """Counts for each part. A rank fills in its own parts, and `total` adds up those of all ranks.

    Attributes:
        masters: Number of masters.
        mirrors: Number of mirrors.
        edges: Number of edges.
        cut: Number of edges whose endpoints have masters in different parts.
        interior: Number of interior masters (see `PartTables`).
        syncs: Number of mirrors with out-edges, whose values are received in a forward pass.
        merges: Number of mirrors with in-edges, whose partial sums are sent.
        masters_of: Number of masters of each node type.
        mirrors_of: Number of mirrors of each node type.
        edges_of: Number of edges of each relation.
        cut_of: Number of edges of each relation whose endpoints have masters in different parts.

    Shape:
        masters_of, mirrors_of: (P, T). edges_of, cut_of: (P, R). All others (P,). All int64.
    """

    masters: NDArray[np.int64]
    mirrors: NDArray[np.int64]
    edges: NDArray[np.int64]
    cut: NDArray[np.int64]
    interior: NDArray[np.int64]
    syncs: NDArray[np.int64]
    merges: NDArray[np.int64]
    masters_of: NDArray[np.int64]
    mirrors_of: NDArray[np.int64]
    edges_of: NDArray[np.int64]
    cut_of: NDArray[np.int64]

    @classmethod
    def zeros(cls, num_parts: int, num_types: int, num_relations: int) -> PartCounts:
        """Return counts of zero."""
        of_types, of_relations = (
            np.zeros((2, num_parts, count), np.int64) for count in (num_types, num_relations)
        )
        return cls(*np.zeros((7, num_parts), np.int64), *of_types, *of_relations)

    def total(self, comm: Communicator) -> PartCounts:
        """Return the sum over all ranks; collective.

        Communication:
            One all-reduce of 56 bytes, and 16 for each node type and relation, for each part.
        """
        counts = [getattr(self, name) for name in PartCounts.__slots__]
        sums = np.concatenate([count.ravel() for count in counts])
        comm.all_reduce(sums, "sum", stage="partition counts")
        cuts = np.cumsum([count.size for count in counts])[:-1]
        found = zip(np.split(sums, cuts), counts, strict=True)
        return PartCounts(*(total.reshape(count.shape) for total, count in found))


def count_part(part: PartTables, counts: PartCounts) -> None:
    """Fill in the counts of a part from its tables."""
    index = part.part
    owner = column_numpy(part.replicas, "owner")
    owner_of_dst = np.repeat(owner, np.diff(column_numpy(part.in_indptr, "indptr")))
    is_cut = owner[column_numpy(part.in_edges, "src")] != owner_of_dst
    of_type = positions_of_keys(column_numpy(part.replicas, "node_key"), part.first_node_keys)
    relation = positions_of_keys(column_numpy(part.in_edges, "edge_key"), part.first_edge_keys)
    is_master = owner == index
    for counts_of, positions in (
        (counts.masters_of, of_type[is_master]),
        (counts.mirrors_of, of_type[~is_master]),
        (counts.edges_of, relation),
        (counts.cut_of, relation[is_cut]),
    ):
        counts_of[index] = np.bincount(positions, minlength=counts_of.shape[1])
    for total, counts_of in (
        (counts.masters, counts.masters_of),
        (counts.mirrors, counts.mirrors_of),
        (counts.edges, counts.edges_of),
        (counts.cut, counts.cut_of),
    ):
        total[index] = counts_of[index].sum()
    counts.interior[index] = part.num_interior
    for total, indptr in ((counts.syncs, part.out_indptr), (counts.merges, part.in_indptr)):
        total[index] = np.count_nonzero(np.diff(column_numpy(indptr, "indptr"))[~is_master])


def measure(counts: PartCounts) -> Quality:
    """Return the quality of a partitioning from the counts of all its parts."""
    nodes, mirrors = int(counts.masters.sum()), int(counts.mirrors.sum())
    edges, cut = int(counts.edges.sum()), int(counts.cut.sum())
    types = zip(counts.masters_of.T, counts.mirrors_of.T, strict=True)
    relations = zip(counts.edges_of.T, counts.cut_of.T, strict=True)
    return Quality(
        replication_factor=(nodes + mirrors) / nodes,
        edge_cut=cut / edges if edges else 0.0,
        node_balance=_balance(counts.masters),
        edge_balance=_balance(counts.edges),
        mirrors=mirrors,
        node_types=tuple(_of_type(*of) for of in types) if counts.masters_of.shape[1] > 1 else (),
        relations=tuple(_of_relation(*of) for of in relations)
        if counts.edges_of.shape[1] > 1
        else (),
    )


def _of_type(masters_P: NDArray[np.int64], mirrors_P: NDArray[np.int64]) -> TypeQuality:
    nodes, mirrors = int(masters_P.sum()), int(mirrors_P.sum())
    return TypeQuality(
        replication_factor=(nodes + mirrors) / nodes if nodes else 1.0, balance=_balance(masters_P)
    )


def _of_relation(edges_P: NDArray[np.int64], cut_P: NDArray[np.int64]) -> RelationQuality:
    edges, cut = int(edges_P.sum()), int(cut_P.sum())
    return RelationQuality(
        num_edges=edges, edge_cut=cut / edges if edges else 0.0, balance=_balance(edges_P)
    )


def quality_rows(quality: Quality) -> list[tuple[str, str]]:
    """Return (name, formatted value) of each measure, for display."""
    return [
        ("replication factor", f"{quality.replication_factor:.3f}"),
        ("edge cut", f"{100 * quality.edge_cut:.2f} %"),
        ("balance of nodes", f"{quality.node_balance:.3f}"),
        ("balance of edges", f"{quality.edge_balance:.3f}"),
        ("mirrors", f"{quality.mirrors:,}"),
    ]


def _balance(counts_P: NDArray[np.int64]) -> float:
    total = int(counts_P.sum())
    return float(int(counts_P.max()) * counts_P.shape[0] / total) if total else 1.0
