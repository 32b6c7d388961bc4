"""Report on a store: sizes of its parts, traffic between them and degrees, counted from its files.

The parts are read one after another, so that memory holds one part, a few numbers for each part,
and a few for each pair of parts with mirrors of each other's nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.data.types import qualified
from graphtheta.partition.analysis.traffic import Traffic
from graphtheta.partition.store.part import ROLE_IN, ROLE_OUT, PartTables
from graphtheta.partition.store.quality import Quality, count_part, measure
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["Report", "degree_bounds", "report"]

_NUM_BINS = 64  # degree 0, and a bin for each power of two of an int64
_NUM_SPLITS = 4  # none, train, validation, test


@dataclass(frozen=True, slots=True)
class Report:
    """Counts of a store.

    Attributes:
        quality: Quality of the partitioning, counted; equal to the manifest's unless the store is
            damaged.
        masters: Number of masters of each part.
        interior: Number of masters whose in-edges in the part all come from its masters. They are
            computed before mirrors have been synced.
        mirrors: Number of mirrors in each part.
        edges: Number of edges in each part.
        splits: For each node split, the number of masters by part and by value: 0 none, 1 train,
            2 validation, 3 test.
        traffic: Mirrors for each pair of parts.
        in_degrees: Histogram of in-degrees over the nodes of the graph: bin 0 counts degree 0, bin
            b degrees in [2^(b - 1), 2^b).
        out_degrees: Histogram of out-degrees, with the same bins.
        largest_degrees: Largest in-degree and largest out-degree.

    Shape:
        masters, interior, mirrors, edges: (P,) int64. splits: (P, 4) int64 each. in_degrees,
        out_degrees: (B,) int64, the same B, without empty bins at the end.
    """

    quality: Quality
    masters: NDArray[np.int64]
    interior: NDArray[np.int64]
    mirrors: NDArray[np.int64]
    edges: NDArray[np.int64]
    splits: dict[str, NDArray[np.int64]]
    traffic: Traffic
    in_degrees: NDArray[np.int64]
    out_degrees: NDArray[np.int64]
    largest_degrees: tuple[int, int]

    @property
    def num_parts(self) -> int:
        """Number of parts (P)."""
        return len(self.masters)

    def as_json(self) -> dict[str, Any]:
        """Return all counts as a dict of numbers and lists."""
        counts = ("masters", "interior", "mirrors", "edges")
        return {
            "quality": self.quality.model_dump(),
            "parts": {name: getattr(self, name).tolist() for name in counts},
            "splits": {name: counts_P4.tolist() for name, counts_P4 in self.splits.items()},
            "traffic": self.traffic.as_json(),
            "degrees": {
                "at_least": degree_bounds(len(self.in_degrees))[:-1].tolist(),
                "in": self.in_degrees.tolist(),
                "out": self.out_degrees.tolist(),
                "largest_in": self.largest_degrees[0],
                "largest_out": self.largest_degrees[1],
            },
        }


def report(store: Store) -> Report:
    """Count sizes, traffic and degrees of a store; reads its parts one after another.

    Raises:
        StoreError: If a part is missing or damaged.
    """
    num_parts = store.num_parts
    counts = store.zero_counts()
    splits = {name: np.zeros((num_parts, _NUM_SPLITS), np.int64) for name in store.manifest.splits}
    degrees = np.zeros((2, _NUM_BINS), np.int64)
    largest = [0, 0]
    pairs = []
    for index in range(num_parts):
        part = store.part(index)
        count_part(part, counts)
        types = store.manifest.node_types
        for of_type, columns in zip(types, part.node_columns, strict=True):
            for name in of_type.splits:
                values = column_numpy(columns, f"split:{name}")
                counts_P4 = splits[qualified(of_type.name, name, len(types))]
                counts_P4[index] = np.bincount(values, minlength=_NUM_SPLITS)
        for row, name in enumerate(("in_degree", "out_degree")):
            degree = column_numpy(part.masters, name)
            degrees[row] += _histogram(degree)
            largest[row] = max(largest[row], int(degree.max(initial=0)))
        pairs.append(_pairs(part, num_parts))
    num_bins = int(np.flatnonzero(degrees.any(axis=0))[-1]) + 1
    return Report(
        quality=measure(counts),
        masters=counts.masters,
        interior=counts.interior,
        mirrors=counts.mirrors,
        edges=counts.edges,
        splits=splits,
        traffic=Traffic(num_parts, *np.concatenate(pairs, axis=1)),
        in_degrees=degrees[0, :num_bins],
        out_degrees=degrees[1, :num_bins],
        largest_degrees=(largest[0], largest[1]),
    )


def degree_bounds(num_bins: int) -> NDArray[np.int64]:
    """Return the bounds of degree bins: bin b counts degrees in [bounds[b], bounds[b + 1]).

    Shape:
        Returns (num_bins + 1,) int64: 0, 1, 2, 4, 8, ...; bounds are clipped at 2^63 - 1.
    """
    powers = [2**b for b in range(num_bins)]
    return np.array([0, *powers], np.uint64).clip(max=2**63 - 1).astype(np.int64)


def _histogram(degree_M: NDArray[np.int64]) -> NDArray[np.int64]:
    bins = np.searchsorted(degree_bounds(_NUM_BINS)[1:-1], degree_M, side="right")
    return np.bincount(bins, minlength=_NUM_BINS)


def _pairs(part: PartTables, num_parts: int) -> NDArray[np.int64]:
    """Return rows owner, holder, mirrors, sync and merge, as in `Traffic`, for this part's masters.

    Shape:
        Returns (5, K) int64 for the K parts that hold mirrors of them.
    """
    peer, role = column_numpy(part.plan, "peer"), column_numpy(part.plan, "role")
    masks = (role > 0, role & ROLE_OUT > 0, role & ROLE_IN > 0)
    counts = np.stack([np.bincount(peer[mask], minlength=num_parts) for mask in masks])
    holder = np.flatnonzero(counts[0])
    return np.stack([np.full_like(holder, part.part), holder, *counts[:, holder]])
