"""Memory of large tensors that is kept for the next ones: a step needs what the last one needed.

The C allocator gives blocks of megabytes back to the kernel when they are freed, and gets them anew
page by page, which costs as much as computing what is written there. Here a block that is freed
waits for the next tensor of its size; what waits and what is in use are together at most what was
ever in use at once. `GRAPHTHETA_MALLOC=system` leaves all to the C allocator.
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
_SMALLEST = 4 << 20  # bytes; the C allocator keeps smaller blocks

_TYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
}

_Block = NDArray[np.uint8]


class Pool:
    """Blocks that were freed, by size.

    Attributes:
        returned: Blocks come back here, from any thread, also while a lock is held.
        held: Bytes of all blocks.
        used: Bytes of those that have not come back, when one was last taken.
    """

    def __init__(self) -> None:
        self.returned: deque[_Block] = deque()
        self.held = self.used = 0
        self._most = 0  # that were ever in use at once
        self._free: dict[int, list[_Block]] = {}
        self._lock = Lock()

    def take(self, size: int) -> _Block:
        """Return a block whose content is arbitrary, an old one or a fresh one.

        Shape:
            Returns (size,).
        """
        with self._lock:
            while self.returned:
                block = self.returned.popleft()
                self.used -= block.nbytes
                self._free.setdefault(block.nbytes, []).append(block)
            self._most = max(self._most, self.used + size)
            blocks = self._free.get(size)
            if not blocks:
                self._drop(self._most - size)
                blocks = [_fresh(size)]
                self.held += size
            self.used += size
            return blocks.pop()

    def _drop(self, most: int) -> None:
        """Give free blocks back to the kernel until no more bytes than `most` are held."""
        for size, blocks in self._free.items():
            while blocks and self.held > most:
                blocks.pop()
                self.held -= size


def _fresh(size: int) -> _Block:
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # of a kernel that has no huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)  # one fault for 2 MiB
    return np.frombuffer(pages, np.uint8)


_pool = Pool()


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor on the CPU whose content is arbitrary, as `torch.empty`.

    Shape:
        Returns `shape`.
    """
    size, kind = math.prod(shape) * dtype.itemsize, _TYPES.get(dtype)
    if size < _SMALLEST or kind is None or is_left_to_system() or not _IS_LINUX:
        return torch.empty(tuple(shape), dtype=dtype)
    block = _pool.take(_rounded(size))
    array = block[:size].view(kind).reshape(tuple(shape))
    weakref.finalize(array, _pool.returned.append, block).atexit = False
    return torch.from_numpy(array)


def _rounded(size: int) -> int:
    """Return the next of eight sizes an octave: batches that are almost alike share blocks."""
    step = 1 << max(12, size.bit_length() - 4)
    return -(-size // step) * step
