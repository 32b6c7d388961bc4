"""DGL's partition folder, read back by DGL's own loaders."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from graphtheta.errors import ConfigError
from graphtheta.export import export
from tests.export.graphs import CORNERS, edge_rows, node_rows, rich_graph, store_of
from tests.export.rows import check_edges, check_nodes
from tests.graphs import random_graph, to_graph

needs_dgl = pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="needs dgl")
pytestmark = pytest.mark.filterwarnings("ignore")  # dgl emits many warnings


def load(folder: Path, name: str, part: int) -> tuple[Any, ...]:
    import dgl

    loaded: tuple[Any, ...] = dgl.distributed.load_partition(str(folder / f"{name}.json"), part)
    return loaded


def rows(features: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the rows of features as dicts, without the type in their names."""
    columns = {n.removeprefix(f"{kind}/"): t.tolist() for n, t in features.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def parquet(path: Path, key: str) -> dict[int, dict[str, Any]]:
    return {row[key]: row for row in pq.read_table(path).to_pylist()}


@needs_dgl
@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "undirected"])
@pytest.mark.parametrize("text_ids", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize("corner", CORNERS)
def test_dgl_loads_the_same_graph(
    corner: str, text_ids: bool, undirected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGL_DIST_DEBUG", "1")  # it checks ids against its partition book
    graph = rich_graph(corner, text_ids=text_ids)
    store = store_of(graph, tmp_path / "store", 3, undirected=undirected)
    export("dgl", store, tmp_path / "dgl", name="g")
    nodes, edges = node_rows(graph), edge_rows(graph, undirected=undirected)
    key_of_new_id = np.concatenate(
        [store.part(p).masters["node_key"].to_numpy() for p in range(store.num_parts)]
    )
    seen_nodes, seen_edges, edge_ids = [], [], []
    for part in range(store.num_parts):
        g, node_feats, edge_feats, book, name, ntypes, etypes = load(tmp_path / "dgl", "g", part)
        assert (name, ntypes, etypes) == ("g", ["_N"], [("_N", "_E", "_N")])
        assert (book.num_partitions(), book.partid) == (store.num_parts, part)
        at = tmp_path / "dgl" / f"part{part}"

        ids, inner = g.ndata["_ID"].numpy(), g.ndata["inner_node"].bool().numpy()
        np.testing.assert_array_equal(key_of_new_id[ids], g.ndata["orig_id"].numpy())
        np.testing.assert_array_equal(book.nid2partid(g.ndata["_ID"]), g.ndata["part_id"])
        np.testing.assert_array_equal(g.ndata["part_id"].numpy() == part, inner)
        np.testing.assert_array_equal(ids[inner], book.partid2nids(part))
        np.testing.assert_array_equal(np.flatnonzero(inner), np.arange(inner.sum()))
        np.testing.assert_array_equal(g.edata["_ID"], book.partid2eids(part))
        assert bool(g.edata["inner_edge"].all())
        assert g.edata["inner_edge"].shape == (g.num_edges(),)

        keys = g.edata["orig_id"].tolist()
        ends = [key_of_new_id[ids[end.numpy()]].tolist() for end in g.edges(order="eid")]
        assert [(edges[k]["src"], edges[k]["dst"]) for k in keys] == list(zip(*ends, strict=True))
        notes = parquet(at / "edge_columns.parquet", "edge_key")
        found = rows(edge_feats, "_N:_E:_N")
        assert [row["edge_key"] for row in found] == keys
        for row in found:
            note, expected = notes[row["edge_key"]], edges[row["edge_key"]]
            check_edges(
                expected, row, note, attr="feat", type="etype", weight="weight", label="label"
            )
        rest = parquet(at / "node_columns.parquet", "node_key")
        found = rows(node_feats, "_N")
        assert [row["node_key"] for row in found] == key_of_new_id[ids[inner]].tolist()
        for row in found:
            key = row["node_key"]
            check_nodes(nodes[key], row, rest[key], features="feat", label="label")
        seen_nodes += [row["node_key"] for row in found]
        seen_edges += keys
        edge_ids += g.edata["_ID"].tolist()
    assert sorted(seen_nodes) == list(range(graph.num_nodes))
    assert sorted(seen_edges) == sorted(edges)
    assert edge_ids == list(range(len(edges)))


@needs_dgl
def test_inner_edges_are_those_of_dgl(tmp_path: Path) -> None:
    """DGL's own partitioner assigns the same nodes, given our parts; it also repeats out-edges."""
    import dgl
    import torch

    graph = to_graph(random_graph(40, 160))
    store = store_of(graph, tmp_path / "store", 3, "kaminpar")
    export("dgl", store, tmp_path / "dgl")
    part_of_node = torch.empty(graph.num_nodes, dtype=torch.int64)
    for part in range(3):
        part_of_node[torch.tensor(store.part(part).masters["node_key"].to_numpy())] = part
    whole = dgl.graph((torch.tensor(graph.src), torch.tensor(graph.dst)), num_nodes=40)
    theirs, _, _ = dgl.partition.partition_graph_with_halo(whole, part_of_node, 1, reshuffle=True)
    for part in range(3):
        ours, them = load(tmp_path / "dgl", "store", part)[0], theirs[part]
        owned = them.edge_subgraph(them.edata["inner_edge"].bool(), relabel_nodes=False)
        sources = owned.edges()[0]
        for mine, yours in (
            (ours.ndata["orig_id"][ours.ndata["inner_node"] == 1], _inner(them)),
            (ours.ndata["orig_id"][ours.edges()[0]], them.ndata["orig_id"][sources]),
            (ours.edata["orig_id"], owned.edata["orig_id"]),
        ):
            assert sorted(mine.tolist()) == sorted(yours.tolist())
        halo = set(ours.ndata["orig_id"][ours.ndata["inner_node"] == 0].tolist())
        assert halo == set(them.ndata["orig_id"][sources].tolist()) - set(_inner(them).tolist())


def _inner(part: Any) -> Any:
    return part.ndata["orig_id"][part.ndata["inner_node"] == 1]


@needs_dgl
def test_dist_graph_serves_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DGL's DistGraph in standalone mode, which takes a store of one part."""
    import dgl
    import torch

    monkeypatch.setenv("DGL_DIST_MODE", "standalone")
    graph = to_graph(random_graph(30, 90))
    store = store_of(graph, tmp_path / "store", 1)
    export("dgl", store, tmp_path / "dgl", name="g")
    dgl.distributed.initialize("kv_ip_config.txt")
    served = dgl.distributed.DistGraph("g", part_config=str(tmp_path / "dgl" / "g.json"))
    assert (served.num_nodes(), served.num_edges()) == (30, 90)
    keys = served.ndata["node_key"][torch.arange(30)]
    assert torch.equal(served.ndata["feat"][torch.arange(30)], torch.tensor(graph.features)[keys])
    attr = torch.tensor(graph.column("attr"))[served.edata["edge_key"][torch.arange(90)]]
    assert torch.equal(served.edata["feat"][torch.arange(90)], attr)


@needs_dgl
def test_folder_is_that_of_partition_graph(tmp_path: Path) -> None:
    graph = to_graph(random_graph(30, 90))
    store = store_of(graph, tmp_path / "store", 2)
    export("dgl", store, tmp_path / "dgl", name="g")
    names = sorted(str(f.relative_to(tmp_path / "dgl")) for f in (tmp_path / "dgl").rglob("*.*"))
    part = ["edge_feat.dgl", "graph.dgl", "node_feat.dgl"]
    assert names == [
        "g.json",
        "graphtheta.json",
        *(f"part{k}/{name}" for k in range(2) for name in part),
    ]
    config = json.loads((tmp_path / "dgl" / "g.json").read_text())
    assert config["node_map"]["_N"][-1][1] == config["num_nodes"] == 30
    assert config["edge_map"]["_N:_E:_N"][-1][1] == config["num_edges"] == 90


def test_vertex_cut_is_refused_in_one_line(tmp_path: Path) -> None:
    store = store_of(to_graph(random_graph(30, 90)), tmp_path / "store", 2, "dbh")
    with pytest.raises(ConfigError, match=r"expected an edge-cut.*dbh.*kaminpar.*dgl-chunked") as e:
        export("dgl", store, tmp_path / "dgl")
    assert "\n" not in str(e.value)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_missing_dgl_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dgl", None)
    store = store_of(to_graph(random_graph(30, 90)), tmp_path / "store", 2)
    with pytest.raises(ConfigError, match=r"expected the library dgl.*graphtheta\[dgl\].*chunked"):
        export("dgl", store, tmp_path / "dgl")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
