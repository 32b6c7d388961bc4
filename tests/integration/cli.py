"""What tests of the command line share: fixtures, small tables, and what a command came to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.cli import main
from tests.jobs import run_job

GRAPHTHETA = ["-m", "graphtheta"]
Run = Callable[..., "Result"]
NODES: dict[str, Any] = {
    "name": ["a", "b", "c", "d"],
    "f_0": [0.0, 1.0, 2.0, 3.0],
    "f_1": [1.0, 0.0, 1.0, 0.0],
    "y": [0, 1, 0, 1],
    "part": ["train", "train", "val", "test"],
}
EDGES: dict[str, Any] = {"from": ["a", "b", "c", "d"], "to": ["b", "c", "d", "a"]}
COLUMNS = "--id name --src from --dst to --features f_* --label y --split split=part".split()


class Result(tuple[int, str, str]):
    """What a command came to: exit code, stdout and stderr."""

    code = property(lambda self: self[0])
    out = property(lambda self: self[1])
    err = property(lambda self: self[2])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run_it(*words: object) -> Result:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Result((code, *capfd.readouterr()))

    return run_it


@pytest.fixture(scope="module")
def cora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of Cora in two parts; not to be changed."""
    store = tmp_path_factory.mktemp("cora") / "store"
    assert main(["partition", "cora", str(store), "--parts", "2"]) == 0
    return store


def write_tables(nodes: dict[str, Any] | None = None, edges: dict[str, Any] | None = None) -> None:
    pq.write_table(pa.table({**NODES, **(nodes or {})}), "nodes.parquet")
    pq.write_table(pa.table(edges or EDGES), "edges.parquet")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_one_line(result: Result, pattern: str) -> None:
    assert result.code == 2, result
    assert re.fullmatch(rf"error: [^\n]*{pattern}[^\n]*\n", result.err), result.err


def job(ranks: int, *words: object) -> str:
    """Run a command under mpiexec; return what it printed."""
    done = run_job([*GRAPHTHETA, *map(str, words)], ranks, timeout_s=120)
    assert done.code == 0, done.output
    return done.output
