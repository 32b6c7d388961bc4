"""Quality of a partitioning: replication factor, edge cut and balance.

Source: Gonzalez et al., "PowerGraph", OSDI 2012 (replication factor of a vertex-cut).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.tables import column_numpy

__all__ = ["PartCounts", "Quality", "count_part", "measure", "quality_rows"]


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
    """

    model_config = ConfigDict(frozen=True)

    replication_factor: float
    edge_cut: float
    node_balance: float
    edge_balance: float
    mirrors: int


@dataclass(frozen=True, slots=True)
class PartCounts:
    """Counts for each part. A rank fills in its own parts, and `total` adds up those of all ranks.

    Attributes:
        masters: Number of masters.
        mirrors: Number of mirrors.
        edges: Number of edges.
        cut: Number of edges whose endpoints have masters in different parts.
        interior: Number of interior masters (see `PartTables`).

    Shape:
        All (P,) int64.
    """

    masters: NDArray[np.int64]
    mirrors: NDArray[np.int64]
    edges: NDArray[np.int64]
    cut: NDArray[np.int64]
    interior: NDArray[np.int64]

    @classmethod
    def zeros(cls, num_parts: int) -> PartCounts:
        """Return counts of zero."""
        return cls(*np.zeros((5, num_parts), np.int64))

    def total(self, comm: Communicator) -> PartCounts:
        """Return the sum over all ranks; collective.

        Communication:
            One all-reduce of 40 bytes for each part.
        """
        counts_5P = np.stack([self.masters, self.mirrors, self.edges, self.cut, self.interior])
        comm.all_reduce(counts_5P, "sum", stage="partition counts")
        return PartCounts(*counts_5P)


def count_part(part: PartTables, counts: PartCounts) -> None:
    """Fill in the counts of a part from its tables."""
    owner = column_numpy(part.replicas, "owner")
    owner_of_dst = np.repeat(owner, np.diff(column_numpy(part.in_indptr, "indptr")))
    owner_of_src = owner[column_numpy(part.in_edges, "src")]
    masters = np.count_nonzero(owner == part.part)
    counts.masters[part.part] = masters
    counts.mirrors[part.part] = len(owner) - masters
    counts.edges[part.part] = len(owner_of_src)
    counts.interior[part.part] = part.num_interior
    counts.cut[part.part] = np.count_nonzero(owner_of_src != owner_of_dst)


def measure(counts: PartCounts) -> Quality:
    """Return the quality of a partitioning from the counts of all its parts."""
    nodes, mirrors = int(counts.masters.sum()), int(counts.mirrors.sum())
    edges, cut = int(counts.edges.sum()), int(counts.cut.sum())
    return Quality(
        replication_factor=(nodes + mirrors) / nodes,
        edge_cut=cut / edges if edges else 0.0,
        node_balance=_balance(counts.masters),
        edge_balance=_balance(counts.edges),
        mirrors=mirrors,
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
