"""Memory that a thread uses again and again: large arrays would be fresh pages every time."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ThreadBuffers"]


class ThreadBuffers(threading.local):
    """Arrays by name, of each thread its own. What is taken is valid until it is taken again."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, size: int, kind: Any) -> NDArray[Any]:
        """Return an array of `size` elements of a type, whatever is in it."""
        dtype = np.dtype(kind)
        need = size * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < need:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = np.empty(need + need // 16, np.uint8)
        return buffer[:need].view(dtype)
