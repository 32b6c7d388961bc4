"""Launching: a kernel on all threads that torch may use.

The kernel is handed to the OpenMP runtime that torch has loaded, so that its threads, and no
second set beside them, run both. Without one (or with a single thread or chunk) the caller runs
the kernel alone. The interpreter lock is free meanwhile.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch

__all__ = ["run"]

_Run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Any:
    """Return `GOMP_parallel(function, argument, threads, flags)` of torch's runtime, or None."""
    try:
        with open("/proc/self/maps") as maps:
            names = {line.split()[-1] for line in maps if "libgomp" in line or "libiomp" in line}
        library = ctypes.CDLL(sorted(names)[0])
        function = library.GOMP_parallel
    except (OSError, IndexError, AttributeError):
        return None
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return function


def run(address: int, pointers: Any, num_chunks: int) -> None:
    """Run a kernel until its chunks are done.

    Args:
        address: Of the machine code.
        pointers: What `CompiledKernel.bind` returned.
        num_chunks: Chunks there are.
    """
    threads = min(torch.get_num_threads(), num_chunks)
    argument = ctypes.addressof(pointers)
    parallel = _openmp() if threads > 1 else None
    if parallel is None:
        _Run(address)(argument)
    else:
        parallel(address, argument, threads, 0)
