"""PyG's partition folder, read back by PyG's own loaders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.export import export
from tests.export.graphs import CORNERS, edge_rows, node_rows, rich_graph, store_of
from tests.export.rows import check_edges, check_nodes
from tests.graphs import random_graph, to_graph

pytest.importorskip("torch_geometric")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch_geometric.distributed.*:UserWarning")


def load(folder: Path, part: int) -> tuple[Any, Any]:
    from torch_geometric.distributed import LocalFeatureStore, LocalGraphStore

    graph = LocalGraphStore.from_partition(str(folder), part)
    return graph, LocalFeatureStore.from_partition(str(folder), part)


def tensors(features: Any, group: Any) -> list[dict[str, Any]]:
    """Return the rows of a group of features as dicts."""
    attrs = [attr for attr in features.get_all_tensor_attrs() if attr.group_name == group]
    columns = {attr.attr_name: features.get_tensor(attr).tolist() for attr in attrs}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def parquet(path: Path, key: str) -> dict[int, dict[str, Any]]:
    return {row[key]: row for row in pq.read_table(path).to_pylist()}


@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "undirected"])
@pytest.mark.parametrize("text_ids", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize("corner", CORNERS)
def test_pyg_loads_the_same_graph(
    corner: str, text_ids: bool, undirected: bool, tmp_path: Path
) -> None:
    graph = rich_graph(corner, text_ids=text_ids)
    store = store_of(graph, tmp_path / "store", 3, undirected=undirected)
    export("pyg", store, tmp_path / "pyg")
    nodes, edges = node_rows(graph), edge_rows(graph, undirected=undirected)
    seen_nodes, seen_edges = [], []
    for part in range(store.num_parts):
        graph_store, features = load(tmp_path / "pyg", part)
        assert (graph_store.num_partitions, graph_store.partition_idx) == (store.num_parts, part)
        at = tmp_path / "pyg" / f"part_{part}"

        src, dst = graph_store.get_edge_index(edge_type=None, layout="coo").tolist()
        keys = graph_store.get_edge_id(edge_type=None, layout="coo").tolist()
        assert dst == sorted(dst)
        assert set(graph_store.get_partition_ids_from_eids(keys).tolist()) <= {part}
        assert [(edges[k]["src"], edges[k]["dst"]) for k in keys] == list(
            zip(src, dst, strict=True)
        )
        rows, notes = (
            tensors(features, (None, None)),
            parquet(at / "edge_columns.parquet", "edge_key"),
        )
        assert len(rows) == len(keys)
        for key, row in zip(keys, rows, strict=True):
            names = ("edge_attr", "edge_type", "edge_weight", "edge_label")
            attr, type_, weight, label = names
            check_edges(
                edges[key], row, notes[key], attr=attr, type=type_, weight=weight, label=label
            )
        seen_edges += keys

        owned = features.get_global_id(None)
        owned = [] if owned is None else owned.tolist()
        assert set(graph_store.get_partition_ids_from_nids(owned).tolist()) <= {part}
        rows, rest = tensors(features, None), parquet(at / "node_columns.parquet", "node_key")
        for key, row in zip(owned, rows, strict=True):
            check_nodes(nodes[key], row, rest[key], features="x", label="y")
        assert set(dst) <= set(owned)
        seen_nodes += owned
    assert sorted(seen_nodes) == list(range(graph.num_nodes))
    assert sorted(seen_edges) == sorted(edges)
    assert len(graph_store.node_pb) == graph.num_nodes


def test_features_are_found_by_global_id(tmp_path: Path) -> None:
    import torch

    graph = to_graph(random_graph(30, 90))
    store = store_of(graph, tmp_path / "store", 4, "kaminpar")
    export("pyg", store, tmp_path / "pyg")
    for part in range(4):
        _, features = load(tmp_path / "pyg", part)
        keys = features.get_global_id(None).flip(0)
        found = features.get_tensor_from_global_id(group_name=None, attr_name="x", index=keys)
        assert torch.equal(found, torch.tensor(graph.features)[keys])


def test_reverse_edges_leave_keys_that_name_no_edge(tmp_path: Path) -> None:
    graph = rich_graph("self_loops")
    export("pyg", store_of(graph, tmp_path / "store", 2, undirected=True), tmp_path / "pyg")
    graph_store, _ = load(tmp_path / "pyg", 0)
    absent = [key for key, part in enumerate(graph_store.edge_pb.tolist()) if part < 0]
    loops = [key for key, row in enumerate(graph.edges.to_pylist()) if row["src"] == row["dst"]]
    assert absent == [key + graph.num_edges for key in loops]


def test_folder_is_that_of_the_partitioner(tmp_path: Path) -> None:
    graph: Graph = to_graph(random_graph(30, 90))
    export("pyg", store_of(graph, tmp_path / "store", 2), tmp_path / "pyg")
    names = sorted(str(f.relative_to(tmp_path / "pyg")) for f in (tmp_path / "pyg").rglob("*.*"))
    part = ["edge_feats.pt", "graph.pt", "node_feats.pt"]
    assert names == [
        "META.json",
        "edge_map.pt",
        "graphtheta.json",
        "node_map.pt",
        *(f"part_{k}/{name}" for k in range(2) for name in part),
    ]
    meta = json.loads((tmp_path / "pyg" / "META.json").read_text())
    assert meta == {
        "num_parts": 2,
        "node_types": None,
        "edge_types": None,
        "node_offset": None,
        "is_hetero": False,
        "is_sorted": True,
    }


def test_vertex_cut_is_refused_in_one_line(tmp_path: Path) -> None:
    store = store_of(to_graph(random_graph(30, 90)), tmp_path / "store", 2, "dbh")
    with pytest.raises(
        ConfigError, match=r"expected an edge-cut.*dbh.*--method kaminpar"
    ) as caught:
        export("pyg", store, tmp_path / "pyg")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
