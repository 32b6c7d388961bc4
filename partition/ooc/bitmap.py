"""Bit maps: sets of small integers, and the position of a member among the sorted members."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import inline_jit, jit

__all__ = ["BitMap", "MemberPositions", "member_position", "positions_in_sorted_groups"]

_INT32_LIMIT = 2**31


class BitMap:
    """Set of integers in [0, stop), one bit for each; it can be enlarged.

    Attributes:
        words: The bits.

    Shape:
        words: (W,) uint64.
    """

    def __init__(self, stop: int = 0) -> None:
        self.words = np.zeros((stop >> 6) + 1, np.uint64)

    def reach(self, value: int) -> None:
        """Enlarge the set so that `value` can be added."""
        missing = (value >> 6) + 1 - len(self.words)
        if missing > 0:
            more = np.zeros(max(missing, len(self.words)), np.uint64)
            self.words = np.concatenate([self.words, more])

    def add(self, values_R: NDArray[Any]) -> None:
        """Add values that the set has room for. Only one thread may add at a time."""
        _set_bits(values_R, self.words)

    def add_pairs(self, left_R: NDArray[Any], right_R: NDArray[Any]) -> None:
        """Add the values of two arrays in one pass: fast for two fields of one array of records."""
        _set_pairs(left_R, right_R, self.words)

    def members(self) -> NDArray[np.int64]:
        """Return the members in ascending order."""
        return _members(self.words)


class MemberPositions:
    """Positions of the members of a bit map in ascending order.

    Takes 16 bytes for 64 possible members; a look-up reads one cache line.

    Attributes:
        table: For each word of bits, the word and the number of members before it.
        count: Number of members.

    Shape:
        table: (W, 2) uint64.
    """

    def __init__(self, bits: BitMap) -> None:
        self.table = np.empty((len(bits.words), 2), np.uint64)
        self.table[:, 0] = bits.words
        self.count = int(_count_before(self.table))

    def find(self, values_R: NDArray[Any]) -> NDArray[Any]:
        """Return the positions of values, all of which must be members.

        Shape:
            values_R: (R,) integers. Returns (R,) int32 if there are fewer than 2^31 members, else
            int64.
        """
        dtype = np.int32 if self.count < _INT32_LIMIT else np.int64
        positions = np.empty(values_R.shape[0], dtype)
        _find(values_R, self.table, positions)
        return positions


def positions_in_sorted_groups(
    values_R: NDArray[Any], starts: NDArray[np.int64], stop: int
) -> NDArray[np.int64]:
    """Return the position that each value takes when every group is sorted on its own.

    Args:
        values_R: Values of one group after another, distinct within a group, in [0, stop).
        starts: Position of the first value of each group, and the number of values.
        stop: Upper bound of the values.

    Shape:
        values_R: (R,) integers. starts: (G + 1,). Returns (R,).
    """
    table = np.empty(((stop >> 6) + 1, 2), np.uint64)
    positions = np.empty(len(values_R), np.int64)
    _positions_in_sorted_groups(values_R, starts, table, positions)
    return positions


@inline_jit
def _popcount(word: np.uint64) -> np.uint64:
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@inline_jit
def member_position(table: NDArray[np.uint64], value: np.uint64) -> np.uint64:
    """Return the position of a member, for compiled code; `table` is that of `MemberPositions`."""
    word = value >> np.uint64(6)
    below = (np.uint64(1) << (value & np.uint64(63))) - np.uint64(1)
    before: np.uint64 = table[word, np.uint64(1)]
    return before + _popcount(table[word, np.uint64(0)] & below)


@inline_jit
def _set_bit(value: np.uint64, words: NDArray[np.uint64]) -> None:
    words[value >> np.uint64(6)] |= np.uint64(1) << (value & np.uint64(63))


@jit
def _set_bits(values: NDArray[Any], words: NDArray[np.uint64]) -> None:
    for i in range(np.uint64(values.shape[0])):
        _set_bit(np.uint64(values[i]), words)


@jit
def _set_pairs(left: NDArray[Any], right: NDArray[Any], words: NDArray[np.uint64]) -> None:
    for i in range(np.uint64(left.shape[0])):
        _set_bit(np.uint64(left[i]), words)
        _set_bit(np.uint64(right[i]), words)


@jit
def _count_before(table: NDArray[np.uint64]) -> np.uint64:
    total = np.uint64(0)
    for w in range(table.shape[0]):
        table[w, 1] = total
        total += _popcount(table[w, 0])
    return total


@jit
def _find(values: NDArray[Any], table: NDArray[np.uint64], positions: NDArray[Any]) -> None:
    for i in range(np.uint64(values.shape[0])):
        positions[i] = np.int64(member_position(table, np.uint64(values[i])))


@jit
def _members(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    count = np.uint64(0)
    for w in range(words.shape[0]):
        count += _popcount(words[w])
    out = np.empty(count, np.int64)
    position = 0
    for w in range(words.shape[0]):
        word = words[w]
        while word:
            lowest = word & (~word + np.uint64(1))
            out[position] = 64 * w + np.int64(_popcount(lowest - np.uint64(1)))
            position += 1
            word ^= lowest
    return out


@jit
def _positions_in_sorted_groups(
    values: NDArray[Any],
    starts: NDArray[np.int64],
    table: NDArray[np.uint64],
    positions: NDArray[np.int64],
) -> None:
    for group in range(starts.shape[0] - 1):
        first, last = np.uint64(starts[group]), np.uint64(starts[group + 1])
        table[:, 0] = 0
        _set_bits(values[first:last], table[:, 0])
        _count_before(table)
        for i in range(first, last):
            positions[i] = np.int64(first + member_position(table, np.uint64(values[i])))
