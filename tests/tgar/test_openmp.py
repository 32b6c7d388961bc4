"""Kernels run on torch's OpenMP threads, on those of another runtime, or on Python threads."""

from __future__ import annotations

import ctypes.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from graphtheta.data import adjacency
from graphtheta.nn import GATConv, seeded
from graphtheta.tgar.compiler import openmp
from graphtheta.tgar.layer import TGARLayer
from tests.graphs import power_law, to_graph
from tests.nn.steps import LayerRun, run_layer

GRAPH = to_graph(power_law(300, 6000), dtype=np.float64)


@pytest.fixture(autouse=True)
def fresh_runtime() -> Iterator[None]:
    openmp._openmp.cache_clear()
    yield
    openmp._openmp.cache_clear()


def run(monkeypatch: pytest.MonkeyPatch, threads: int) -> LayerRun:
    def make() -> TGARLayer:
        with seeded(0):
            return GATConv(3, 4, heads=2, edge_dim=2).double()

    before = torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(adjacency, "_CHUNK_COST", 64)  # many chunks
        try:
            torch.set_num_threads(threads)
            return run_layer(make, GRAPH)
        finally:
            torch.set_num_threads(before)


def same_bits(got: LayerRun, want: LayerRun) -> bool:
    return bool(
        np.array_equal(got.out_NO, want.out_NO)
        and np.array_equal(got.x_grad_NF, want.x_grad_NF)
        and all(np.array_equal(got.parameter_grads[n], g) for n, g in want.parameter_grads.items())
    )


def test_runtime_of_torch_is_found() -> None:
    torch.ones(1 << 18).exp_()  # loads the runtime, if torch was built with one
    if not openmp._loaded_runtimes():
        pytest.skip("torch has loaded no OpenMP runtime")
    assert openmp._openmp() is not None


@pytest.mark.parametrize("threads", [2, 3])
def test_without_a_runtime_python_threads_give_the_same_bits(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = run(monkeypatch, 1)
    called: list[int] = []
    python_threads = openmp._python_threads

    def spy(address: int, argument: int, count: int) -> None:
        called.append(count)
        python_threads(address, argument, count)

    monkeypatch.setattr(openmp, "_python_threads", spy)
    monkeypatch.setattr(openmp, "_loaded_runtimes", list)
    assert same_bits(run(monkeypatch, threads), want)
    assert set(called) == {threads}


def test_another_runtime_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = openmp._loaded_runtimes()
    if not known:
        pytest.skip("torch has loaded no OpenMP runtime")
    want = run(monkeypatch, 1)
    other = shutil.copy(known[0], tmp_path / "libgomp-other.so")  # loaded as a second runtime
    monkeypatch.setattr(openmp, "_loaded_runtimes", lambda: [str(other)])
    assert same_bits(run(monkeypatch, 2), want)
    assert openmp._openmp() is not None


def test_unusable_runtimes_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    known = openmp._loaded_runtimes()
    without_entry_point = ctypes.util.find_library("m")
    assert without_entry_point is not None
    unusable = ["/no/such/libgomp.so", without_entry_point]
    monkeypatch.setattr(openmp, "_loaded_runtimes", lambda: unusable)
    assert openmp._openmp() is None
    openmp._openmp.cache_clear()
    monkeypatch.setattr(openmp, "_loaded_runtimes", lambda: [*unusable, *known])
    assert (openmp._openmp() is not None) == bool(known)


def test_systems_without_proc_have_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert openmp._loaded_runtimes() == []
