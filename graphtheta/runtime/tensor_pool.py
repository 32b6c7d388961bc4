"""Pool of memory for large tensors, which a step reuses from the last step.

The C allocator returns large buffers to the kernel when they are freed and gets new ones page by
page, which costs as much time as computing their content. Here, a freed buffer is kept for the next
tensor of its size. The pool never holds more bytes than were once in use at the same time.
`GRAPHTHETA_MALLOC=system` turns the pool off.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
import weakref
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.runtime.malloc import is_left_to_system

__all__ = ["Pool", "empty"]

_IS_LINUX = sys.platform == "linux"
_MIN_BYTES = 4 << 20  # the C allocator keeps smaller buffers itself

_TYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
}

_Buffer = NDArray[np.uint8]


class Pool:
    """Pool of freed buffers, by size.

    Attributes:
        returned: Buffers that were freed since the last `take`. Any thread may append to it, also
            while a lock is held.
        held: Bytes of all buffers, free or in use.
        used: Bytes of the buffers in use at the last `take`.
    """

    def __init__(self) -> None:
        self.returned: deque[_Buffer] = deque()
        self.held = self.used = 0
        self._most_used = 0
        self._free: dict[int, list[_Buffer]] = {}
        self._lock = Lock()

    def take(self, size: int) -> _Buffer:
        """Return a buffer of uninitialised memory, reused if one of its size is free.

        Shape:
            Returns (size,).
        """
        with self._lock:
            while self.returned:
                buffer = self.returned.popleft()
                self.used -= buffer.nbytes
                self._free.setdefault(buffer.nbytes, []).append(buffer)
            self._most_used = max(self._most_used, self.used + size)
            buffers = self._free.get(size)
            if not buffers:
                self._drop(self._most_used - size)
                buffers = [_allocate(size)]
                self.held += size
            self.used += size
            return buffers.pop()

    def _drop(self, most: int) -> None:
        """Release free buffers until the pool holds at most `most` bytes."""
        for size, buffers in self._free.items():
            while buffers and self.held > most:
                buffers.pop()
                self.held -= size


def _allocate(size: int) -> _Buffer:
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # the kernel may have no huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)  # one page fault per 2 MiB
    return np.frombuffer(pages, np.uint8)


_pool = Pool()


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor on the CPU, as `torch.empty` does, from the pool if large.

    Shape:
        Returns `shape`.
    """
    size, kind = math.prod(shape) * dtype.itemsize, _TYPES.get(dtype)
    if size < _MIN_BYTES or kind is None or is_left_to_system() or not _IS_LINUX:
        return torch.empty(tuple(shape), dtype=dtype)
    buffer = _pool.take(_round_up(size))
    array = buffer[:size].view(kind).reshape(tuple(shape))
    weakref.finalize(array, _pool.returned.append, buffer).atexit = False
    return torch.from_numpy(array)


def _round_up(size: int) -> int:
    """Return the next of eight sizes per power of two, so that similar tensors share buffers."""
    step = 1 << max(12, size.bit_length() - 4)
    return -(-size // step) * step
