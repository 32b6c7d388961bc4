"""Process-wide settings: what `tune` changes, what turns it off, and that nothing else does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphtheta.runtime.tuning import _kernel_huge_pages

FREED = """
import torch, graphtheta as gt
from graphtheta.bench.memory import resident_bytes
gt.tune()
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
from graphtheta.runtime.malloc import set_malloc
from graphtheta.bench.memory import resident_bytes
assert set_malloc(arenas=int(sys.argv[1]) or None)
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
TUNED = """
import os, torch, numba, graphtheta as gt
before = dict(os.environ), torch.get_num_threads(), numba.get_num_threads()
settings = gt.tune(threads=1)
after = dict(os.environ), torch.get_num_threads(), numba.get_num_threads()
print([s.topic for s in settings if s.applied], before == after)
"""
LIBRARY = """
import faulthandler, os, signal, sys, threading
def state():
    import numba, torch
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    hooks = sys.excepthook, threading.excepthook, os._exit, faulthandler.is_enabled()
    threads = torch.get_num_threads(), torch.get_num_interop_threads(), numba.get_num_threads()
    # torch itself sets a variable of its compiler when an optimiser is made.
    variables = {n: v for n, v in os.environ.items() if not n.startswith("TORCHINDUCTOR_")}
    return variables, signals, hooks, threads
before = state()
import graphtheta as gt
from graphtheta.runtime import malloc, tuning
def fail(*_, **__): raise AssertionError("the allocator was set")
malloc.set_malloc = tuning.set_malloc = fail
def train(comm):
    shard = gt.open_shard(gt.datasets.load("cora"), comm)
    gt.Trainer(gt.nn.GCN(shard.num_features, 4, shard.num_outputs("y")), shard).fit(epochs=2)
train(gt.communicator())
gt.run_local(train, workers=2)
print([a == b for a, b in zip(before, state())])
"""


def run(code: str, *words: str, **environment: str) -> str:
    settings = ("GLIBC_TUNABLES", "GRAPHTHETA_", "LD_PRELOAD", "MALLOC_", "THP_MEM_ALLOC_ENABLE")
    clean = {name: v for name, v in os.environ.items() if not name.startswith(settings)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc only")
def test_freed_blocks_go_back() -> None:
    assert int(run(FREED)) < 8 << 20  # of 64 MiB


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc only")
def test_threads_share_heaps() -> None:
    one, many = int(run(HEAPS, "1")), int(run(HEAPS, "0"))
    assert one < 8 << 20 < many  # blocks of 3 MiB, of 8 threads one after another


CHOICES = [
    {"GRAPHTHETA_MALLOC": "system"},
    {"MALLOC_TRIM_THRESHOLD_": "131072"},
    {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"},
]


@pytest.mark.skipif(sys.platform != "linux", reason="tunes glibc only")
def test_tune_applies_every_setting() -> None:
    assert run(TUNED, OMP_NUM_THREADS="2").endswith("'allocator', 'threads'] False")


@pytest.mark.parametrize("environment", CHOICES, ids=lambda e: next(iter(e)))
def test_choice_of_the_user_stays(environment: dict[str, str]) -> None:
    assert run(TUNED, **environment) == "['threads'] False"


def test_switch_turns_all_of_it_off() -> None:
    assert run(TUNED, GRAPHTHETA_TUNING="off") == "[] True"


def test_library_use_changes_nothing_of_the_process() -> None:
    assert run(LIBRARY) == "[True, True, True, True]"


def test_kernel_says_which_huge_pages_it_gives(tmp_path: Path) -> None:
    path = tmp_path / "enabled"
    assert _kernel_huge_pages(path) == ""
    path.write_text("always madvise [never]\n")
    assert _kernel_huge_pages(path) == "never"
