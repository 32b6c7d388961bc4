"""Counter-based random numbers, keyed by the element that they are for and not by its location.

Every draw is Philox4x32-10 of a counter (column block, element key low, element key high, stream)
with a key derived from (seed, step). An element key is a node_key or an edge_key, so a mask does
not depend on workers, threads or partitioner, and backward draws it again instead of storing it.

Column c of a row of F columns is lane c // Q of block c % Q, where Q = ceil(F / 4). Neighbouring
columns come from neighbouring blocks and the same lane, so that the compiler can vectorise.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MAX_CALLS",
    "Purpose",
    "dropout",
    "dropout_of_entries",
    "hash_key",
    "hash_keys",
    "keep_mask",
    "philox",
    "philox4x32",
    "step_key",
    "stream_id",
]

MAX_CALLS = 1 << 12  # calls in one layer and step that `stream_id` tells apart

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)
_inline_jit = numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")


class Purpose(IntEnum):
    """Purpose of a draw; draws of different purposes are independent."""

    NODE_DROPOUT = 1
    EDGE_DROPOUT = 2
    PLACEMENT = 3
    SPLIT = 4
    BATCH = 5
    SAMPLE = 6
    NEGATIVE = 7
    GENERATE = 8
    COMMUNITY = 9
    WEIGHT = 10
    QUERY = 11


@_inline_jit
def philox(
    c0: np.uint32, c1: np.uint32, c2: np.uint32, c3: np.uint32, k0: np.uint32, k1: np.uint32
) -> tuple[np.uint32, np.uint32, np.uint32, np.uint32]:
    """Return Philox4x32-10 of one counter; inlined into the compiled functions that call it."""
    m0 = np.uint64(0xD2511F53)
    m1 = np.uint64(0xCD9E8D57)
    for _ in range(10):
        p0 = m0 * np.uint64(c0)
        p1 = m1 * np.uint64(c2)
        h0 = np.uint32(p0 >> np.uint64(32))
        h1 = np.uint32(p1 >> np.uint64(32))
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, np.uint32(p1), h0 ^ c3 ^ k1, np.uint32(p0)
        k0 = np.uint32(np.uint64(k0) + np.uint64(0x9E3779B9))
        k1 = np.uint32(np.uint64(k1) + np.uint64(0xBB67AE85))
    return c0, c1, c2, c3


@_jit
def _philox_rows(
    counters: NDArray[np.uint32], key: NDArray[np.uint32], out: NDArray[np.uint32]
) -> None:
    for i in range(counters.shape[0]):
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = philox(
            counters[i, 0], counters[i, 1], counters[i, 2], counters[i, 3], key[0], key[1]
        )


@_inline_jit
def hash_key(key: np.uint64, stream: np.uint32, k0: np.uint32, k1: np.uint32) -> np.uint64:
    """Return the result of `hash_keys` for one key, in a compiled loop.

    Args:
        key: Element key.
        stream: `stream_id(purpose)`.
        k0: First element of `step_key(seed, step)`.
        k1: Second element of it.
    """
    low = np.uint32(key)
    high = np.uint32(key >> np.uint64(32))
    a, b, _c, _d = philox(np.uint32(0), low, high, stream, k0, k1)
    return np.uint64((np.uint64(a) << np.uint64(32)) | np.uint64(b))


@_jit
def _hash_keys(
    keys: NDArray[np.int64], stream: np.uint32, key: NDArray[np.uint32], out: NDArray[np.uint64]
) -> None:
    for i in range(keys.shape[0]):
        out[i] = hash_key(np.uint64(keys[i]), stream, key[0], key[1])


@_jit
def _draw_row(
    draws: NDArray[np.uint32], blocks: int, k: np.uint64, stream: np.uint32, key: NDArray[np.uint32]
) -> None:
    # The four lanes are written to four ranges of the buffer, so that this loop vectorises.
    lane0 = draws[:blocks]
    lane1 = draws[blocks : 2 * blocks]
    lane2 = draws[2 * blocks : 3 * blocks]
    lane3 = draws[3 * blocks :]
    lo, hi = np.uint32(k), np.uint32(k >> np.uint64(32))
    k0, k1 = key[0], key[1]
    for q in range(np.uint32(blocks)):  # unsigned, so that indices need no test for negative values
        lane0[q], lane1[q], lane2[q], lane3[q] = philox(np.uint32(q), lo, hi, stream, k0, k1)


@_jit
def _keep_rows(
    keys: NDArray[np.int64],
    threshold: np.uint32,
    stream: np.uint32,
    key: NDArray[np.uint32],
    kept: NDArray[np.bool_],
) -> None:
    width = kept.shape[1]
    blocks = (width + 3) // 4
    draws = np.empty(4 * blocks, np.uint32)
    for i in range(keys.shape[0]):
        _draw_row(draws, blocks, np.uint64(keys[i]), stream, key)
        for j in range(np.uint32(width)):
            kept[i, j] = draws[j] >= threshold


@_jit
def _dropout_rows(
    x: NDArray[Any],
    keys: NDArray[np.int64],
    threshold: np.uint32,
    scale: Any,
    stream: np.uint32,
    key: NDArray[np.uint32],
    out: NDArray[Any],
) -> None:
    width = x.shape[1]
    blocks = (width + 3) // 4
    draws = np.empty(4 * blocks, np.uint32)
    zero = scale * 0
    for i in range(keys.shape[0]):
        _draw_row(draws, blocks, np.uint64(keys[i]), stream, key)
        for j in range(np.uint32(width)):
            out[i, j] = x[i, j] * (scale if draws[j] >= threshold else zero)


@_jit
def _dropout_entries(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[Any] | None,
    blocks: np.uint32,
    keys: NDArray[np.int64],
    threshold: np.uint32,
    scale: Any,
    stream: np.uint32,
    key: NDArray[np.uint32],
    out: NDArray[Any],
) -> None:
    k0, k1 = key[0], key[1]
    zero = scale * 0
    for i in range(keys.shape[0]):
        k = np.uint64(keys[i])
        lo, hi = np.uint32(k), np.uint32(k >> np.uint64(32))
        for entry in range(indptr[i], indptr[i + 1]):
            # The same draw as in `_draw_row`: lane j // blocks of block j % blocks.
            column = np.uint32(indices[entry])
            lane = column // blocks
            draw0, draw1, draw2, draw3 = philox(column - lane * blocks, lo, hi, stream, k0, k1)
            low, high = (draw0 if lane == 0 else draw1), (draw2 if lane == 2 else draw3)
            kept = scale if (low if lane < 2 else high) >= threshold else zero
            out[entry] = kept if values is None else values[entry] * kept


def _mix64(value: int) -> int:
    # Finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection of 64 bits.
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


def step_key(seed: int, step: int) -> NDArray[np.uint32]:
    """Return the Philox key of a (seed, step) pair.

    Shape:
        Returns (2,) uint32.
    """
    mixed = _mix64(_mix64(seed & 0xFFFFFFFFFFFFFFFF) ^ (step & 0xFFFFFFFFFFFFFFFF))
    return np.array([mixed & 0xFFFFFFFF, mixed >> 32], np.uint32)


def stream_id(purpose: Purpose, layer: int = 0, call: int = 0) -> np.uint32:
    """Return the part of the counter that encodes purpose, layer and call within the layer.

    Args:
        purpose: Purpose, below 16.
        layer: Index of the layer, below 65,536.
        call: Number of the call, below `MAX_CALLS`.
    """
    low, high = call & 0xFF, (call >> 8) & 0xF
    return np.uint32((purpose & 0xF) | (high << 4) | (low << 8) | ((layer & 0xFFFF) << 16))


def philox4x32(counters_R4: NDArray[np.uint32], key_2: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return Philox4x32-10 of each counter.

    Shape:
        counters_R4: (R, 4) uint32. key_2: (2,) uint32. Returns (R, 4) uint32.
    """
    out = np.empty_like(counters_R4)
    _philox_rows(np.ascontiguousarray(counters_R4), key_2, out)
    return out


def hash_keys(
    keys_R: NDArray[np.int64], seed: int, purpose: Purpose, *, step: int = 0
) -> NDArray[np.uint64]:
    """Return 64 random bits for each element key; equal keys get equal bits.

    Shape:
        keys_R: (R,) int64. Returns (R,) uint64.
    """
    keys_R = np.ascontiguousarray(keys_R, np.int64)
    out = np.empty(keys_R.shape[0], np.uint64)
    _hash_keys(keys_R, stream_id(purpose), step_key(seed, step), out)
    return out


def _threshold(p: float) -> np.uint32:
    return np.uint32(p * 2.0**32)


def keep_mask(
    keys_R: NDArray[np.int64], width: int, p: float, key_2: NDArray[np.uint32], stream: np.uint32
) -> NDArray[np.bool_]:
    """Draw which of `width` columns of each row are kept; each is dropped with probability p.

    Shape:
        keys_R: (R,) int64 node or edge keys. Returns (R, width) bool.
    """
    kept = np.empty((keys_R.shape[0], width), np.bool_)
    _keep_rows(keys_R, _threshold(p), stream, key_2, kept)
    return kept


def dropout(
    x_RF: NDArray[Any],
    keys_R: NDArray[np.int64],
    p: float,
    key_2: NDArray[np.uint32],
    stream: np.uint32,
    out_RF: NDArray[Any],
) -> None:
    """Write x / (1 - p) where `keep_mask` is True and 0 elsewhere, in one pass.

    Shape:
        x_RF, out_RF: (R, F) float32 or float64, C-contiguous; they may be the same array. keys_R:
        (R,) int64.
    """
    scale = x_RF.dtype.type(1.0 / (1.0 - p))
    _dropout_rows(x_RF, keys_R, _threshold(p), scale, stream, key_2, out_RF)


def dropout_of_entries(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[Any] | None,
    width: int,
    keys_R: NDArray[np.int64],
    p: float,
    key_2: NDArray[np.uint32],
    stream: np.uint32,
    out: NDArray[Any],
) -> None:
    """Write the values of a sparse matrix after `dropout` of its rows, which are the same draws.

    Args:
        indptr: (R + 1,) start of each row's entries.
        indices: (Z,) column of each entry.
        values: (Z,) value of each entry; None if all are 1.
        width: Number of columns.
        keys_R: (R,) int64 node keys.
        p: Probability of dropping an entry.
        key_2: (2,) uint32 Philox key.
        stream: Id of the random stream.
        out: (Z,) float32 or float64 values that are written.
    """
    scale, blocks = out.dtype.type(1.0 / (1.0 - p)), np.uint32(max(1, (width + 3) // 4))
    threshold = _threshold(p)
    _dropout_entries(indptr, indices, values, blocks, keys_R, threshold, scale, stream, key_2, out)
