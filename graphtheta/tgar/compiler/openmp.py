"""Run a kernel on the threads that torch uses.

Torch computes on the threads of an OpenMP runtime. Kernels run on the same threads, by a call of
`GOMP_parallel` in the runtime that torch has loaded: a second set of threads would compete with
torch's, which spin for a while after each operation. Without such a runtime, kernels run on Python
threads instead. Results are the same bit for bit, since kernels take chunks from a shared counter;
only speed differs. The interpreter lock is released while a kernel runs.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["run"]

_RUNTIMES = ("libgomp", "libiomp", "libomp")
_Parallel = Callable[[int, int, int], None]
_Kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(address: int, pointers: Any, num_chunks: int) -> None:
    """Run a kernel until its chunks are done.

    Args:
        address: Address of the machine code.
        pointers: What `CompiledKernel.bind` returned.
        num_chunks: Number of chunks.
    """
    threads = min(torch.get_num_threads(), num_chunks)
    argument = ctypes.addressof(pointers)
    if threads <= 1:
        _Kernel(address)(argument)
    else:
        (_openmp() or _python_threads)(address, argument, threads)


@functools.cache
def _openmp() -> _Parallel | None:
    """Return a function that runs a kernel on OpenMP threads, or None if there is no runtime."""
    for library in _loaded_runtimes():
        try:
            function = ctypes.CDLL(library).GOMP_parallel
        except (OSError, AttributeError):  # moved since it was loaded, or without this entry point
            continue
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        return functools.partial(_gomp_parallel, function)
    return None


def _gomp_parallel(function: Any, address: int, argument: int, threads: int) -> None:
    function(address, argument, threads, 0)


def _loaded_runtimes() -> list[str]:
    """Return the paths of the OpenMP runtimes in this process, torch's own first."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines}
    found = [path for path in paths if Path(path).name.startswith(_RUNTIMES)]
    return sorted(found, key=lambda path: ("torch" not in path, path))


def _python_threads(address: int, argument: int, threads: int) -> None:
    kernel = _Kernel(address)
    workers = [threading.Thread(target=kernel, args=(argument,)) for _ in range(threads - 1)]
    for worker in workers:
        worker.start()
    kernel(argument)
    for worker in workers:
        worker.join()
