"""The benchmarks beside peers run from end to end, on tiny graphs; peers where they are installed.

What workers compute is compared by the scripts themselves, which exit with 1 if it differs.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from graphtheta.bench.record import load
from tests.jobs import run

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PEERS = "pyg" if importlib.util.find_spec("torch_geometric") else ""
COMMON = ("--peers", PEERS, "--threads", "1", "--runs", "2", "--warmup", "1", "--allow-chunked")


def run_script(name: str, *words: str) -> str:
    command = [sys.executable, BENCHMARKS / name, *COMMON, *words]
    done = run(command, timeout_s=280, env={"OMP_NUM_THREADS": "1"})
    assert done.code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.spawn
def test_gather(tmp_path: Path) -> None:
    written = tmp_path / "records.jsonl"
    sizes = ("--scale", "6", "--attention-scale", "6", "--widths", "16")
    output = run_script("gather.py", *sizes, "--json", str(written))
    assert "| 16 | weighted |" in output
    assert output.count("| gat-e |") == 2
    libraries = {record["case"].get("library") for record in load(written)}
    assert {"graphtheta", "torch"} <= libraries


@pytest.mark.slow
@pytest.mark.spawn
def test_epochs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written, picture = tmp_path / "records.jsonl", tmp_path / "picture.png"
    sizes = ("--graphs", "rmat", "--scale", "6", "--models", "gcn,gat")
    run_script("epochs.py", *sizes, "--json", str(written), "--plot", str(picture))
    records = [r for r in load(written) if r["case"]["library"] == "graphtheta"]
    assert [r["unit"] for r in records] == ["seconds", "bytes"] * 2
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.spawn
def test_typed(tmp_path: Path) -> None:
    written = tmp_path / "records.jsonl"
    sizes = ("--graphs", "rmat", "--scale", "6", "--hidden", "8", "--bases", "0,2")
    output = run_script("typed.py", *sizes, "--json", str(written))
    assert all(f"| rmat 6 x 10 | {row} | 8 |" in output for row in ("rgcn", "rgcn, 2 bases", "hgt"))
    assert {record["case"]["bases"] for record in load(written)} == {None, 2}
