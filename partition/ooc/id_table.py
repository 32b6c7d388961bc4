"""Hash tables of integer and text ids: sets that grow, and maps from ids to node keys.

The tables use open addressing with linear probing and are at most half full. The compiled functions
release the GIL. The bits of an id are mixed by the finaliser of SplitMix64. The lower bits of the
result select the slot. The upper bits select the slice, one of `num_slices` shares of the ids: each
thread collects one slice, and a map that does not fit memory is built slice by slice.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.partition.ooc.int_table import IntMap, IntSet
from graphtheta.partition.ooc.text_table import TextMap, TextSet

__all__ = ["IdMap", "IdSet", "id_map", "id_set", "map_bytes"]


class IdSet(Protocol):
    """Distinct ids of one slice."""

    @property
    def num_bytes(self) -> int:
        """Memory that the set takes."""

    def add(self, ids: pa.Array) -> None:
        """Add the ids that belong to the slice."""

    def ids(self) -> pa.Array:
        """Return the ids, in any order."""


class IdMap(Protocol):
    """Map from the ids of one slice to node keys."""

    def insert(self, ids: pa.Array, first_key: int) -> pa.Array:
        """Map ids to consecutive keys, and return the ids that the map had already."""

    def find(self, ids: pa.Array, keys: NDArray[np.int64]) -> None:
        """Write the keys of ids of the slice, -1 for unknown ids; other rows are not changed."""


def id_set(id_type: pa.DataType, index: int, num_slices: int) -> IdSet:
    """Return an empty set for slice `index` of ids of type int64 or string."""
    if pa.types.is_int64(id_type):
        return IntSet(index, num_slices)
    return TextSet(index, num_slices)


def id_map(id_type: pa.DataType, index: int, num_slices: int, num_ids: int) -> IdMap:
    """Return an empty map for slice `index` of `num_ids` ids of type int64 or string."""
    if pa.types.is_int64(id_type):
        return IntMap(index, num_slices, num_ids)
    return TextMap(index, num_slices, num_ids)


def map_bytes(id_type: pa.DataType, num_ids: int) -> int:
    """Return an estimate of the bytes of an `id_map` of all ids, for texts of 16 bytes."""
    return num_ids * (48 if pa.types.is_int64(id_type) else 96)
