"""Worker processes that run one library each, on request, so that libraries can be timed in turns.

A request is a line of JSON on stdin, such as `{"do": "run"}`; the answer is a line of JSON on
stdout. Everything else that a library prints goes to stderr. This module imports only the standard
library, because it runs in every environment.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Worker", "seeds_of", "serve"]

_BENCHMARKS = str(Path(__file__).parents[1])


def serve(worker: Any) -> None:
    """Answer requests with the results of the worker's methods, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    handlers: Mapping[str, Callable[..., Any] | None] = {
        "load": worker.load,
        "build": worker.build,
        "run": worker.run,
        "save": getattr(worker, "save", None),  # samplers have no results to compare
        "settle": _settle,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            do = handlers[request.pop("do")]
            assert do is not None, "this worker has no results to save"
            answer = do(**request) or {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _settle() -> None:
    """Return freed memory to the operating system before memory is measured."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def seeds_of(step: int, num_nodes: int, batches: int = 20, size: int = 1024) -> list[Any]:
    """Return the seed nodes of each batch, the same for all workers: (size,) int64, ascending."""
    import numpy as np  # not installed where nothing is sampled

    rng = np.random.default_rng(step)
    return [np.sort(rng.choice(num_nodes, size, replace=False)) for _ in range(batches)]


class Worker:
    """Process of one library that loads a graph, builds a case on it, and runs the case.

    Args:
        name: Name of the library in records.
        python: Interpreter of its environment.
        module: Module of this package to run.
        threads: Number of threads of all its thread pools.
        arguments: Command-line arguments of the module.

    Attributes:
        name: Name of the library in records.
        pid: Id of the process.
    """

    def __init__(self, name: str, python: str, module: str, *arguments: str, threads: int) -> None:
        self.name = name
        count = str(threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        self._process = subprocess.Popen(
            [python, "-m", f"peers.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **dict.fromkeys(names, count),
                "DGLBACKEND": "pytorch",
                "PYTHONPATH": os.pathsep.join([_BENCHMARKS, os.environ.get("PYTHONPATH", "")]),
            },
        )
        self.pid = self._process.pid

    def request(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request, and return its answer.

        Raises:
            RuntimeError: If the request failed or the process ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "it is a pipe"
        assert stdout is not None, "it is a pipe"
        stdin.write(json.dumps({"do": do, **request}) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: ended with code {self._process.wait()} in '{do}'")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {do}: {answer['error']}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.communicate()
