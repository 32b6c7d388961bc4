"""Servers that several modules share: one of large responses, and one of each module's graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.engine import RemoteGraph
from graphtheta.proto.v1.graph_pb2_grpc import GraphStub
from tests.engine.processes import ServerProcess, serve
from tests.engine.requests import WIDE
from tests.engine.stores import make, serving, weighted


@pytest.fixture(scope="package")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two parts whose features are 40 MB."""
    folder = tmp_path_factory.mktemp("faults")
    small = weighted(5000, 20_000)
    wide = np.random.default_rng(0).standard_normal((5000, WIDE)).astype(np.float32)
    nodes = small.nodes.drop_columns(["features"]).append_column("features", matrix_column(wide))
    make(Graph(nodes, small.edges), folder / "store", 2, "node-hash")
    make(weighted(), folder / "other", 2, "node-hash")
    return folder


@pytest.fixture(scope="package")
def server(path: Path) -> Iterator[ServerProcess]:
    options = ("--metrics-port", 0, "--max-ids", 100_000, "--max-in-flight", 8, "--verbose")
    with serve(path / "store", *options) as process:
        yield process


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[GraphStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield GraphStub(channel)


@pytest.fixture(scope="module", params=[(2, "node-hash"), (3, "dbh")], ids=["edge", "vertex"])
def remote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RemoteGraph]:
    """Serve the graph `GRAPH` of the test's module, as an edge-cut and as a vertex-cut."""
    path = tmp_path_factory.mktemp("served") / "store"
    make(request.module.GRAPH, path, *request.param)
    with serving(path, 2) as graph:
        yield graph
