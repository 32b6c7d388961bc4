"""Stores, servers in this process, and reference data read from the stores' Arrow files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.engine import RemoteGraph, connect
from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.server import GraphServer
from graphtheta.engine.wire.protocol import Limits
from graphtheta.engine.wire.tables import encode
from graphtheta.partition import Plan, Store, make_store, open_store
from tests.graphs import power_law, to_graph

__all__ = ["Truth", "code_of", "corrupted_tables", "make", "serving", "weighted"]


def weighted(num_nodes: int = 90, num_edges: int = 700, *, text_ids: bool = True) -> gt.Graph:
    """Return a graph with hubs, isolated nodes, every kind of column, and some weights of 0."""
    n, src, dst = power_law(num_nodes - 3, num_edges, seed=3)
    made = to_graph((n + 3, src, dst), text_ids=text_ids)
    weight = np.random.default_rng(0).random(len(src)) * (np.arange(len(src)) % 7 > 0)
    known = np.random.default_rng(1).random(n + 3) < 0.6
    flag = pa.array(np.arange(n + 3) % 2 == 0, mask=~known)
    nodes = made.nodes.append_column("label:flag", flag)
    nodes = nodes.append_column("row", pa.array(np.arange(n + 3) * 2))  # also a name in responses
    edges = made.edges.append_column("weight", pa.array(weight))
    return gt.Graph(nodes, edges.append_column("rank", pa.array(np.arange(len(src)) * 3)))


def make(graph: gt.Graph, path: Path, parts: int, method: str) -> Store:
    return make_store(graph, path, Plan(parts, method, seed=0))


@contextmanager
def serving(
    path: Path, servers: int, limits: Limits | None = None, timeout_s: float = 60.0
) -> Iterator[RemoteGraph]:
    """Serve the parts of a store from several servers, and connect to them."""
    store = open_store(path)
    with ExitStack() as stack:
        addresses = []
        for number in range(servers):
            parts = range(number, store.num_parts, servers)
            server = GraphServer(ServerGraph(store, parts), limits=limits)
            stack.callback(server.close, 0.0)
            addresses.append(f"127.0.0.1:{server.port}")
        yield stack.enter_context(connect(addresses, timeout_s=timeout_s))


@dataclass
class Truth:
    """The content of a store, read file by file with nothing but pyarrow.

    Attributes:
        nodes: Node columns by name, in the order of the node keys.
        edges: Edge columns by name, with src and dst as node keys, in the order of the edge keys.
        new_id: New ids in the order of the node keys.
    """

    nodes: dict[str, list[Any]]
    edges: dict[str, list[Any]]
    new_id: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path) -> Truth:
        masters, edges, first = [], [], 0
        for folder in sorted(path.glob("part-*")):
            table = _joined(folder, "masters")
            count = table.num_rows
            masters.append(table.append_column("new_id", pa.array(np.arange(count) + first)))
            first += count
            keys = _read(folder / "replicas.arrow")["node_key"].to_numpy()
            indptr = _read(folder / "in_indptr.arrow")["indptr"].to_numpy()
            dst = np.repeat(np.arange(len(keys)), np.diff(indptr))
            found = _joined(folder, "in_edges")
            src = found["src"].to_numpy()
            found = found.drop_columns(["src", "in_position"])
            found = found.append_column("src", pa.array(keys[src]))
            edges.append(found.append_column("dst", pa.array(keys[dst])))
        node_table = pa.concat_tables(masters).sort_by("node_key")
        edge_table = pa.concat_tables(edges).sort_by("edge_key")
        return cls(node_table.to_pydict(), edge_table.to_pydict(), node_table["new_id"].to_numpy())

    def in_edges(self, key: int) -> list[int]:
        return [e for e, dst in enumerate(self.edges["dst"]) if dst == key]

    def out_edges(self, key: int) -> list[int]:
        return [e for e, src in enumerate(self.edges["src"]) if src == key]


def _joined(folder: Path, name: str) -> pa.Table:
    """Return a table of a part with the columns of the only node type or relation."""
    table = _read(folder / f"{name}.arrow")
    if (folder / f"{name}-0.arrow").exists():
        columns = _read(folder / f"{name}-0.arrow")
        for column in columns.column_names:
            table = table.append_column(column, columns[column])
    return table


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


@st.composite
def corrupted_tables(draw: st.DrawFn) -> bytes:
    """Generate tables with a few bytes changed or cut off."""
    columns = draw(st.sampled_from([("new_id",), ("id",), ("src", "dst"), ("edge_key", "dst")]))
    values = draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6))
    made = bytearray(encode(pa.record_batch({n: pa.array(values, pa.int64()) for n in columns})))
    for position, value in draw(
        st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=4)
    ):
        made[position % len(made)] = value
    return bytes(made[: draw(st.integers(0, len(made)))] if draw(st.booleans()) else made)


def code_of(response: Any) -> grpc.StatusCode:
    """Return the status code of a response."""
    try:
        list(response)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK
