"""The commands of README and documents: every option exists, and every block runs as written.

A block that cannot run here is preceded by a comment that says why: `<!-- not run: ... -->`.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.datasets import load
from tests.integration.cli import Run, command  # noqa: F401  # a fixture
from tests.jobs import run

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
PAGES += sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
QUICK = ("README.md",)  # the others run with make test-all
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n+)?^```(bash|console)\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: str
    number: int
    runs: bool
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}-{self.number}"

    def commands(self) -> list[str]:
        """Return the commands, each in one line and without a comment."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks_of(page: str) -> list[Block]:
    found = []
    for number, match in enumerate(BLOCK.finditer((ROOT / page).read_text())):
        text = match[3]
        if match[2] == "console":  # commands follow a $, what they print does not count
            text = "\n".join(re.findall(r"^\$ (.*(?:\\\n.*)*)", text, re.M))
        found.append(Block(page, number, match[1] is None, text))
    return found


BLOCKS = {page: blocks_of(page) for page in PAGES}
EVERY = [block for blocks in BLOCKS.values() for block in blocks]
RUNNING = [page for page, blocks in BLOCKS.items() if any(block.runs for block in blocks)]


def options_in(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}


@pytest.mark.parametrize("block", EVERY, ids=lambda block: block.name)
def test_options_exist(command: Run, block: Block) -> None:
    for line in block.commands():
        words = shlex.split(line, comments=True)
        if "graphtheta" in words:
            words = words[words.index("graphtheta") + 1 :]
            if words[0] == "launch" and "train" in words:  # it runs another command
                of_launch = options_in(words[: words.index("train")])
                assert all(f"{option} " in command("launch", "--help").out for option in of_launch)
                words = words[words.index("train") :]
            subcommand = [word for word in words[:3] if re.fullmatch("[a-z]+", word)]
            nested = {"bench": 2, "schedule": 2, "datasets": 3 if "make" in words[:2] else 2}
            path = subcommand[: nested.get(subcommand[0], 1)] if subcommand else []
            shown = command(*path, "--help").out
            missing = {option for option in options_in(words) if f"{option} " not in shown + " "}
            assert not missing, line
        elif script := next((word for word in words if word.startswith("benchmarks/")), None):
            sources = [(ROOT / script).read_text()]
            sources += [path.read_text() for path in (ROOT / "benchmarks").rglob("*.py")]
            after = words[words.index(script) + 1 :]
            assert all(f'"{option}"' in "".join(sources) for option in options_in(after)), line
        elif words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert set(words[1:]) <= set(targets), line


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder with what the pages suppose: tables of nodes and edges, pairs, a bank's months."""
    graph, draw = load("cora"), np.random.default_rng(0)
    columns = {"id": graph.ids, "fraud": graph.label() % 2 == 0}
    columns |= {"age": draw.integers(18, 90, graph.num_nodes)}
    columns |= {n: draw.choice(["de", "fr", "it"], graph.num_nodes) for n in ("country", "city")}
    columns |= {"signup": draw.integers(0, 9999, graph.num_nodes).astype("datetime64[D]")}
    columns |= {f"f_{i}": draw.random(graph.num_nodes).astype(np.float32) for i in range(10)}
    split = np.array(["train", "val", "test"])[draw.integers(0, 3, graph.num_nodes)]
    pq.write_table(pa.table({**columns, "split": split}), tmp_path / "nodes.parquet")
    edges = {"src": graph.src, "dst": graph.dst, "label:sign": draw.random(graph.num_edges) > 0.5}
    edges |= {"amount": draw.random(graph.num_edges)}
    edges |= {"type": draw.integers(0, 3, graph.num_edges)}
    split = np.array(["train", "val", "test"])[draw.integers(0, 3, graph.num_edges)]
    pq.write_table(pa.table({**edges, "split:split": split}), tmp_path / "edges.parquet")
    pairs = {"src": graph.src[:20], "dst": graph.dst[:20]}
    pq.write_table(pa.table(pairs), tmp_path / "pairs.parquet")
    bank = runpy.run_path(str(ROOT / "benchmarks" / "bank.py"))
    bank["write_months"](tmp_path, accounts=1500, transfers=15_000)
    return tmp_path


@pytest.mark.spawn
@pytest.mark.parametrize(
    "page", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in RUNNING]
)
def test_page_runs_as_written(page: str, prepared: Path) -> None:
    blocks = "\n".join(block.text for block in BLOCKS[page] if block.runs)
    script = prepared / "page.sh"
    script.write_text(f"set -euo pipefail\ncd {prepared}\n{blocks}\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {"PATH": path, "GRAPHTHETA_CACHE": str(prepared / "cache"), "OMP_NUM_THREADS": "1"}
    done = run(["bash", script], timeout_s=280, env=env)
    assert done.code == 0, done.output


def test_every_page_has_been_read() -> None:
    assert len(EVERY) > 15
    assert set(QUICK) <= set(RUNNING)
