"""Reusable memory of each thread: allocating large arrays again would fault in new pages."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ThreadBuffers"]


class ThreadBuffers(threading.local):
    """Named buffers, separate for each thread. An array is valid until its name is taken again."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, size: int, dtype: Any) -> NDArray[Any]:
        """Return an uninitialised array of `size` elements."""
        dtype = np.dtype(dtype)
        need = size * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < need:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = np.empty(need + need // 16, np.uint8)
        return buffer[:need].view(dtype)
