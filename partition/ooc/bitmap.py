"""Sets of small integers as bits, and the rank of a member among the sorted members."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["BitMap", "Ranks", "order_within", "rank_of"]

_INT32_LIMIT = 2**31

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


class BitMap:
    """A set of integers in [0, stop), 1 bit for each; grows when it has to.

    Attributes:
        words: The bits.

    Shape:
        words: (W,) uint64.
    """

    def __init__(self, stop: int = 0) -> None:
        self.words = np.zeros((stop >> 6) + 1, np.uint64)

    def reach(self, value: int) -> None:
        """Make room for `value`."""
        missing = (value >> 6) + 1 - len(self.words)
        if missing > 0:
            more = np.zeros(max(missing, len(self.words)), np.uint64)
            self.words = np.concatenate([self.words, more])

    def add(self, values_R: NDArray[Any]) -> None:
        """Add values that are within reach. Threads must not add at the same time."""
        _set_bits(values_R, self.words)

    def add_pairs(self, left_R: NDArray[Any], right_R: NDArray[Any]) -> None:
        """Add the values of two arrays, as `add`; fields of one array of records are read once."""
        _set_pairs(left_R, right_R, self.words)

    def members(self) -> NDArray[np.int64]:
        """Return the members, ascending."""
        return _members(self.words)


class Ranks:
    """The rank of each member of a bit map: 16 bytes for 64 possible members, one cache line read.

    Attributes:
        table: A word of bits and the number of members before it.
        count: Members.

    Shape:
        table: (W, 2) uint64.
    """

    def __init__(self, bits: BitMap) -> None:
        self.table = np.empty((len(bits.words), 2), np.uint64)
        self.table[:, 0] = bits.words
        self.count = int(_count_before(self.table))

    def find(self, values_R: NDArray[Any]) -> NDArray[Any]:
        """Return the ranks of values that are all members.

        Shape:
            values_R: (R,) integers. Returns (R,) int32 if there are less than 2^31 members, else
            int64.
        """
        kind = np.int32 if self.count < _INT32_LIMIT else np.int64
        ranks = np.empty(values_R.shape[0], kind)
        _find(values_R, self.table, ranks)
        return ranks


def order_within(values_R: NDArray[Any], starts: NDArray[np.int64], stop: int) -> NDArray[np.int64]:
    """Return where each value goes when every group is sorted by itself.

    Args:
        values_R: Group after group; in a group no value stands twice.
        starts: Where groups start, and the end of the last.
        stop: Values are below it, and not negative.

    Shape:
        values_R: (R,) integers. starts: (G + 1,). Returns (R,).
    """
    table = np.empty(((stop >> 6) + 1, 2), np.uint64)
    places = np.empty(len(values_R), np.int64)
    _order_within(values_R, starts, table, places)
    return places


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _popcount(word: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def rank_of(table: NDArray[np.uint64], value: np.uint64) -> np.uint64:  # pragma: no cover
    """Return the rank of a member; for compiled code."""
    place = value >> np.uint64(6)
    below = (np.uint64(1) << (value & np.uint64(63))) - np.uint64(1)
    before: np.uint64 = table[place, np.uint64(1)]
    return before + _popcount(table[place, np.uint64(0)] & below)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _set_bit(value: np.uint64, words: NDArray[np.uint64]) -> None:  # pragma: no cover - compiled
    words[value >> np.uint64(6)] |= np.uint64(1) << (value & np.uint64(63))


@_jit
def _set_bits(values: NDArray[Any], words: NDArray[np.uint64]) -> None:  # pragma: no cover
    for i in range(np.uint64(values.shape[0])):
        _set_bit(np.uint64(values[i]), words)


@_jit
def _set_pairs(
    left: NDArray[Any], right: NDArray[Any], words: NDArray[np.uint64]
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(left.shape[0])):
        _set_bit(np.uint64(left[i]), words)
        _set_bit(np.uint64(right[i]), words)


@_jit
def _count_before(table: NDArray[np.uint64]) -> np.uint64:  # pragma: no cover - compiled
    total = np.uint64(0)
    for w in range(table.shape[0]):
        table[w, 1] = total
        total += _popcount(table[w, 0])
    return total


@_jit
def _find(
    values: NDArray[Any], table: NDArray[np.uint64], ranks: NDArray[Any]
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(values.shape[0])):
        ranks[i] = np.int64(rank_of(table, np.uint64(values[i])))


@_jit
def _members(words: NDArray[np.uint64]) -> NDArray[np.int64]:  # pragma: no cover - compiled
    count = np.uint64(0)
    for w in range(words.shape[0]):
        count += _popcount(words[w])
    out = np.empty(count, np.int64)
    place = 0
    for w in range(words.shape[0]):
        word = words[w]
        while word:
            lowest = word & (~word + np.uint64(1))
            out[place] = 64 * w + np.int64(_popcount(lowest - np.uint64(1)))
            place += 1
            word ^= lowest
    return out


@_jit
def _order_within(
    values: NDArray[Any],
    starts: NDArray[np.int64],
    table: NDArray[np.uint64],
    places: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    for group in range(starts.shape[0] - 1):
        first, last = np.uint64(starts[group]), np.uint64(starts[group + 1])
        table[:, 0] = 0
        _set_bits(values[first:last], table[:, 0])
        _count_before(table)
        for i in range(first, last):
            places[i] = np.int64(first + rank_of(table, np.uint64(values[i])))
