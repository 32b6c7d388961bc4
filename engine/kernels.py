"""Compiled searches: where a part holds a node or an edge, and which nodes were seen before."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.rng.edge_sampling import place_in_row

__all__ = [
    "edge_ends",
    "edges_between",
    "edges_with_keys",
    "empty_table",
    "find_mirrors",
    "key_table",
    "number_keys",
    "places_in_rows",
]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def find_mirrors(
    owner_R: NDArray[np.int64],
    local_R: NDArray[np.int64],
    owner: NDArray[np.int32],
    owner_local: NDArray[np.int32],
    num_masters: int,
    out_R: NDArray[np.int64],
) -> None:
    """Find nodes among the mirrors, which are sorted by (owner, local id there); -1 if not there.

    Shape:
        owner_R, local_R: nodes. owner, owner_local: (L,) of the part. out_R: local ids, written.
    """
    for r in range(owner_R.shape[0]):
        low, high = num_masters, owner.shape[0]
        while low < high:
            middle = (low + high) // 2
            before = owner[middle] < owner_R[r] or (
                owner[middle] == owner_R[r] and owner_local[middle] < local_R[r]
            )
            if before:
                low = middle + 1
            else:
                high = middle
        found = low < owner.shape[0] and owner[low] == owner_R[r] and owner_local[low] == local_R[r]
        out_R[r] = low if found else -1


@_jit
def edge_ends(
    other_E: NDArray[np.int32],
    place_E: NDArray[np.int64],
    first_new_id: NDArray[np.int64],
    owner: NDArray[np.int32],
    owner_local: NDArray[np.int32],
    node_key: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    node: NDArray[np.int64],
    key: NDArray[np.int64],
    edge: NDArray[np.int64],
) -> None:
    """Write what the world calls some edges of a part and their other ends: 60 bytes an edge.

    Shape:
        other_E: local ids. place_E: places in CSC order. first_new_id: (P,). owner, owner_local,
        node_key: (L,) of the part. edge_key: of all its edges. node, key, edge: (E,) new ids and
        keys of the ends, keys of the edges; written.
    """
    for e in range(other_E.shape[0]):
        other = other_E[e]
        node[e] = first_new_id[owner[other]] + owner_local[other]
        key[e] = node_key[other]
        edge[e] = edge_key[place_E[e]]


@_jit
def edges_between(
    src_R: NDArray[np.int64],
    dst_R: NDArray[np.int64],
    in_indptr: NDArray[np.int64],
    src: NDArray[np.int32],
    out_indptr: NDArray[np.int64],
    dst: NDArray[np.int32],
    csc_position: NDArray[np.int64],
    out_R: NDArray[np.int64],
) -> None:
    """Find the first edge of each pair of local ids, along the shorter of the two lists.

    Shape:
        src_R, dst_R: local ids, -1 for none. out_R: places in CSC order, -1 if none; written.
    """
    for r in range(src_R.shape[0]):
        s, d = src_R[r], dst_R[r]
        out_R[r] = -1
        if s < 0 or d < 0:
            continue
        if in_indptr[d + 1] - in_indptr[d] <= out_indptr[s + 1] - out_indptr[s]:
            for e in range(in_indptr[d], in_indptr[d + 1]):
                if src[e] == s:
                    out_R[r] = e
                    break
        else:
            for e in range(out_indptr[s], out_indptr[s + 1]):
                if dst[e] == d:
                    out_R[r] = csc_position[e]
                    break


@_jit
def places_in_rows(
    key_R: NDArray[np.int64],
    row_R: NDArray[np.int64],
    indptr: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    out_R: NDArray[np.int64],
) -> None:
    """Find edges by key in the in-list of a local row, which is sorted; -1 if not there.

    Shape:
        row_R: local ids, -1 for none. out_R: places, written.
    """
    for r in range(key_R.shape[0]):
        out_R[r] = -1
        if row_R[r] >= 0:
            first, last = indptr[row_R[r]], indptr[row_R[r] + 1]
            out_R[r] = place_in_row(edge_key, first, last, key_R[r])


def empty_table(num_keys: int) -> NDArray[np.int64]:
    """Return the slots of a table for so many keys: a power of two of -1, half of them free."""
    return np.full(1 << max(4, (2 * num_keys - 1).bit_length()), -1, np.int64)


@_jit
def _slot(key: int, keys: NDArray[np.int64], slots: NDArray[np.int64]) -> np.uint64:
    """Return the slot that holds where a key stands in `keys`, or the free one where it would."""
    mask = np.uint64(slots.shape[0] - 1)
    at = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & mask
    while slots[at] >= 0 and keys[slots[at]] != key:
        at = (at + np.uint64(1)) & mask
    return at


@_jit
def key_table(key_R: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
    """Fill an empty table with where each key stands first."""
    for r in range(key_R.shape[0]):
        at = _slot(key_R[r], key_R, slots)
        if slots[at] < 0:
            slots[at] = r


@_jit
def edges_with_keys(
    key_R: NDArray[np.int64],
    slots: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    first: int,
    out_R: NDArray[np.int64],
) -> None:
    """Find edges by key among some of a part, in one look at each.

    Shape:
        slots: `key_table` of the keys. edge_key: (E,), from the part's edge `first` on. out_R:
        places in the part, written where one is found.
    """
    for e in range(edge_key.shape[0]):
        place = slots[_slot(edge_key[e], key_R, slots)]
        if place >= 0:
            out_R[place] = first + e


@_jit
def number_keys(
    keys: NDArray[np.int64],
    num_known: int,
    found: NDArray[np.int64],
    slots: NDArray[np.int64],
    number: NDArray[np.int64],
    new: NDArray[np.int64],
) -> int:
    """Number keys: known ones as they stand, then new ones as they come; return how many are new.

    Shape:
        keys: (n + e,), the known ones, then room for new ones, written. found: (e,). slots: an
        empty table of n + e. number: (e,) written. new: (e,) where each new key first stands,
        written.
    """
    key_table(keys[:num_known], slots)
    size = 0
    for e in range(found.shape[0]):
        at = _slot(found[e], keys, slots)
        if slots[at] < 0:
            slots[at] = num_known + size
            keys[num_known + size] = found[e]
            new[size] = e
            size += 1
        number[e] = slots[at]
    return size
