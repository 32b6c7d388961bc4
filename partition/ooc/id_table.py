"""Hash tables of integer and text ids: sets that grow, and maps from ids to node keys.

The tables use open addressing with linear probing and are at most half full. The compiled functions
release the GIL. The bits of an id are mixed by the finaliser of SplitMix64. The lower bits of the
result select the slot. The upper bits select the slice, one of `num_slices` shares of the ids: each
thread collects one slice, and a map that does not fit memory is built slice by slice.
"""

from __future__ import annotations

from typing import Any, Protocol

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["IdMap", "IdSet", "id_map", "id_set", "map_bytes"]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)
_LEAST_SLOTS = 1 << 10


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
        return _IntSet(index, num_slices)
    return _TextSet(index, num_slices)


def id_map(id_type: pa.DataType, index: int, num_slices: int, num_ids: int) -> IdMap:
    """Return an empty map for slice `index` of `num_ids` ids of type int64 or string."""
    if pa.types.is_int64(id_type):
        return _IntMap(index, num_slices, num_ids)
    return _TextMap(index, num_slices, num_ids)


def map_bytes(id_type: pa.DataType, num_ids: int) -> int:
    """Return an estimate of the bytes of an `id_map` of all ids, for texts of 16 bytes."""
    return num_ids * (48 if pa.types.is_int64(id_type) else 96)


def _num_slots(num_ids: int) -> int:
    return max(_LEAST_SLOTS, 1 << (2 * num_ids - 1).bit_length())


@_jit
def _mix(word: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@_jit
def _in_slice(
    mixed: np.uint64, index: np.uint64, num_slices: np.uint64
) -> bool:  # pragma: no cover - compiled
    of: np.uint64 = ((mixed >> np.uint64(32)) * num_slices) >> np.uint64(32)
    return bool(of == index)


# Integers


class _IntSet:
    def __init__(self, index: int, num_slices: int) -> None:
        self._slice = np.uint64(index), np.uint64(num_slices)
        self._slots = np.zeros(_LEAST_SLOTS, np.int64)
        self._used = np.zeros(_LEAST_SLOTS, np.bool_)
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


@_jit
def _add_ints(
    values: NDArray[np.int64],
    start: int,
    count: int,
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.int64],
    used: NDArray[np.bool_],
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Add values from `start` on until the table is half full; return the next, and the count."""
    mask = np.uint64(slots.shape[0] - 1)
    most = slots.shape[0] // 2
    for i in range(start, values.shape[0]):
        value = values[np.uint64(i)]
        mixed = _mix(np.uint64(value))
        if not _in_slice(mixed, index, num_slices):
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


class _IntMap:
    def __init__(self, index: int, num_slices: int, num_ids: int) -> None:
        self._slice = np.uint64(index), np.uint64(num_slices)
        # The number of ids in a slice is binomial: allow for eight standard deviations.
        share = num_ids // num_slices + 8 * int((num_ids / num_slices) ** 0.5) + 8
        self._slots = np.empty((_num_slots(min(num_ids, share)), 2), np.int64)
        self._slots[:, 1] = -1

    def insert(self, ids: pa.Array, first_key: int) -> pa.Array:
        values = ids.to_numpy()
        duplicate = np.zeros(len(values), np.bool_)
        _insert_ints(values, first_key, *self._slice, self._slots, duplicate)
        return ids.take(pa.array(np.flatnonzero(duplicate)))

    def find(self, ids: pa.Array, keys: NDArray[np.int64]) -> None:
        _find_ints(ids.to_numpy(), *self._slice, self._slots, keys)


@_jit
def _int_slot(
    value: np.int64, mixed: np.uint64, slots: NDArray[np.int64]
) -> np.uint64:  # pragma: no cover - compiled
    """Return the slot that has a value, or the empty one where it belongs."""
    mask = np.uint64(slots.shape[0] - 1)
    slot = mixed & mask
    while slots[slot, np.uint64(1)] >= 0 and slots[slot, np.uint64(0)] != value:
        slot = (slot + np.uint64(1)) & mask
    return slot


@_jit
def _insert_ints(
    values: NDArray[np.int64],
    first_key: int,
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.int64],
    duplicate: NDArray[np.bool_],
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(values.shape[0])):
        mixed = _mix(np.uint64(values[i]))
        if not _in_slice(mixed, index, num_slices):
            continue
        slot = _int_slot(values[i], mixed, slots)
        if slots[slot, np.uint64(1)] >= 0:
            duplicate[i] = True
        else:
            slots[slot, np.uint64(0)] = values[i]
            slots[slot, np.uint64(1)] = first_key + np.int64(i)


@_jit
def _find_ints(
    values: NDArray[np.int64],
    index: np.uint64,
    num_slices: np.uint64,
    slots: NDArray[np.int64],
    keys: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(values.shape[0])):
        mixed = _mix(np.uint64(values[i]))
        if not _in_slice(mixed, index, num_slices):
            continue
        slot = _int_slot(values[i], mixed, slots)
        keys[i] = slots[slot, np.uint64(1)]


# Text


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


class _TextSet(_Texts):
    def __init__(self, index: int, num_slices: int) -> None:
        super().__init__(index, num_slices, _LEAST_SLOTS)

    @property
    def num_bytes(self) -> int:
        return int(self._slots.nbytes + self._bounds.nbytes + self._arena.nbytes)

    def add(self, ids: pa.Array) -> None:
        bounds, data = _text_buffers(ids)
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


class _TextMap(_Texts):
    def __init__(self, index: int, num_slices: int, num_ids: int) -> None:
        super().__init__(index, num_slices, _num_slots(num_ids // num_slices))
        self._keys = np.empty(len(self._bounds), np.int64)

    def insert(self, ids: pa.Array, first_key: int) -> pa.Array:
        bounds, data = _text_buffers(ids)
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
        bounds, data = _text_buffers(ids)
        _find_texts(
            bounds, data, *self._slice, self._slots, self._bounds, self._arena, self._keys, keys
        )


def _empty_slots(num_slots: int) -> NDArray[np.uint64]:
    return np.zeros((num_slots, 2), np.uint64)  # (hash, 0 if empty, else entry + 1)


def _text_buffers(ids: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return the bounds of the texts in their bytes, and the bytes."""
    _, offsets, data = ids.buffers()
    dtype = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    if offsets is None or not len(ids):
        return np.zeros(1, dtype), np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, dtype)[ids.offset : ids.offset + len(ids) + 1]
    return bounds, np.frombuffer(data or b"", np.uint8)


@_jit
def _hash_text(
    data: NDArray[np.uint8], start: np.int64, stop: np.int64
) -> np.uint64:  # pragma: no cover - compiled
    # FNV-1a (Fowler, Noll, Vo), mixed. The length distinguishes texts that differ in final zeros.
    word = np.uint64(0xCBF29CE484222325) ^ np.uint64(stop - start)
    for j in range(start, stop):
        word = (word ^ np.uint64(data[np.uint64(j)])) * np.uint64(0x100000001B3)
    return _mix(word)


@_jit
def _same_text(
    data: NDArray[np.uint8],
    start: np.int64,
    stop: np.int64,
    arena: NDArray[np.uint8],
    first: np.int64,
    last: np.int64,
) -> bool:  # pragma: no cover - compiled
    if stop - start != last - first:
        return False
    for j in range(stop - start):
        if data[np.uint64(start + j)] != arena[np.uint64(first + j)]:
            return False
    return True


@_jit
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
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Add texts from `start` on until the table is half full; return the next, and the count."""
    mask = np.uint64(slots.shape[0] - 1)
    zero, one = np.uint64(0), np.uint64(1)
    most = slots.shape[0] // 2
    for i in range(start, bounds.shape[0] - 1):
        begin, end = np.int64(bounds[i]), np.int64(bounds[i + 1])
        hashed = _hash_text(data, begin, end)
        if not _in_slice(hashed, index, num_slices):
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


@_jit
def _move_texts(
    slots: NDArray[np.uint64], larger: NDArray[np.uint64]
) -> None:  # pragma: no cover - compiled
    mask = np.uint64(larger.shape[0] - 1)
    for i in range(slots.shape[0]):
        if slots[i, 1] != np.uint64(0):
            slot = slots[i, 0] & mask
            while larger[slot, np.uint64(1)] != np.uint64(0):
                slot = (slot + np.uint64(1)) & mask
            larger[slot, 0] = slots[i, 0]
            larger[slot, 1] = slots[i, 1]


@_jit
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
) -> None:  # pragma: no cover - compiled
    """Set the keys of the entries that rows [begin, end) added, in the order of the rows."""
    for i in range(begin, end):
        if duplicate[i]:
            continue
        if num_slices > 1:
            hashed = _hash_text(data, np.int64(bounds[i]), np.int64(bounds[i + 1]))
            if not _in_slice(hashed, index, num_slices):
                continue
        keys[entry] = first_key + i
        entry += 1


@_jit
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
) -> None:  # pragma: no cover - compiled
    mask = np.uint64(slots.shape[0] - 1)
    zero, one = np.uint64(0), np.uint64(1)
    for i in range(bounds.shape[0] - 1):
        begin, end = np.int64(bounds[i]), np.int64(bounds[i + 1])
        hashed = _hash_text(data, begin, end)
        if not _in_slice(hashed, index, num_slices):
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
