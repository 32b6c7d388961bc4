"""Compiled searches over the arrays of a part, and hash tables of keys."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.rng.edge_sampling import find_in_row

__all__ = [
    "empty_table",
    "fill_table",
    "find_edges_between",
    "find_edges_by_key",
    "find_edges_in_rows",
    "find_mirrors",
    "range_of_keys",
    "relabel_keys",
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
    """Find the local ids of mirrors by binary search, -1 for nodes that the part does not hold.

    Shape:
        owner_R, local_R: owner of each node and its local id there. owner, owner_local: (L,) of the
        part, whose mirrors are sorted by both. out_R: written.
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
def find_edges_between(
    src_R: NDArray[np.int64],
    dst_R: NDArray[np.int64],
    in_indptr: NDArray[np.int64],
    src: NDArray[np.int32],
    out_indptr: NDArray[np.int64],
    dst: NDArray[np.int32],
    csc_position: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    low: int,
    high: int,
    out_R: NDArray[np.int64],
) -> None:
    """Find the first edge of each pair of nodes by scanning the shorter of their two lists.

    Only edges with a key in [low, high) count.

    Shape:
        src_R, dst_R: local ids, -1 for nodes that the part does not hold. out_R: positions in CSC
        order, -1 if there is no edge; written.
    """
    for r in range(src_R.shape[0]):
        s, d = src_R[r], dst_R[r]
        out_R[r] = -1
        if s < 0 or d < 0:
            continue
        if in_indptr[d + 1] - in_indptr[d] <= out_indptr[s + 1] - out_indptr[s]:
            for e in range(in_indptr[d], in_indptr[d + 1]):
                if src[e] == s and low <= edge_key[e] < high:
                    out_R[r] = e
                    break
        else:
            for e in range(out_indptr[s], out_indptr[s + 1]):
                p = csc_position[e]
                if dst[e] == d and low <= edge_key[p] < high:
                    out_R[r] = p
                    break


@_jit
def find_edges_in_rows(
    key_R: NDArray[np.int64],
    row_R: NDArray[np.int64],
    indptr: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    out_R: NDArray[np.int64],
) -> None:
    """Find edges by key in the in-edges of their destinations, by binary search.

    Shape:
        row_R: local ids of the destinations, -1 for nodes that the part does not hold. out_R:
        positions in CSC order, -1 if there is no such edge; written.
    """
    for r in range(key_R.shape[0]):
        out_R[r] = -1
        if row_R[r] >= 0:
            first, last = indptr[row_R[r]], indptr[row_R[r] + 1]
            out_R[r] = find_in_row(edge_key, first, last, key_R[r])


@_jit
def range_of_keys(
    row_R: NDArray[np.int64],
    indptr: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    low: int,
    high: int,
    first_R: NDArray[np.int64],
    last_R: NDArray[np.int64],
) -> None:
    """Find the range of each row's in-edges whose keys are in [low, high), by binary search.

    Shape:
        row_R: local ids of the destinations. first_R, last_R: positions in CSC order; written.
    """
    for r in range(row_R.shape[0]):
        first, last = indptr[row_R[r]], indptr[row_R[r] + 1]
        first_R[r] = first + np.searchsorted(edge_key[first:last], low)
        last_R[r] = first + np.searchsorted(edge_key[first:last], high)


def empty_table(num_keys: int) -> NDArray[np.int64]:
    """Return an empty hash table for some number of keys, at most half full."""
    return np.full(1 << max(4, (2 * num_keys - 1).bit_length()), -1, np.int64)


@_jit
def _slot(key: int, keys: NDArray[np.int64], table: NDArray[np.int64]) -> np.uint64:
    """Return the slot of a key in a table of indices into `keys`, or the free slot for it."""
    mask = np.uint64(table.shape[0] - 1)
    slot = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & mask
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@_jit
def fill_table(key_R: NDArray[np.int64], table: NDArray[np.int64]) -> None:
    """Fill an empty hash table with the index at which each key first occurs."""
    for r in range(key_R.shape[0]):
        slot = _slot(key_R[r], key_R, table)
        if table[slot] < 0:
            table[slot] = r


@_jit
def find_edges_by_key(
    key_R: NDArray[np.int64],
    table: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    first: int,
    out_R: NDArray[np.int64],
) -> None:
    """Find edges by key in a range of a part's edges, with one scan over the range.

    Shape:
        key_R: keys to find. table: hash table of `key_R`. edge_key: keys of the part's edges from
        position `first`. out_R: positions in CSC order, written for the keys that are found.
    """
    for e in range(edge_key.shape[0]):
        r = table[_slot(edge_key[e], key_R, table)]
        if r >= 0:
            out_R[r] = first + e


@_jit
def relabel_keys(
    keys: NDArray[np.int64],
    num_known: int,
    found: NDArray[np.int64],
    table: NDArray[np.int64],
    label: NDArray[np.int64],
    new: NDArray[np.int64],
) -> int:
    """Label found keys with their index among the known keys, and append the keys that are new.

    Returns:
        Number of new keys.

    Shape:
        keys: (n + e,) n known keys, then room for the new ones, written. found: (e,). table: an
        empty table for n + e keys. label: (e,) index in `keys`, written. new: (e,) index in `found`
        at which each new key first occurs, written.
    """
    fill_table(keys[:num_known], table)
    size = 0
    for e in range(found.shape[0]):
        slot = _slot(found[e], keys, table)
        if table[slot] < 0:
            table[slot] = num_known + size
            keys[num_known + size] = found[e]
            new[size] = e
            size += 1
        label[e] = table[slot]
    return size
