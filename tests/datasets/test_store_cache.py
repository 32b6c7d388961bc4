from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.comm.threads import run_local
from graphtheta.data.types import NODE, node_tables
from graphtheta.datasets import store_cache as cache
from graphtheta.datasets.store_cache import cached_store, open_input
from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition import GraphSource, Plan, make_store, open_store
from graphtheta.partition.store.manifest import FORMAT_VERSION
from graphtheta.runtime.lock import FileLock
from graphtheta.runtime.paths import cache_folder
from tests.graphs import CORNER_GRAPHS, to_graph
from tests.kills import refuse_locks

GRAPH = to_graph(CORNER_GRAPHS["random"])
ALONE = SingleCommunicator()


def entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / f"v{FORMAT_VERSION}"))


class RecordedTable:
    """Node table that records which rows were read."""

    name, num_rows, schema = "nodes", GRAPH.num_nodes, GRAPH.nodes.schema

    def __init__(self, read: list[int]) -> None:
        self.read = read

    def chunks(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        if columns != ["id"]:
            self.read += range(start, stop)
        return GRAPH.node_tables[0].table.chunks(start, stop, columns)


class Recorded:
    """Graph that records how often it was opened and which rows were read."""

    keyed = True
    num_nodes, num_edges = GRAPH.num_nodes, GRAPH.num_edges
    memory_bytes = 0
    edge_tables = GRAPH.edge_tables

    def __init__(self) -> None:
        self.opened = 0
        self.rows: list[int] = []
        self.node_tables = node_tables({NODE: RecordedTable(self.rows)})

    def open(self) -> GraphSource:
        self.opened += 1
        return self

    def digest(self) -> str:
        return GRAPH.digest()

    def stamp(self) -> str:
        return GRAPH.stamp()


def test_each_worker_reads_its_own_rows_and_later_runs_none(tmp_path: Path) -> None:
    def open_it(comm: Communicator) -> tuple[list[int], list[list[int]]]:
        source = Recorded()
        cached_store(source.open, comm, folder=tmp_path)
        opened = comm.all_gather_int(source.opened, stage="test").tolist()
        rows = comm.all_gather(np.array(source.rows, np.int64), stage="test")
        return opened, [block.tolist() for block in rows]

    half = GRAPH.num_nodes // 2
    # Once to check the labels, once to move the rows.
    halves = [2 * list(range(half)), 2 * list(range(half, GRAPH.num_nodes))]
    assert run_local(open_it, workers=2) == ([1, 1], halves)
    assert run_local(open_it, workers=2) == ([1, 0], [[], []])  # rank 0 takes the digest


def test_store_is_the_one_that_partitioning_makes(tmp_path: Path) -> None:
    make_store(GRAPH, tmp_path / "store", Plan(1, "node-hash"))
    cached = cached_store(lambda: GRAPH, ALONE, folder=tmp_path / "cache")
    cached.verify()
    assert cached.checksum == open_store(tmp_path / "store").checksum


def test_all_that_makes_a_store_is_in_its_key(tmp_path: Path) -> None:
    other = to_graph(CORNER_GRAPHS["random"], seed=1)
    variants: list[dict[str, Any]] = [{}, {"seed": 1}, {"method": "dbh"}, {"undirected": True}]
    variants += [{"self_loops": False}, {"repeats": False}, {"drop_unknown": True}]
    for graph in (GRAPH, other):
        for variant in variants:
            cached_store(lambda graph=graph: graph, ALONE, folder=tmp_path, **variant)
    run_local(lambda comm: cached_store(lambda: GRAPH, comm, folder=tmp_path), workers=2)
    assert len(entries(tmp_path)) == 2 * len(variants) + 1


def test_job_that_comes_second_uses_the_store_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks both look before either has written: the other job's store appears first."""
    refuse_locks(monkeypatch, errno.ENOLCK)
    shutil.copytree(
        cached_store(lambda: GRAPH, ALONE, folder=tmp_path / "other").path, tmp_path / "winner"
    )

    def make_late(*args: Any, **options: Any) -> Any:
        made = make_store(*args, **options)
        (tmp_path / "cache" / f"v{FORMAT_VERSION}").mkdir(parents=True, exist_ok=True)
        name = entries(tmp_path / "other")[0]
        (tmp_path / "winner").rename(tmp_path / "cache" / f"v{FORMAT_VERSION}" / name)
        return made

    monkeypatch.setattr(cache, "make_store", make_late)
    store = cached_store(lambda: GRAPH, ALONE, folder=tmp_path / "cache")
    store.verify()
    assert entries(tmp_path / "cache") == [store.path.name]


def test_job_waits_for_another_that_makes_the_same_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = cached_store(lambda: GRAPH, ALONE, folder=tmp_path).path
    other = made.rename(tmp_path / "other")
    lock = FileLock(made.with_name(f".{made.name}.lock"))

    def finish() -> None:
        while not caplog.messages:
            time.sleep(0.01)
        other.rename(made)
        lock.release()

    thread = threading.Thread(target=finish)
    thread.start()
    graph = Recorded()
    store = cached_store(graph.open, ALONE, folder=tmp_path)
    thread.join()
    store.verify()
    assert not graph.rows
    assert "another run partitions the same input; waiting for it" in caplog.text
    assert entries(tmp_path) == [made.name]


def test_whole_store_is_opened_from_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cached_store(lambda: GRAPH, ALONE, folder=tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cached_store(lambda: GRAPH, ALONE, folder=tmp_path).checksum == made.checksum
    with pytest.raises(StoreError, match=r"Read-only file system.*Set GRAPHTHETA_CACHE") as got:
        cached_store(lambda: GRAPH, ALONE, folder=tmp_path, seed=1)
    assert "\n" not in str(got.value)


def test_damaged_store_is_made_again(tmp_path: Path) -> None:
    store = cached_store(lambda: GRAPH, ALONE, folder=tmp_path)
    file = store.path / "part-00000" / "masters.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    cached_store(lambda: GRAPH, ALONE, folder=tmp_path).verify()
    assert entries(tmp_path) == [store.path.name]


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"partitioner .*got 'x'"):
        cached_store(lambda: GRAPH, ALONE, folder=tmp_path, method="x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"expected to write a store.*Set GRAPHTHETA_CACHE"):
        cached_store(lambda: GRAPH, ALONE, folder=tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_cache_folder_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GRAPHTHETA_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/graphtheta")

    def none(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(none))
    with pytest.raises(ConfigError, match=r"expected a home directory.*Set GRAPHTHETA_CACHE"):
        cache_folder()


def test_open_input_opens_stores_and_partitions_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path / "cache"))
    make_store(GRAPH, tmp_path / "store", Plan(2, "dbh"))
    assert open_input(str(tmp_path / "store"), ALONE).path == tmp_path / "store"
    assert not (tmp_path / "cache").exists()
    assert open_input("cora", ALONE).manifest.num_nodes == 2708
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.parametrize("option", ["undirected", "drop_self_loops", "drop_duplicates"])
def test_open_input_raises_config_error_on_a_store_that_was_made_otherwise(
    tmp_path: Path, option: str
) -> None:
    make_store(GRAPH, tmp_path / "store", Plan(1, "node-hash"))
    message = f"expected a store made with --{option.replace('_', '-')}, as the run asks for"
    with pytest.raises(ConfigError, match=message):
        open_input(str(tmp_path / "store"), ALONE, **{option: True})  # type: ignore[arg-type]
