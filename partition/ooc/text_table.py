"""Hash tables of text ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.ooc.int_table import LEAST_SLOTS, in_slice, mix, num_slots_for

__all__ = ["TextMap", "TextSet", "text_buffers"]


class _Texts:
    """Table of texts. A slot is (hash, entry); the texts of all entries are in one buffer."""

    def __init__(self, index: int, num_slices: int, num_slots: int) -> None:
        self._slice = np.uint64(index), np.uint64(num_slices)
        self._slots = _empty_slots(num_slots)
        self._bounds = np.zeros(num_slots // 2 + 1, np.int64)
        self._arena = np.empty(1 << 16, np.uint8)
        self._count = 0

    def _reserve(self, num_bytes: int) -> None:
        need = int(self._bounds[self._count]) + num_bytes
        if need > len(self._arena):
            arena = np.empty(max(need, 2 * len(self._arena)), np.uint8)
            arena[: len(self._arena)] = self._arena
            self._arena = arena

    def _grow(self) -> None:
        slots = _empty_slots(2 * len(self._slots))
        _move_texts(self._slots, slots)
        self._slots = slots
        self._bounds = np.concatenate([self._bounds, np.zeros(len(slots) // 4, np.int64)])


class TextSet(_Texts):
    """`IdSet` of texts."""

    def __init__(self, index: int, num_slices: int) -> None:
        super().__init__(index, num_slices, LEAST_SLOTS)

    @property
    def num_bytes(self) -> int:
        return int(self._slots.nbytes + self._bounds.nbytes + self._arena.nbytes)

    def add(self, ids: pa.Array) -> None:
        bounds, data = text_buffers(ids)
        self._reserve(int(bounds[-1] - bounds[0]))
        done, not_marked = 0, np.zeros(0, np.bool_)
        while True:
            done, self._count = _add_texts(
                bounds, data, done, self._count, *self._slice,
                self._slots, self._bounds, self._arena, not_marked,
            )  # fmt: skip
            if done == len(ids):
                return
            self._grow()

    def ids(self) -> pa.Array:
        bounds = self._bounds[: self._count + 1]
        data = pa.py_buffer(self._arena[: bounds[-1]].tobytes())
        texts = pa.LargeStringArray.from_buffers(self._count, pa.py_buffer(bounds.tobytes()), data)
        return texts.cast(pa.string()) if bounds[-1] < 2**31 else texts


class TextMap(_Texts):
    """`IdMap` of texts."""

    def __init__(self, index: int, num_slices: int, num_ids: int) -> None:
        super().__init__(index, num_slices, num_slots_for(num_ids // num_slices))
        self._keys = np.empty(len(self._bounds), np.int64)

    def insert(self, ids: pa.Array, first_key: int) -> pa.Array:
        bounds, data = text_buffers(ids)
        self._reserve(int(bounds[-1] - bounds[0]))
        done, duplicate = 0, np.zeros(len(ids), np.bool_)
        while True:
            before, begin = self._count, done
            done, self._count = _add_texts(
                bounds, data, done, self._count, *self._slice,
                self._slots, self._bounds, self._arena, duplicate,
            )  # fmt: skip
            _new_keys(
                duplicate, bounds, data, begin, done, *self._slice, first_key, before, self._keys
            )
            if done == len(ids):
                return ids.take(pa.array(np.flatnonzero(duplicate)))
            self._grow()
            self._keys = np.concatenate([self._keys, np.empty(len(self._keys), np.int64)])

    def find(self, ids: pa.Array, keys: NDArray[np.int64]) -> None:
        bounds, data = text_buffers(ids)
        _find_texts(
            bounds, data, *self._slice, self._slots, self._bounds, self._arena, self._keys, keys
        )


def _empty_slots(num_slots: int) -> NDArray[np.uint64]:
    return np.zeros((num_slots, 2), np.uint64)  # (hash, 0 if empty, else entry + 1)


def text_buffers(ids: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return the bounds of the texts in their bytes, and the bytes."""
    _, offsets, data = ids.buffers()
    dtype = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    if offsets is None or not len(ids):
        return np.zeros(1, dtype), np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, dtype)[ids.offset : ids.offset + len(ids) + 1]
    return bounds, np.frombuffer(data or b"", np.uint8)


@jit
def _hash_text(data: NDArray[np.uint8], start: np.int64, stop: np.int64) -> np.uint64:
    # FNV-1a (Fowler, Noll, Vo), mixed. The length distinguishes texts that differ in final zeros.
    word = np.uint64(0xCBF29CE484222325) ^ np.uint64(stop - start)
    for j in range(start, stop):
        word = (word ^ np.uint64(data[np.uint64(j)])) * np.uint64(0x100000001B3)
    return mix(word)


@jit
def _same_text(
    data: NDArray[np.uint8],
    start: np.int64,
    stop: np.int64,
    arena: NDArray[np.uint8],
    first: np.int64,
    last: np.int64,
) -> bool:
    if stop - start != last - first:
        return False
    for j in range(stop - start):
        if data[np.uint64(start + j)] != arena[np.uint64(first + j)]:
            return False
    return True


@jit
def _add_texts(
    bounds: NDArray[Any],
    data: NDArray[np.uint8],
    start: int,
    count: int,
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.uint64],
    entries: NDArray[np.int64],
    arena: NDArray[np.uint8],
    duplicate: NDArray[np.bool_],
) -> tuple[int, int]:
    """Add texts from `start` on until the table is half full; return the next, and the count."""
    mask = np.uint64(slots.shape[0] - 1)
    zero, one = np.uint64(0), np.uint64(1)
    most = slots.shape[0] // 2
    for i in range(start, bounds.shape[0] - 1):
        begin, end = np.int64(bounds[i]), np.int64(bounds[i + 1])
        hashed = _hash_text(data, begin, end)
        if not in_slice(hashed, index, num_slices):
            continue
        # As in `_find_texts`: a shared function would count references to the arrays for each text.
        slot = hashed & mask
        while slots[slot, one] != zero:
            if slots[slot, zero] == hashed:
                entry = np.int64(slots[slot, one] - one)
                if _same_text(data, begin, end, arena, entries[entry], entries[entry + 1]):
                    break
            slot = (slot + one) & mask
        if slots[slot, one] != zero:
            if duplicate.shape[0]:
                duplicate[i] = True
            continue
        if count == most:
            return i, count
        first = entries[count]
        for j in range(end - begin):
            arena[np.uint64(first + j)] = data[np.uint64(begin + j)]
        entries[count + 1] = first + end - begin
        count += 1
        slots[slot, zero] = hashed
        slots[slot, one] = np.uint64(count)
    return bounds.shape[0] - 1, count


@jit
def _move_texts(slots: NDArray[np.uint64], larger: NDArray[np.uint64]) -> None:
    mask = np.uint64(larger.shape[0] - 1)
    for i in range(slots.shape[0]):
        if slots[i, 1] != np.uint64(0):
            slot = slots[i, 0] & mask
            while larger[slot, np.uint64(1)] != np.uint64(0):
                slot = (slot + np.uint64(1)) & mask
            larger[slot, 0] = slots[i, 0]
            larger[slot, 1] = slots[i, 1]


@jit
def _new_keys(
    duplicate: NDArray[np.bool_],
    bounds: NDArray[Any],
    data: NDArray[np.uint8],
    begin: int,
    end: int,
    index: np.uint64,
    num_slices: np.uint64,
    first_key: int,
    entry: int,
    keys: NDArray[np.int64],
) -> None:
    """Set the keys of the entries that rows [begin, end) added, in the order of the rows."""
    for i in range(begin, end):
        if duplicate[i]:
            continue
        if num_slices > 1:
            hashed = _hash_text(data, np.int64(bounds[i]), np.int64(bounds[i + 1]))
            if not in_slice(hashed, index, num_slices):
                continue
        keys[entry] = first_key + i
        entry += 1


@jit
def _find_texts(
    bounds: NDArray[Any],
    data: NDArray[np.uint8],
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.uint64],
    entries: NDArray[np.int64],
    arena: NDArray[np.uint8],
    keys_of_entries: NDArray[np.int64],
    keys: NDArray[np.int64],
) -> None:
    mask = np.uint64(slots.shape[0] - 1)
    zero, one = np.uint64(0), np.uint64(1)
    for i in range(bounds.shape[0] - 1):
        begin, end = np.int64(bounds[i]), np.int64(bounds[i + 1])
        hashed = _hash_text(data, begin, end)
        if not in_slice(hashed, index, num_slices):
            continue
        slot = hashed & mask
        found = np.int64(-1)
        while slots[slot, one] != zero:
            if slots[slot, zero] == hashed:
                entry = np.int64(slots[slot, one] - one)
                if _same_text(data, begin, end, arena, entries[entry], entries[entry + 1]):
                    found = keys_of_entries[entry]
                    break
            slot = (slot + one) & mask
        keys[i] = found
