"""Bounded memory of processes that make a store and that read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.data.schema import matrix_column
from graphtheta.datasets.generate import rmat
from graphtheta.datasets.tables import TableSource, read
from graphtheta.partition import Plan, Resources, make_store, open_store

OPEN = """
import json, sys, time
from graphtheta.partition import open_store
import numpy, graphtheta.partition.store.part

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

before, start = resident(), time.perf_counter()
part = open_store(sys.argv[1], parts=()).part(700)
seconds = time.perf_counter() - start
shard = sum(table.nbytes for table in part.tables().values())
print(json.dumps({"seconds": seconds, "beyond": resident() - before - shard, "shard": shard}))
"""

# Partitions a graph under a limit on private memory, set after code is loaded and compiled.
MAKE = """
import resource, sys
from graphtheta.datasets.tables import TableSource
from graphtheta.partition import Plan, Resources, make_store

def data_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))

folder, cap = sys.argv[1], int(sys.argv[2])
plan = Plan(32, "dbh")
small = TableSource(f"{folder}/few.parquet", f"{folder}/few-edges.parquet")
make_store(small, f"{folder}/small", Plan(2, "dbh"), Resources())
base = data_bytes()
resource.setrlimit(resource.RLIMIT_DATA, (base + cap, base + cap))
source = TableSource(f"{folder}/nodes", f"{folder}/edges.parquet")
store = make_store(source, f"{folder}/store", plan, Resources(memory_limit=cap // 2))
print(store.checksum)
"""


@pytest.mark.slow
@pytest.mark.spawn
def test_a_part_of_1024_opens_fast_and_takes_memory_of_its_own_size(tmp_path: Path) -> None:
    rmat(tmp_path / "graph", scale=16, edge_factor=16)
    make_store(read(str(tmp_path / "graph")), tmp_path / "store", Plan(1024, "dbh"))
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["seconds"] < 1.0
    assert found["beyond"] < 50e6


@pytest.mark.slow
@pytest.mark.spawn
def test_graph_larger_than_memory_is_partitioned(tmp_path: Path) -> None:
    # 410 MB of features and 48 MB of edges, in a process that may use 200 MB.
    num_nodes, files = 400_000, 8
    rng = np.random.default_rng(0)
    (tmp_path / "nodes").mkdir()
    for file in range(files):
        ids = np.arange(num_nodes // files) + file * num_nodes // files
        features = matrix_column(rng.standard_normal((len(ids), 256), np.float32))
        table = pa.table({"id": ids, "features": features})
        pq.write_table(table, tmp_path / "nodes" / f"{file}.parquet", row_group_size=10_000)
    ends = rng.integers(0, num_nodes, (2, 3_000_000))
    edges = pa.table({"src": ends[0], "dst": ends[1]})
    pq.write_table(edges, tmp_path / "edges.parquet")
    pq.write_table(table.slice(0, 100), tmp_path / "few.parquet")
    first = ids[0]
    few = pa.table(dict.fromkeys(("src", "dst"), first + ends[0][:500] % 100))
    pq.write_table(few, tmp_path / "few-edges.parquet")
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(tmp_path), str(200 << 20)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    store = open_store(tmp_path / "store")
    assert store.checksum == done.stdout.strip()
    source = TableSource(str(tmp_path / "nodes"), str(tmp_path / "edges.parquet"))
    again = make_store(source, tmp_path / "again", Plan(32, "dbh"), Resources(threads=2))
    assert again.checksum == store.checksum
