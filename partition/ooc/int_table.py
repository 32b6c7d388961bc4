"""Hash tables of integer ids, and what they share with those of texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit

__all__ = ["LEAST_SLOTS", "IntMap", "IntSet", "in_slice", "mix", "num_slots_for"]

LEAST_SLOTS = 1 << 10


def num_slots_for(num_ids: int) -> int:
    """Return the number of slots of a table for `num_ids` ids: a power of two."""
    return max(LEAST_SLOTS, 1 << (2 * num_ids - 1).bit_length())


@jit
def mix(word: np.uint64) -> np.uint64:
    """Mix the bits of a word, by the finaliser of SplitMix64."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@jit
def in_slice(mixed: np.uint64, index: np.uint64, num_slices: np.uint64) -> bool:
    """Return whether an id with these mixed bits belongs to slice `index`."""
    if num_slices == np.uint64(1):
        return True
    of: np.uint64 = ((mixed >> np.uint64(32)) * num_slices) >> np.uint64(32)
    return bool(of == index)


class IntSet:
    """`IdSet` of integers."""

    def __init__(self, index: int, num_slices: int) -> None:
        self._slice = np.uint64(index), np.uint64(num_slices)
        self._slots = np.zeros(LEAST_SLOTS, np.int64)
        self._used = np.zeros(LEAST_SLOTS, np.bool_)
        self._count = 0

    @property
    def num_bytes(self) -> int:
        return int(self._slots.nbytes + self._used.nbytes)

    def add(self, ids: pa.Array) -> None:
        values, done = ids.to_numpy(), 0
        while True:
            done, self._count = _add_ints(
                values, done, self._count, *self._slice, self._slots, self._used
            )
            if done == len(values):
                return
            full, used = self._slots, self._used
            self._slots = np.zeros(2 * len(full), np.int64)
            self._used = np.zeros(2 * len(full), np.bool_)
            _add_ints(full[used], 0, 0, np.uint64(0), np.uint64(1), self._slots, self._used)

    def ids(self) -> pa.Array:
        return pa.array(self._slots[self._used])


@jit
def _add_ints(
    values: NDArray[np.int64],
    start: int,
    count: int,
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.int64],
    used: NDArray[np.bool_],
) -> tuple[int, int]:
    """Add values from `start` on until the table is half full; return the next, and the count."""
    mask = np.uint64(slots.shape[0] - 1)
    most = slots.shape[0] // 2
    for i in range(start, values.shape[0]):
        value = values[np.uint64(i)]
        mixed = mix(np.uint64(value))
        if not in_slice(mixed, index, num_slices):
            continue
        slot = mixed & mask
        while used[slot] and slots[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        if not used[slot]:
            if count == most:
                return i, count
            used[slot] = True
            slots[slot] = value
            count += 1
    return values.shape[0], count


class IntMap:
    """`IdMap` of integers. A slot is (id, key), with a negative key if it is empty."""

    def __init__(self, index: int, num_slices: int, num_ids: int) -> None:
        self._slice = np.uint64(index), np.uint64(num_slices)
        # The number of ids in a slice is binomial: allow for eight standard deviations.
        share = num_ids // num_slices + 8 * int((num_ids / num_slices) ** 0.5) + 8
        self._slots = np.empty((num_slots_for(min(num_ids, share)), 2), np.int64)
        self._slots[:, 1] = -1

    def insert(self, ids: pa.Array, first_key: int) -> pa.Array:
        values = ids.to_numpy()
        duplicate = np.zeros(len(values), np.bool_)
        _insert_ints(values, first_key, *self._slice, self._slots, duplicate)
        return ids.take(pa.array(np.flatnonzero(duplicate)))

    def find(self, ids: pa.Array, keys: NDArray[np.int64]) -> None:
        _find_ints(ids.to_numpy(), *self._slice, self._slots, keys)


@jit
def _int_slot(value: np.int64, mixed: np.uint64, slots: NDArray[np.int64]) -> np.uint64:
    """Return the slot that has a value, or the empty one where it belongs."""
    mask = np.uint64(slots.shape[0] - 1)
    slot = mixed & mask
    while slots[slot, np.uint64(1)] >= 0 and slots[slot, np.uint64(0)] != value:
        slot = (slot + np.uint64(1)) & mask
    return slot


@jit
def _insert_ints(
    values: NDArray[np.int64],
    first_key: int,
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.int64],
    duplicate: NDArray[np.bool_],
) -> None:
    for i in range(np.uint64(values.shape[0])):
        mixed = mix(np.uint64(values[i]))
        if not in_slice(mixed, index, num_slices):
            continue
        slot = _int_slot(values[i], mixed, slots)
        if slots[slot, np.uint64(1)] >= 0:
            duplicate[i] = True
        else:
            slots[slot, np.uint64(0)] = values[i]
            slots[slot, np.uint64(1)] = first_key + np.int64(i)


@jit
def _find_ints(
    values: NDArray[np.int64],
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.int64],
    keys: NDArray[np.int64],
) -> None:
    for i in range(np.uint64(values.shape[0])):
        mixed = mix(np.uint64(values[i]))
        if not in_slice(mixed, index, num_slices):
            continue
        slot = _int_slot(values[i], mixed, slots)
        keys[i] = slots[slot, np.uint64(1)]
