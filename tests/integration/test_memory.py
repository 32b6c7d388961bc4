"""No rank holds an array of the whole graph: each trains under a cap below the graph's size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graphtheta import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.partition import Plan, make_store

JOB = Path(__file__).with_name("memory_job.py")
NUM_NODES, NUM_FEATURES, WORKERS = 200_000, 256, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A ring of near neighbours: with parts of consecutive nodes there are few mirrors, so that
    # what a rank holds is its share.
    rng = np.random.default_rng(0)
    src = np.repeat(np.arange(NUM_NODES), 3)
    dst = (src + np.tile([1, 2, 3], NUM_NODES)) % NUM_NODES
    nodes = pa.table(
        {
            "id": np.arange(NUM_NODES),
            "features": matrix_column(rng.standard_normal((NUM_NODES, NUM_FEATURES), np.float32)),
            "label:y": rng.integers(0, 4, NUM_NODES),
            "split:split": rng.integers(1, 4, NUM_NODES).astype(np.int8),
        }
    )
    path = tmp_path_factory.mktemp("memory") / "store"
    make_store(Graph(nodes, pa.table({"src": src, "dst": dst})), path, Plan(WORKERS, "metis"))
    return path


def run(store: Path, workers: int, cap: int) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).parent / "mpiexec"), "-n", str(workers),
        sys.executable, str(JOB), str(store), str(cap),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=150)


def graph_bytes(store: Path) -> int:
    return sum(f.stat().st_size for f in store.rglob("*.arrow"))


@pytest.mark.slow
@pytest.mark.spawn
def test_each_rank_trains_under_a_cap_below_the_whole_graph(store: Path) -> None:
    done = run(store, WORKERS, graph_bytes(store) * 3 // 4)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("MiB of") == WORKERS


@pytest.mark.slow
@pytest.mark.spawn
def test_one_rank_alone_does_not_fit_the_cap(store: Path) -> None:
    done = run(store, 1, graph_bytes(store) * 3 // 4)
    assert done.returncode != 0


MEASURED = """
import resource, sys
from graphtheta.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.spawn
def test_partition_of_an_input_that_is_read_whole_keeps_its_limit(tmp_path: Path) -> None:
    rows = 100_000
    masks = {f"{name}_masks": np.zeros((1, rows), np.bool_) for name in ("train", "val", "test")}
    rng = np.random.default_rng(0)
    fields = {"node_labels": rng.integers(0, 3, rows), "edges": rng.integers(0, rows, (rows, 2))}
    features = rng.standard_normal((rows, 400), np.float32)
    np.savez(tmp_path / "g.npz", node_features=features, **fields, **masks)

    def partition(limit: str) -> subprocess.CompletedProcess[str]:
        words = ["partition", str(tmp_path / "g.npz"), str(tmp_path / "store"), "--parts", "2"]
        options = ["--threads", "2", "--memory-limit", limit]
        command = [sys.executable, "-c", MEASURED, *words, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=150)

    refused = partition("400MB")
    assert refused.returncode == 2
    assert "needs less as tables" in refused.stderr
    done = partition("830MB")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("peak ")[1]) < 830e6
