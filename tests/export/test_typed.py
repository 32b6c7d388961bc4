"""Export of a graph of several node types and relations, read back by the systems' own loaders."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from graphtheta.data.graph import Graph
from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError
from graphtheta.export import export
from graphtheta.partition import Store
from tests.export.graphs import store_of
from tests.typed_graphs import typed_graph

pytestmark = pytest.mark.filterwarnings("ignore")  # dgl and torch_geometric.distributed
GRAPH = typed_graph()
TYPES = ["author", "empty", "paper", "venue"]
RELATIONS = [table.relation for table in GRAPH.edge_tables]
FIRST_KEYS = {table.name: table.first_key for table in GRAPH.node_tables}
NODES = {name: GRAPH.node_table(name).to_pylist() for name in TYPES}
EDGES = {relation: GRAPH.edge_table(relation).to_pylist() for relation in RELATIONS}
MASKS = ("train_mask", "val_mask", "test_mask")
DGL_NAMES = {"features": "feat", "label:y": "label", "label:stars": "label", "type": "etype"}
PYG_NAMES = {
    "features": "x",
    "label:y": "y",
    "type": "edge_type",
    "weight": "edge_weight",
    "label:stars": "edge_label",
}
needs_dgl = pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="needs dgl")

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(GRAPH, tmp_path_factory.mktemp("typed") / "store", 3)


def rows_of(columns: Mapping[str, Any]) -> Rows:
    """Return columns of equal length as rows."""
    values = [np.asarray(column).tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def parquet(path: Path, key: str) -> dict[int, dict[str, Any]]:
    """Return the rows of columns that are not tensors, by key; none if there are no columns."""
    return {row[key]: row for row in pq.read_table(path).to_pylist()} if path.exists() else {}


def check_row(expected: Mapping[str, Any], found: Mapping[str, Any], names: dict[str, str]) -> None:
    """Assert that a node or edge has its values, under the names of another system."""
    for name, value in expected.items():
        if name == "split:split":
            assert [bool(found[mask]) for mask in MASKS] == [value == of for of in (1, 2, 3)]
        elif name not in ("src", "dst"):
            column = "original_id" if name == "id" else names.get(name, name)
            assert found[column] == (-1 if value is None else value)


def check_all(nodes: Mapping[str, Rows], edges: Mapping[Any, Rows], names: dict[str, str]) -> None:
    """Assert that each node and edge is there once, with its values.

    Rows have `node_key` or `edge_key`; edges have `src` and `dst`, which are node keys.
    """
    for table in GRAPH.node_tables:
        found = sorted(nodes[table.name], key=lambda row: int(row["node_key"]))
        keys = [row["node_key"] for row in found]
        assert keys == list(range(table.first_key, table.first_key + table.num_rows))
        for expected, row in zip(NODES[table.name], found, strict=True):
            check_row(expected, row, names)
    for table in GRAPH.edge_tables:
        found = sorted(edges[table.relation], key=lambda row: int(row["edge_key"]))
        keys = [row["edge_key"] for row in found]
        assert keys == list(range(table.first_key, table.first_key + table.num_rows))
        for expected, row in zip(EDGES[table.relation], found, strict=True):
            check_row(expected, row, names)
            assert (row["src"], row["dst"]) == (expected["src"], expected["dst"])


def test_pyg_loads_a_typed_graph(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric")
    from torch_geometric.distributed import LocalFeatureStore, LocalGraphStore

    export("pyg", store, tmp_path / "pyg")
    nodes: dict[str, Rows] = {name: [] for name in TYPES}
    edges: dict[Any, Rows] = {relation: [] for relation in RELATIONS}
    for part in range(store.num_parts):
        graph = LocalGraphStore.from_partition(str(tmp_path / "pyg"), part)
        features = LocalFeatureStore.from_partition(str(tmp_path / "pyg"), part)
        at = tmp_path / "pyg" / f"part_{part}"

        def columns(group: Any, ids: Any, features: Any = features) -> dict[str, Any]:
            attrs = [attr for attr in features.get_all_tensor_attrs() if attr.group_name == group]
            # By id, as PyG's sampler looks features up.
            look_up = features.get_tensor_from_global_id
            return {a.attr_name: look_up(group, a.attr_name, index=ids) for a in attrs}

        for name in TYPES:
            ids = features.get_global_id(name)
            if ids is None:
                continue
            assert set(graph.get_partition_ids_from_nids(ids, name).tolist()) == {part}
            rest = parquet(at / "node_columns" / f"{name}.parquet", "node_key")
            for row, id in zip(rows_of(columns(name, ids)), ids.tolist(), strict=True):
                assert row["node_key"] == id + FIRST_KEYS[name]
                nodes[name].append({**row, **rest.get(row["node_key"], {})})
        for relation in RELATIONS:
            of = tuple(relation)
            src, dst = graph.get_edge_index(edge_type=of, layout="coo")
            ids = graph.get_edge_id(edge_type=of, layout="coo")
            assert dst.tolist() == sorted(dst.tolist())
            assert set(graph.get_partition_ids_from_nids(dst, of[2]).tolist()) <= {part}
            assert set(graph.get_partition_ids_from_eids(ids, of).tolist()) <= {part}
            if not len(ids):
                continue
            ends = {"src": src + FIRST_KEYS[of[0]], "dst": dst + FIRST_KEYS[of[2]]}
            edges[relation] += rows_of({**columns(of, ids), **ends})
    check_all(nodes, edges, PYG_NAMES)
    assert [len(graph.node_pb[name]) for name in TYPES] == [13, 0, 21, 4]
    assert [len(graph.edge_pb[tuple(of)]) for of in RELATIONS] == [40, 60, 9, 0, 21]
    assert (tmp_path / "pyg" / "node_map" / "venue.pt").stat().st_size < 2000  # not of all types
    meta = json.loads((tmp_path / "pyg" / "META.json").read_text())
    assert (meta["is_hetero"], meta["node_types"]) == (True, TYPES)
    assert meta["edge_types"] == [list(relation) for relation in RELATIONS]
    assert meta["node_offset"] == list(FIRST_KEYS.values())


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
def test_chunks_hold_a_typed_graph(method: str, tmp_path: Path) -> None:
    store = store_of(GRAPH, tmp_path / "store", 3, method)
    export("dgl-chunked", store, tmp_path / "chunked", name="g")
    folder = tmp_path / "chunked"
    meta = json.loads((folder / "metadata.json").read_text())

    def read(section: str, owner: str, kind: str, text: str) -> Rows:
        columns = {
            name: np.concatenate([np.load(folder / file) for file in spec["data"]])
            for name, spec in meta[section][owner].items()
        }
        rest = parquet(folder / f"{kind}_columns" / text, f"{kind}_key")
        return [{**row, **rest.get(row[f"{kind}_key"], {})} for row in rows_of(columns)]

    assert meta["node_type"] == TYPES
    assert meta["edge_type"] == [":".join(relation) for relation in RELATIONS]
    assert meta["num_nodes_per_type"] == [13, 0, 21, 4]
    assert meta["num_edges_per_type"] == [40, 60, 9, 0, 21]
    chunks = np.array(meta["num_nodes_per_chunk"])
    assert chunks.sum(axis=0).tolist() == store.book.masters.tolist()
    nodes = {name: read("node_data", name, "node", name) for name in TYPES}
    edges = {}
    for relation in RELATIONS:
        text = ":".join(relation)
        edges[relation] = read("edge_data", text, "edge", relation.text)
        files = [folder / file for file in meta["edges"][text]["data"]]
        lines = [file.read_text().splitlines() for file in files]
        counts = meta["num_edges_per_chunk"][RELATIONS.index(relation)]
        assert [len(some) for some in lines] == counts
        joined = [line for some in lines for line in some]
        for row, line in zip(edges[relation], joined, strict=True):
            src, dst = map(int, line.split(" "))
            row["src"] = nodes[relation.source][src]["node_key"]
            row["dst"] = nodes[relation.destination][dst]["node_key"]
    check_all(nodes, edges, DGL_NAMES)
    for name, counts in zip(TYPES, chunks, strict=True):
        parts = (folder / "partition" / f"{name}.txt").read_text().split()
        assert parts == np.repeat(np.arange(3), counts).astype(str).tolist()


@needs_dgl
def test_dgl_loads_a_typed_graph(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dgl

    monkeypatch.setenv("DGL_DIST_DEBUG", "1")  # it checks ids against its partition book
    export("dgl", store, tmp_path / "dgl", name="g")
    config = str(tmp_path / "dgl" / "g.json")
    parts = [dgl.distributed.load_partition(config, part) for part in range(store.num_parts)]

    def read(part: int, feats: Mapping[str, Any], owner: str, kind: str, text: str) -> Rows:
        columns = {n.split("/")[1]: t for n, t in feats.items() if n.split("/")[0] == owner}
        path = tmp_path / "dgl" / f"part{part}" / f"{kind}_columns" / f"{text}.parquet"
        rest = parquet(path, f"{kind}_key")
        return [{**row, **rest.get(row[f"{kind}_key"], {})} for row in rows_of(columns)]

    nodes: dict[str, Rows] = {name: [] for name in TYPES}
    edges: dict[Any, Rows] = {relation: [] for relation in RELATIONS}
    for index, (_, node_feats, edge_feats, *_) in enumerate(parts):
        for name in TYPES:
            nodes[name] += read(index, node_feats, name, "node", name)
        for of in RELATIONS:
            edges[of] += read(index, edge_feats, ":".join(of), "edge", of.text)
    for index, (graph, _, _, book, name, types, relations) in enumerate(parts):
        assert (name, types, relations) == ("g", TYPES, [tuple(of) for of in RELATIONS])
        ids, inner = graph.ndata["_ID"], graph.ndata["inner_node"].bool()
        of_type, within = (each.tolist() for each in book.map_to_per_ntype(ids))
        assert graph.ndata["_TYPE"].tolist() == of_type
        keys = graph.ndata["orig_id"].tolist()
        found = [nodes[TYPES[t]][i]["node_key"] for t, i in zip(of_type, within, strict=True)]
        assert found == keys  # of halo nodes too
        assert ids[inner].tolist() == book.partid2nids(index).tolist()
        assert inner.nonzero().flatten().tolist() == list(range(int(inner.sum())))
        of_relation, within = (e.tolist() for e in book.map_to_per_etype(graph.edata["_ID"]))
        assert graph.edata["_TYPE"].tolist() == of_relation == sorted(of_relation)
        assert graph.edata["_ID"].tolist() == book.partid2eids(index).tolist()
        ends = [end.tolist() for end in graph.edges(order="eid")]
        for r, i, key, src, dst in zip(
            of_relation, within, graph.edata["orig_id"].tolist(), *ends, strict=True
        ):
            row = edges[RELATIONS[r]][i]
            assert row["edge_key"] == key
            row["src"], row["dst"] = keys[src], keys[dst]
            assert inner[dst]
    check_all(nodes, edges, DGL_NAMES)


@needs_dgl
def test_dist_graph_serves_a_typed_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dgl
    import torch

    monkeypatch.setenv("DGL_DIST_MODE", "standalone")
    export("dgl", store_of(GRAPH, tmp_path / "store", 1), tmp_path / "dgl", name="typed")
    dgl.distributed.initialize("kv_ip_config.txt")
    served = dgl.distributed.DistGraph("typed", part_config=str(tmp_path / "dgl" / "typed.json"))
    assert served.ntypes == TYPES
    keys = served.nodes["paper"].data["node_key"][torch.arange(21)] - FIRST_KEYS["paper"]
    expected = torch.tensor([NODES["paper"][key]["features"] for key in keys.tolist()])
    assert torch.equal(served.nodes["paper"].data["feat"][torch.arange(21)], expected)
    sampled = dgl.distributed.sample_etype_neighbors(served, {"paper": torch.arange(21)}, -1)
    for relation in sampled.canonical_etypes:
        assert sampled.num_edges(relation) == len(EDGES[Relation(*relation)])
    assert len(sampled.canonical_etypes) == 3  # those with edges into papers


@pytest.mark.parametrize(
    ("format", "name"),
    [("pyg", "sub__type"), ("pyg", "a/b"), ("dgl-chunked", "a:b"), ("dgl", "..")],
)
def test_names_that_a_format_cannot_represent_are_refused(
    format: str, name: str, tmp_path: Path
) -> None:
    relation = Relation(name, "of", "paper")
    graph = Graph.from_arrow(
        {name: {"id": [1]}, "paper": {"id": [1]}}, {relation: {"src": [1], "dst": [1]}}
    )
    store = store_of(graph, tmp_path / "store", 2)
    with pytest.raises(ConfigError, match=rf"export {format}: .* without .* got '{name}'\. Rename"):
        export(format, store, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
