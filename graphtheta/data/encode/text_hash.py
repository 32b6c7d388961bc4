"""Hash of texts, the same in every process and version."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["hash_texts"]

_START, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def hash_texts(texts: pa.Array) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each text: FNV-1a, and the finaliser of SplitMix64.

    Args:
        texts: R strings without nulls.

    Shape:
        Returns (R,) uint64.
    """
    if not len(texts):
        return np.empty(0, np.uint64)
    texts = texts.cast(pa.large_string())
    bounds = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8)
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    lengths = np.diff(bounds)
    order = np.argsort(-lengths, kind="stable")  # so that the texts with a j-th byte come first
    starts, sorted_lengths = bounds[:-1][order], -lengths[order]
    word = np.full(len(texts), _START)
    for j in range(int(lengths.max(initial=0))):
        longer = np.searchsorted(sorted_lengths, -j)  # texts of more than j bytes
        word[:longer] = (word[:longer] ^ data[starts[:longer] + j]) * _PRIME
    hashes = np.empty_like(word)
    hashes[order] = word
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(hashes ^ (hashes >> np.uint64(31)), np.uint64)
