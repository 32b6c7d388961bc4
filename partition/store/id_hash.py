"""Hash of original ids, which selects the bucket of an id in the index of a store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.ooc.text_table import text_buffers
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["hash_ids"]


def hash_ids(ids: pa.Array) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each id, the same in every process and version.

    Shape:
        ids: (R,) int64 or string. Returns (R,) uint64.
    """
    if pa.types.is_int64(ids.type):
        words: NDArray[np.int64] = ids.to_numpy()
    else:
        words = np.empty(len(ids), np.int64)
        _fnv1a(*text_buffers(ids.cast(pa.large_string())), words)
    return hash_keys(words, 0, Purpose.PLACEMENT)


@jit
def _fnv1a(bounds: NDArray[np.int64], data: NDArray[np.uint8], out: NDArray[np.int64]) -> None:
    # FNV-1a (Fowler, Noll, Vo): one 64-bit word for each text, which the caller mixes.
    for i in range(out.shape[0]):
        word = np.uint64(0xCBF29CE484222325)
        for j in range(bounds[i], bounds[i + 1]):
            word = (word ^ np.uint64(data[j])) * np.uint64(0x100000001B3)
        out[i] = np.int64(word)
