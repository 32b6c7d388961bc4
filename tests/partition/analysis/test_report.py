"""Reports on stores, compared with counting by loops and with the bytes that training sends."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, Store, make_store, open_store
from graphtheta.partition.analysis.plot import draw
from graphtheta.partition.analysis.report import Report, degree_bounds, report
from graphtheta.partition.analysis.traffic import Traffic, predict_bytes
from graphtheta.partition.store.manifest import Manifest
from tests.graphs import CORNER_GRAPHS, power_law, random_graph, to_graph


def make(graph: Graph, path: Path, parts: int, method: str, **options: Any) -> Store:
    make_store(graph, path, Plan(min(parts, graph.num_nodes), method, **options))
    return open_store(path)


def count_by_loops(store: Store) -> dict[str, Any]:
    """Count everything with loops over nodes and edges."""
    owner_of_key = {}
    parts = [store.part(p) for p in range(store.num_parts)]
    for index, part in enumerate(parts):
        for key in part.masters["node_key"].to_pylist():
            assert key not in owner_of_key
            owner_of_key[key] = index
    masters, mirrors, edges, interior = ([0] * store.num_parts for _ in range(4))
    cut, degrees = 0, (Counter[int](), Counter[int]())
    pairs: dict[tuple[int, int], list[int]] = {}
    for index, part in enumerate(parts):
        keys = part.replicas["node_key"].to_pylist()
        sources = [keys[src] for src in part.in_edges["src"].to_pylist()]
        bounds = part.in_indptr["indptr"].to_pylist()
        targets = [key for row, key in enumerate(keys) for _ in range(bounds[row], bounds[row + 1])]
        masters[index] = part.masters.num_rows
        edges[index] = len(sources)
        cut += sum(
            owner_of_key[a] != owner_of_key[b] for a, b in zip(sources, targets, strict=True)
        )
        degrees[0].update(targets)
        degrees[1].update(sources)
        foreign = {b for a, b in zip(sources, targets, strict=True) if owner_of_key[a] != index}
        interior[index] = sum(k not in foreign for k in part.masters["node_key"].to_pylist())
        for key in keys:
            if owner_of_key[key] != index:
                mirrors[index] += 1
                pair = pairs.setdefault((owner_of_key[key], index), [0, 0, 0])
                pair[0] += 1
                pair[1] += key in sources
                pair[2] += key in targets
    return {
        "masters": masters,
        "mirrors": mirrors,
        "edges": edges,
        "interior": interior,
        "cut": cut,
        "pairs": {pair: tuple(counts) for pair, counts in pairs.items()},
        "degrees": [[degree[key] for key in owner_of_key] for degree in degrees],
    }


@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "undirected"])
@pytest.mark.parametrize("method", ["node-hash", "kaminpar", "dbh", "hdrf"])
@pytest.mark.parametrize("corner", CORNER_GRAPHS)
def test_report_equals_counting_by_loops(
    corner: str, method: str, undirected: bool, tmp_path: Path
) -> None:
    graph = to_graph(CORNER_GRAPHS[corner])
    store = make(graph, tmp_path / "store", 3, method, undirected=undirected)
    found, plain = report(store), count_by_loops(store)
    for name in ("masters", "mirrors", "edges", "interior"):
        assert getattr(found, name).tolist() == plain[name], name

    num_parts, edges = store.num_parts, sum(plain["edges"])
    quality = found.quality
    assert quality == store.manifest.quality
    assert quality.mirrors == sum(plain["mirrors"])
    assert np.isclose(quality.replication_factor, 1 + sum(plain["mirrors"]) / graph.num_nodes)
    assert quality.edge_cut == (plain["cut"] / edges if edges else 0)
    assert np.isclose(quality.node_balance, max(plain["masters"]) * num_parts / graph.num_nodes)
    balance = max(plain["edges"]) * num_parts / edges if edges else 1
    assert np.isclose(quality.edge_balance, balance)

    traffic = found.traffic
    columns = [traffic.owner, traffic.holder, traffic.mirrors, traffic.sync, traffic.merge]
    rows = [tuple(row) for row in np.stack(columns, axis=1).tolist()]
    assert {row[:2]: row[2:] for row in rows} == plain["pairs"]
    assert rows == sorted(rows)

    bounds = degree_bounds(len(found.in_degrees))
    for counts, degrees, largest in zip(
        (found.in_degrees, found.out_degrees), plain["degrees"], found.largest_degrees, strict=True
    ):
        bins = [sum(low <= d < high for d in degrees) for low, high in pairwise(bounds.tolist())]
        assert counts.tolist() == bins
        assert largest == max(degrees)

    split = graph.split("split")
    for part in range(num_parts):
        keys = store.part(part).masters["node_key"].to_numpy()
        expected = np.bincount(split[keys], minlength=4)
        np.testing.assert_array_equal(found.splits["split"][part], expected)


def test_report_ignores_the_quality_of_the_manifest(tmp_path: Path) -> None:
    store = make(to_graph(random_graph(40, 120)), tmp_path / "store", 3, "dbh")
    right = store.manifest.quality
    wrong = right.model_copy(update={"edge_cut": 0.0, "mirrors": 1})
    manifest: Manifest = store.manifest.model_copy(update={"quality": wrong})
    (store.path / "manifest.json").write_text(manifest.model_dump_json())
    assert open_store(store.path).manifest.quality == wrong
    assert report(open_store(store.path)).quality == right


def test_degree_bounds_cover_all_of_int64() -> None:
    assert degree_bounds(5).tolist() == [0, 1, 2, 4, 8, 16]
    assert degree_bounds(64)[-2:].tolist() == [2**62, 2**63 - 1]


@pytest.mark.parametrize("num_parts", [1, 2, 255, 256, 257, 1000, 1024])
def test_matrix_of_many_parts_sums_over_consecutive_parts(num_parts: int) -> None:
    rng = np.random.default_rng(num_parts)
    pairs = np.unique(rng.integers(0, num_parts, (5 * num_parts, 2)), axis=0)
    values = rng.integers(1, 100, len(pairs))
    traffic = Traffic(num_parts, pairs[:, 0], pairs[:, 1], values, values, 0 * values)
    cells = traffic.matrix(values)
    assert len(cells) <= 256
    assert (len(cells) == num_parts) == (num_parts <= 256)
    whole = np.zeros((num_parts, num_parts), np.int64)
    whole[pairs[:, 0], pairs[:, 1]] = values
    width = traffic.parts_per_cell()
    for row in range(len(cells)):
        for column in range(0, len(cells), 37):
            part = whole[row * width : (row + 1) * width, column * width : (column + 1) * width]
            assert cells[row, column] == part.sum()
    assert cells.sum() == values.sum()


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
def test_predicted_bytes_equal_those_that_training_sends(method: str, tmp_path: Path) -> None:
    """GraphSAGE's sums send as many values a node as the narrower side of a layer has: 2 and 2."""
    import graphtheta as gt

    graph = to_graph(random_graph(60, 300))
    store = make(graph, tmp_path / "store", 3, method)
    sent, lock = Counter[str](), threading.Lock()

    def train(comm: Any) -> None:
        shard = gt.open_shard(store.path, comm)
        model = gt.nn.GraphSAGE(shard.num_features, 2, shard.num_outputs("y"), aggregator="sum")
        trainer = gt.Trainer(model, shard, label="y")
        trainer.fit(epochs=1)
        with lock:
            sent.update(trainer.stages.bytes_sent)

    gt.run_local(train, workers=3, timeout_s=60)
    traffic, total = report(store).traffic, 0
    for layer, width in enumerate((2, 2)):
        predicted = predict_bytes(traffic, width)
        assert sent[f"forward layer {layer} sync"] == predicted.sync > 0
        assert sent[f"forward layer {layer} merge"] == predicted.merge
        assert (predicted.merge > 0) == (method == "dbh")
        ways = ("forward", "backward")
        names = [f"{way} layer {layer} {stage}" for way in ways for stage in ("sync", "merge")]
        assert sum(sent[name] for name in names) == predicted.layer
        total += predicted.layer
    assert sum(n for name, n in sent.items() if "prepare" not in name) == total


def test_predicted_bytes_follow_the_formula() -> None:
    traffic = Traffic(3, *np.array([[0, 0, 2], [1, 2, 0], [5, 4, 3], [5, 1, 0], [0, 3, 3]]))
    predicted = predict_bytes(traffic, 10, itemsize=8, layers=3)
    assert (predicted.sync, predicted.merge) == (6 * 80, 6 * 80)
    assert predicted.busiest == 9 * 80  # part 0 sends 6 masters, and 3 partial sums to part 2
    assert (predicted.layer, predicted.epoch) == (24 * 80, 72 * 80)
    assert predict_bytes(traffic, 10, reads_dst=True).sync == 12 * 40


def test_report_is_json(tmp_path: Path) -> None:
    store = make(to_graph(random_graph(40, 120)), tmp_path / "store", 3, "dbh")
    found = report(store)
    loaded = json.loads(json.dumps(found.as_json()))
    assert sum(loaded["parts"]["edges"]) == 120
    assert sum(loaded["traffic"]["mirrors"]) == loaded["quality"]["mirrors"]
    assert len(loaded["degrees"]["at_least"]) == len(loaded["degrees"]["in"])
    assert np.sum(loaded["splits"]["split"]) == 40


# -- plots -------------------------------------------------------------------------------------


def picture_of(num_parts: int, path: Path) -> Report:
    graph = to_graph(power_law(max(60, num_parts), 400))
    return report(make(graph, path, num_parts, "edge-hash"))


@pytest.mark.parametrize("num_parts", [1, 2, 40, 300])
def test_draw_writes_png_and_svg(num_parts: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = picture_of(num_parts, tmp_path / "store")
    files = draw(found, tmp_path / "picture.png", title="A store")
    assert files == (tmp_path / "picture.png", tmp_path / "picture.svg")
    assert files[0].read_bytes().startswith(b"\x89PNG")
    text = files[1].read_text()
    assert "<svg" in text
    draw(found, tmp_path / "again", title="A store")
    assert (tmp_path / "again.svg").read_text() == text


def test_draw_accepts_a_store_without_edges(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store = make(to_graph(CORNER_GRAPHS["edgeless"]), tmp_path / "store", 3, "node-hash")
    draw(report(store), tmp_path / "picture.svg")


def test_draw_raises_config_error_when_the_suffix_is_another(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match=r"ends in \.png or \.svg, got .*picture\.pdf"):
        draw(picture_of(2, tmp_path / "store"), tmp_path / "picture.pdf")


def test_draw_raises_config_error_when_matplotlib_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"library matplotlib, got none.*graphtheta\[report\]"):
        draw(picture_of(2, tmp_path / "store"), tmp_path / "picture.png")
