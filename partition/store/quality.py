"""How good a partitioning is: what it costs in copies, in traffic and in waiting.

Source: Gonzalez et al., "PowerGraph", OSDI 2012 (replication factor of a vertex-cut).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from graphtheta.comm.communicator import Communicator

__all__ = ["PartCounts", "Quality", "measure", "quality_rows"]


class Quality(BaseModel):
    """Measured quality of a partitioning.

    Attributes:
        replication_factor: Replicas (masters and mirrors) a node; 1.0 is the least.
        edge_cut: Fraction of edges whose endpoints' masters are in different parts; 0.0 without
            edges.
        node_balance: Masters of the largest part over the mean; 1.0 is the least.
        edge_balance: Edges of the largest part over the mean; 1.0 is the least, also without edges.
        mirrors: Replicas that are not masters, over all parts.
    """

    model_config = ConfigDict(frozen=True)

    replication_factor: float
    edge_cut: float
    node_balance: float
    edge_balance: float
    mirrors: int


@dataclass(frozen=True, slots=True)
class PartCounts:
    """Counts of each part, those of other ranks' parts zero until `total` adds them up.

    Attributes:
        cut: Edges held whose endpoints' masters are in different parts.
        interior: Masters whose in-edges here all come from masters.

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
        """Return counts of nothing yet."""
        return cls(*np.zeros((5, num_parts), np.int64))

    def total(self, comm: Communicator) -> PartCounts:
        """Return the sum over ranks.

        Communication:
            One all-reduce of 40 P bytes.
        """
        counts_5P = np.stack([self.masters, self.mirrors, self.edges, self.cut, self.interior])
        comm.all_reduce(counts_5P, "sum", stage="partition counts")
        return PartCounts(*counts_5P)


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
    """Return (what, value) lines for a person."""
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
