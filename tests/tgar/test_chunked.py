"""Chunks of edges: every edge once, bounded, and memory that does not grow with their number."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.timers import StageTimers
from graphtheta.nn import GATEConv
from graphtheta.shard.topology import Topology
from graphtheta.tgar import AGGREGATORS, View
from graphtheta.tgar.chunked import GatherSum
from graphtheta.tgar.expression import Expression
from tests.graphs import CORNER_GRAPHS, CornerGraph, random_graph, to_graph
from tests.tgar.layers import Written

CHUNK = 1024


def job(topology: Topology, chunk: int, loop_rows: int = 0) -> GatherSum:
    return GatherSum(
        expression=Expression([], []),
        aggregator=AGGREGATORS["sum"],
        topology=topology,
        node_key=np.arange(1000, 1000 + len(topology.indptr)),
        loop_rows=loop_rows,
        layer=0,
        draws=None,
        stages=StageTimers(),
        chunk_edges=chunk,
    )


@pytest.mark.parametrize("loopless", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 5, 10**6])
@pytest.mark.parametrize("name", CORNER_GRAPHS)
def test_chunks_hold_every_edge_once(name: str, chunk: int, loopless: bool) -> None:
    shard = gt.open_shard(to_graph(CORNER_GRAPHS[name]))
    topology = shard.loopless_topology if loopless else shard.topology
    rows, sources, keys, loops = [], [], [], []
    for part in job(topology, chunk, shard.num_masters if loopless else 0).chunks():
        assert len(part.row_e) == len(part.src_e) == len(part.key_e) <= chunk
        assert part.last - part.first <= max(chunk, 1)
        assert (part.row_e < part.last - part.first).all()
        if part.is_loop:
            loops += (part.row_e + part.first).tolist()
            assert (part.row_e + part.first).equal(part.src_e)
            assert (part.key_e == -1 - 1000 - part.src_e).all()
        else:
            rows += (part.row_e + part.first).tolist()
            sources += part.src_e.tolist()
            keys += part.key_e.tolist()
    row_E = np.repeat(np.arange(len(topology.indptr) - 1), np.diff(topology.indptr))
    assert rows == row_E.tolist()
    assert sources == topology.src.tolist()
    position = slice(None) if topology.position is None else topology.position
    assert keys == topology.edge_key[position].tolist()
    assert loops == (list(range(shard.num_masters)) if loopless else [])
    if loopless:
        assert all(r != s for r, s in zip(rows, sources, strict=True))


def test_warning_comes_once_for_each_class_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    class Other(Written):
        pass

    def sine(layer: Any, src: Any, dst: Any, edge: Any) -> Any:
        return torch.sin(src["h"] + dst["h"])

    def cosine(layer: Any, src: Any, dst: Any, edge: Any) -> Any:
        return torch.cos(src["h"] + dst["h"])

    graph = to_graph(CORNER_GRAPHS["random"], dtype=np.float64)

    def job(comm: Communicator) -> None:
        shard = gt.open_shard(graph, comm)
        for make in (Written, Other):
            for gather in (sine, cosine):
                for _ in range(2):
                    layer = make(gather, None, None, "sum", False).double()
                    for training in (True, False):
                        layer.train(training)(View(shard)[0], shard.features)

    with caplog.at_level(logging.WARNING, "graphtheta"):
        gt.run_local(job, workers=3)
    assert [record.message for record in caplog.records] == [
        f"{name} runs chunked: {function}() has no kernel."
        for name in ("Written", "Other")
        for function in ("sin", "cos")
    ]


class _Largest(TorchDispatchMode):
    """Mode that records the bytes of the largest tensor that any torch operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if torch.is_tensor(t)}
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return result


def star(num_nodes: int, num_edges: int) -> CornerGraph:
    """All edges end at node 0."""
    _, src, dst = random_graph(num_nodes, num_edges)
    return num_nodes, src, np.zeros_like(dst)


@pytest.fixture
def _small_chunks(chunked_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphtheta.tgar.layer.GatherSum", partial(GatherSum, chunk_edges=CHUNK))


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("make", [random_graph, star])
def test_temporaries_do_not_grow_with_edges(make: Callable[[int, int], CornerGraph]) -> None:
    num_edges = 40 * CHUNK
    shard = gt.open_shard(to_graph(make(50, num_edges), dtype=np.float64))
    layer = GATEConv(3, 8, heads=2, edge_dim=2, dropout=0.5).double()

    def step() -> None:
        view = View(shard)
        (layer(view[0], view.inputs()).sum() + view.token).backward()

    step()  # fills the caches of the shard
    with _Largest() as torch_made:
        step()
    assert torch_made.nbytes <= 8 * CHUNK * 16  # a chunk of messages
    tracemalloc.start()  # sees NumPy's arrays
    step()
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numpy_peak < 8 * num_edges


@pytest.mark.slow
@pytest.mark.spawn
def test_resident_memory_does_not_grow_with_edges() -> None:
    # In a separate process, the high-water mark is reset before a step of 2 million edges, whose
    # messages would take 512 MB.
    program = """
        import re
        from pathlib import Path
        import graphtheta as gt
        from graphtheta.nn import GATEConv
        from graphtheta.tgar import View
        from tests.graphs import random_graph, to_graph

        def resident(what):
            status = Path("/proc/self/status").read_text()
            return int(re.search(what + r":\\s+(\\d+) kB", status)[1]) / 1024

        layer = GATEConv(3, 32, heads=2, edge_dim=2, dropout=0.5)
        def step(num_edges):
            shard = gt.open_shard(to_graph(random_graph(1000, num_edges)))
            shard.loopless_topology, shard.loop_column("attr"), shard.edge_columns
            Path("/proc/self/clear_refs").write_text("5")
            before = resident("VmRSS")
            view = View(shard)
            (layer(view[0], view.inputs()).sum() + view.token).backward()
            return resident("VmHWM") - before
        step(200_000)
        print(step(2_000_000))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150
