"""Edge weights on the command line: read by default, turned off, remembered by a run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.run.resolve import load_config
from tests.graphs import random_graph, to_graph
from tests.integration.cli import Run, command, elsewhere

__all__ = ["command", "elsewhere"]  # fixtures


@pytest.fixture
def store(command: Run) -> str:
    graph = to_graph(random_graph(30, 120))
    weight = pa.array(np.random.default_rng(0).random(120))
    pq.write_table(graph.nodes.set_column(0, "id", pa.array(np.arange(30))), "nodes.parquet")
    pq.write_table(graph.edges.append_column("amount", weight), "edges.parquet")
    files = ["--nodes", "nodes.parquet", "--edges", "edges.parquet", "--edge-weight", "amount"]
    assert command("partition", *files, "store", "--parts", 2).code == 0
    return "store"


def predictions(folder: str) -> pa.Table:
    return pq.read_table(folder).sort_by("id")


def test_weights_are_read_unless_turned_off(
    command: Run, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    def reported() -> str:
        (line,) = [r.getMessage() for r in caplog.records if "Edge columns" in r.getMessage()]
        caplog.clear()
        return line

    train = ("train", store, "--label", "y", "--epochs", 3, "--no-progress", "--dropout", 0)
    assert command(*train, "--run-dir", "default").code == 0
    line = reported()
    assert (
        "the model multiplies messages by 'weight' (not with weighted=False, --no-weighted" in line
    )
    assert line.endswith("does not read 'attr', 'type'.")
    assert command(*train, "--run-dir", "plain", "--no-weighted").code == 0
    assert reported().endswith("does not read 'attr', 'type', 'weight'.")
    assert command(*train, "--run-dir", "sage", "--model", "sage", "--weighted").code == 0
    assert load_config(Path("default")).weighted is True
    assert load_config(Path("plain")).weighted is False
    refused = command(*train, "--run-dir", "gat", "--model", "gat", "--weighted")
    assert refused.code
    assert "--weighted: expected --model gcn or --model sage or --model gin" in refused.err


def test_a_run_repeats_its_choice(command: Run, store: str) -> None:
    train = ("train", store, "--label", "y", "--epochs", 2, "--no-progress")
    assert command(*train, "--run-dir", "run", "--no-weighted").code == 0
    assert command("predict", "run", store, "--out", "expected").code == 0
    config = Path("run/config.toml")  # as an earlier version wrote it
    config.write_text(re.sub(r"(?m)^(weighted|#).*\n?", "", config.read_text()))
    assert command("predict", "run", store, "--out", "again").code == 0
    assert predictions("again").equals(predictions("expected"))
