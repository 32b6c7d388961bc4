"""Large blocks go back to the system, unless somebody has chosen another way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FREED = """
import torch, graphtheta as gt
from graphtheta.bench.memory import resident_bytes
gt.open_shard(gt.datasets.load("cora"))
# A heap that has room behind small blocks that stay: where large ones would be cut to pieces.
kept = [torch.ones(1 << 14) for _ in range(200)]
before = resident_bytes()
blocks = [torch.ones(2 << 20) for _ in range(8)]
last = torch.ones(1 << 14)
del blocks
print(resident_bytes() - before)
"""
HEAPS = """
import sys, threading
import numpy as np
from graphtheta.runtime.malloc import tune_allocator
from graphtheta.bench.memory import resident_bytes
assert tune_allocator(arenas=int(sys.argv[1]) or None)
before, stop = resident_bytes(), threading.Event()
def work(done):
    np.ones(3 << 17)
    done.set()
    stop.wait()
for _ in range(8):
    done = threading.Event()
    threading.Thread(target=work, args=[done]).start()
    done.wait()
print(resident_bytes() - before)
stop.set()
"""
CHOSEN = """
import os, graphtheta
from graphtheta.runtime.malloc import tune_allocator
print(tune_allocator(), os.environ.get("THP_MEM_ALLOC_ENABLE"))
"""


def run(code: str, *words: str, **environment: str) -> str:
    settings = ("LD_PRELOAD", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE")
    clean = {name: value for name, value in os.environ.items() if name not in settings}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc alone")
def test_freed_blocks_go_back() -> None:
    assert int(run(FREED)) < 8 << 20  # of 64 MiB


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc alone")
def test_threads_share_heaps() -> None:
    one, many = int(run(HEAPS, "1")), int(run(HEAPS, "0"))
    assert one < 8 << 20 < many  # blocks of 3 MiB, of 8 threads one after another


@pytest.mark.parametrize(
    "environment",
    [
        {"GRAPHTHETA_MALLOC": "system"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"},
    ],
    ids=lambda e: next(iter(e)),
)
def test_what_somebody_has_chosen_stays(environment: dict[str, str]) -> None:
    assert run(CHOSEN, **environment) == "False None"
    assert run(CHOSEN) == "True 1" or sys.platform != "linux"
