"""The code of the documentation: its blocks, what they suppose, and a fast way to run them.

A block that cannot run is preceded by a comment that says why: `<!-- not run: ... -->`. The blocks
of a page run in one folder, in their order, in this process and as one worker: results do not
depend on the number of workers. Numbers of epochs and sizes of graphs are made smaller.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphtheta.cli import main
from graphtheta.datasets import load
from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.predict_service import PredictService
from graphtheta.engine.server.server import GraphServer
from graphtheta.engine.wire.protocol import Limits
from graphtheta.partition import open_store

__all__ = [
    "DATA",
    "PAGES",
    "PYTHON",
    "ROOT",
    "SHELL",
    "Block",
    "PageRunner",
    "blocks_of",
    "commands_of",
    "prepare",
]

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
PAGES += sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
SHELL, PYTHON = {"bash", "console"}, {"python"}
DATA = {"text", "toml", "json", "yaml"}  # nothing to run
_BLOCK = re.compile(
    r"(<!-- not run: [^>]*\w[^>]* -->\s*\n)?^ *```([^\n]*)\n(.*?)^ *```$", re.M | re.S
)
# Bash that writes the words of each command to stdout, each ended by a NUL, and a line feed after
# the last one. There are no other commands.
_RECORD = r"""
record() { printf '%s\0' "$@"; printf '\n'; }
for program in graphtheta mpiexec torchrun; do eval "$program() { record $program \"\$@\"; }"; done
set -euo pipefail
"""
_LARGEST = {"--epochs": 10, "--scale": 10, "--groups": 1, "--layers": 8}


@dataclass(frozen=True)
class Block:
    page: str
    number: int
    is_marked: bool
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}-{self.number}"

    @property
    def runs(self) -> bool:
        return not self.is_marked and self.language in SHELL | PYTHON

    def lines(self) -> list[str]:
        """Return the commands of a shell block, each in one line and without a comment."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks_of(page: str) -> list[Block]:
    found = []
    for number, match in enumerate(_BLOCK.finditer((ROOT / page).read_text())):
        text = match[3]
        if match[2] == "console":  # commands follow a $, what they print does not count
            text = "\n".join(re.findall(r"^\$ (.*(?:\\\n.*)*)", text, re.M))
        found.append(Block(page, number, match[1] is not None, match[2], text))
    return found


def commands_of(text: str) -> list[list[str]]:
    """Return the words of the commands of graphtheta that a shell would run, without a launcher.

    Raises:
        ValueError: If the text has another command.
    """
    bash = ["/bin/bash", "-rc", _RECORD + re.sub(r" &$", "", text, flags=re.M)]
    done = subprocess.run(bash, env={"PATH": ""}, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise ValueError(f"{done.stderr.strip()}. Mark the block: <!-- not run: REASON -->")
    commands = []
    for line in done.stdout.split("\0\n")[:-1]:
        words = line.split("\0")
        commands.append(words[words.index("graphtheta") + 1 :])
        if commands[-1][:1] == ["launch"]:
            commands[-1] = commands[-1][commands[-1].index("train") :]
    return commands


def prepare(folder: Path) -> None:
    """Write what the pages suppose: tables, pairs, the months of a bank, and typed graphs."""
    graph, draw = load("cora"), np.random.default_rng(0)
    columns = {"id": graph.ids, "fraud": graph.label() % 2 == 0}
    columns |= {"age": draw.integers(18, 90, graph.num_nodes)}
    columns |= {n: draw.choice(["de", "fr", "it"], graph.num_nodes) for n in ("country", "city")}
    columns |= {"signup": draw.integers(0, 9999, graph.num_nodes).astype("datetime64[D]")}
    columns |= {f"f_{i}": draw.random(graph.num_nodes).astype(np.float32) for i in range(10)}
    split = np.array(["train", "val", "test"])[draw.integers(0, 3, graph.num_nodes)]
    pq.write_table(pa.table({**columns, "split": split}), folder / "nodes.parquet")
    edges = {"src": graph.src, "dst": graph.dst, "label:sign": draw.random(graph.num_edges) > 0.5}
    edges |= {"amount": draw.random(graph.num_edges)}
    edges |= {"type": draw.integers(0, 3, graph.num_edges)}
    split = np.array(["train", "val", "test"])[draw.integers(0, 3, graph.num_edges)]
    pq.write_table(pa.table({**edges, "split:split": split}), folder / "edges.parquet")
    pairs = {"src": graph.src[:20], "dst": graph.dst[:20]}
    pq.write_table(pa.table(pairs), folder / "pairs.parquet")
    bank = runpy.run_path(str(ROOT / "benchmarks" / "bank.py"))
    bank["write_months"](folder, accounts=1500, transfers=15_000)
    _write_typed(folder, draw)


def _write_typed(folder: Path, draw: np.random.Generator) -> None:
    """Write the folders `debian` and `shop`, and the store `papers`."""

    def write(graph: str, name: str, **columns: Any) -> None:
        (folder / graph).mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / graph / f"{name}.parquet")

    def ends(kinds: str, count: int) -> dict[str, list[str]]:
        return {
            end: [f"{kind}{i}" for i in draw.integers(0, 60, count)]
            for end, kind in zip(("src", "dst"), kinds, strict=True)
        }

    number = np.arange(60)
    splits = np.array(["train", "val", "test"])[np.arange(300) % 3]
    ids = {kind: [f"{kind}{i}" for i in range(60)] for kind in "pmaui"}
    sections, sizes = np.array(["libs", "net", "math"])[number % 3], draw.random(60)
    write(
        "debian",
        "nodes-package",
        id=ids["p"],
        size=sizes,
        section=sections,
        split=splits[:60],
    )
    write("debian", "nodes-maintainer", id=ids["m"])
    write("debian", "edges-package-depends-package", **ends("pp", 200))
    write("debian", "edges-package-maintained_by-maintainer", **ends("pm", 60))
    topics = {"label:topic": number % 4, "split:split": splits[:60]}
    write("papers-tables", "nodes-paper", id=ids["p"], f_0=sizes.astype(np.float32), **topics)
    write("papers-tables", "nodes-author", id=ids["a"])
    write("papers-tables", "edges-paper-cites-paper", **ends("pp", 200))
    write("papers-tables", "edges-author-writes-paper", **ends("ap", 120))
    store = [
        "partition",
        folder / "papers-tables",
        folder / "papers",
        "--parts",
        2,
        "--add-reverse",
    ]
    assert main([str(word) for word in store]) == 0
    write("shop", "nodes-user", id=ids["u"])
    write("shop", "nodes-item", id=ids["i"])
    write("shop", "edges-item-with-item", **ends("ii", 100))
    stars = {"label:stars": draw.integers(1, 6, 300), "split:split": splits}
    write("shop", "edges-user-rates-item", **ends("ui", 300), **stars)


class PageRunner:
    """Runs blocks in the current folder; a context manager, whose end stops servers."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._addresses: dict[str, str] = {}  # of servers, by the one on the page

    def __enter__(self) -> PageRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, block: Block) -> None:
        if block.language in PYTHON:
            text = block.text
            for written, address in self._addresses.items():
                text = text.replace(f'"{written}"', f'"{address}"')
            script = Path(f"block-{block.number}.py")
            script.write_text(text)
            code: object = None
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as end:
                code = end.code
            assert not code, f"{block.name}: exit code {code}"
            return
        for words in commands_of(block.text):
            if words[0] == "serve":
                self._serve(words)
            else:
                code = main(_smaller(words))
                assert code == 0, f"{block.name}: {shlex.join(words)}: exit code {code}"

    def _serve(self, words: list[str]) -> None:
        """Start the server of a command in this process, with a free port."""
        options = dict(pairwise(words))
        parts = [int(value) for key, value in pairwise(words) if key == "--part"]
        store, service = open_store(Path(words[1])), None
        if "--run" in options:
            service = PredictService(store, Path(options["--run"]), Limits())
            self._stack.callback(service.close)
        server = GraphServer(ServerGraph(store, parts or None), predict_service=service)
        self._stack.callback(server.close, 0.0)
        self._addresses[options["--bind"]] = f"127.0.0.1:{server.port}"


def _smaller(words: list[str]) -> list[str]:
    """Return a command with less work."""
    found = [
        str(min(int(word), _LARGEST[option])) if option in _LARGEST else word
        for option, word in zip(["", *words], words, strict=False)
    ]
    if found[0] == "train" and "--epochs" not in found:
        found += ["--epochs", str(_LARGEST["--epochs"])]
    return found
