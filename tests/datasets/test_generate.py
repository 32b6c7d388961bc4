"""Generated graphs: the same for a seed on any number of workers, with documented statistics."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta import datasets
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.data.graph import Graph
from graphtheta.datasets.generate import (
    GENERATORS,
    attributed,
    communities,
    folder,
    rmat,
    rmat_edges,
)
from graphtheta.datasets.generate.draws import node_splits
from graphtheta.datasets.generate.rmat import GRAPH500, _alias_table
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, build
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.runtime import atomic
from tests.jobs import run_job, running

SMALL: dict[str, dict[str, Any]] = {
    "rmat": {"scale": 9, "edge_factor": 4, "with_nodes": True},
    "communities": {"nodes": 1000, "edge_factor": 4, "features": 7, "group_size": 30},
    "attributed": {"nodes": 300, "node_attributes": 13, "edge_attributes": 3},
}


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few hundred rows, so that ranks have several to divide."""
    monkeypatch.setattr(folder, "_GROUP_ROWS", 64)
    monkeypatch.setattr(folder, "_FILE_GROUPS", 4)


def content(path: Path) -> dict[str, bytes]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def graph(path: Path) -> Graph:
    return Graph.from_source(datasets.read(str(path)))


# -- any generator --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.usefixtures("small_files")
def test_threads_and_ranks_write_the_same_bytes(name: str, tmp_path: Path) -> None:
    generate = GENERATORS[name]
    expected = content(generate(tmp_path / "one", **SMALL[name], threads=1))
    assert len(expected) > 4
    assert content(generate(tmp_path / "two", **SMALL[name], threads=2)) == expected
    for ranks in (2, 3):
        out = tmp_path / f"ranks-{ranks}"

        def on_rank(comm: Communicator, out: Path = out) -> None:
            generate(out, **SMALL[name], threads=1, comm=comm)

        run_local(on_rank, ranks, timeout_s=60)
        assert content(out) == expected
    assert content(generate(tmp_path / "other", **SMALL[name], seed=1)) != expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["one", "two", "ranks-2", "ranks-3", "other"]
    )


@pytest.mark.parametrize("name", GENERATORS)
def test_layout_does_not_change_the_graph(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = graph(GENERATORS[name](tmp_path / "large", **SMALL[name]))
    for group_rows, file_groups in ((1, 512), (64, 1), (128, 3)):
        monkeypatch.setattr(folder, "_GROUP_ROWS", group_rows)
        monkeypatch.setattr(folder, "_FILE_GROUPS", file_groups)
        out = tmp_path / f"{group_rows}"
        assert graph(GENERATORS[name](out, **SMALL[name])).digest() == expected.digest()


@pytest.mark.parametrize("name", GENERATORS)
def test_output_is_partitioned(name: str, tmp_path: Path) -> None:
    source = datasets.read(str(GENERATORS[name](tmp_path / "g", **SMALL[name])))
    assert source.num_nodes is not None
    built = build(source, Plan(4, "dbh"))
    assert built.manifest.num_nodes == source.num_nodes
    assert built.manifest.num_edges == source.num_edges
    told = json.loads((tmp_path / "g" / "generated.json").read_text())
    assert told["generator"] == name
    assert told["seed"] == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("rmat", {"scale": 0}, "rmat: scale: expected 1 to 40, got 0"),
        ("rmat", {"edge_factor": -1}, "rmat: edge factor: expected 0 or more, got -1"),
        ("rmat", {"ids": "words"}, "rmat: ids: expected one of dense, int64, string, got 'words'"),
        ("rmat", {"quadrants": (0.5, 0.5, 0.5, 0.5)}, "rmat: quadrants: expected four that sum to"),
        ("communities", {"nodes": 1}, "communities: nodes: expected 2 or more, got 1"),
        ("communities", {"classes": 0}, "communities: classes: expected 1 or more, got 0"),
        ("communities", {"inside": 1.5}, "communities: inside: expected a fraction of 0 to 1"),
        ("communities", {"degrees": "odd"}, "communities: degrees: expected one of power-law, uni"),
        ("attributed", {"node_attributes": 7}, "attributed: node attributes: expected 8 or more"),
        ("attributed", {"edge_attributes": 0}, "attributed: edge attributes: expected 1 or more"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    name: str, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as got:
        GENERATORS[name](tmp_path / "g", **arguments)
    assert "\n" not in str(got.value)
    assert not list(tmp_path.iterdir())


def test_only_a_new_or_empty_directory_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    rmat(tmp_path / "empty", scale=3)
    with pytest.raises(ConfigError, match="got a directory that is not empty"):
        rmat(tmp_path / "empty", scale=3)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="got a file"):
        rmat(tmp_path / "file", scale=3)
    with pytest.raises(ConfigError, match="expected to write a graph, got Not a directory"):
        rmat(tmp_path / "file" / "g", scale=3)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.usefixtures("small_files")
def test_failure_leaves_nothing(
    ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rmtree(path: Path, **options: bool) -> None:
        assert not (path / "new").exists()  # a slower rank would add files
        shutil.rmtree(path, **options)

    monkeypatch.setattr(atomic, "shutil", SimpleNamespace(rmtree=rmtree))

    def rows(start: int, stop: int) -> pa.Table:
        if start >= 320:  # in the second file, which is of the last rank
            raise OSError(28, "No space left on device")
        return pa.table({"src": np.arange(start, stop), "dst": np.arange(start, stop)})

    table = folder.GeneratedTable("edges", 1000, rows, 64)

    def on_rank(comm: Communicator) -> None:
        folder.write_folder(tmp_path / "g", [table], {}, comm=comm, threads=2)

    with pytest.raises(ConfigError, match="expected to write a graph, got No space left") as got:
        run_local(on_rank, ranks, timeout_s=60)
    assert "\n" not in str(got.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_files")
def test_progress_counts_every_row(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    rmat(tmp_path / "g", scale=8, edge_factor=5, progress=lambda *rows: said.append(rows))
    assert sum(rows for rows, _ in said) == 5 << 8
    assert {total for _, total in said} == {5 << 8}


@pytest.mark.spawn
def test_job_of_two_writes_the_same_bytes(tmp_path: Path) -> None:
    words = ["-m", "graphtheta", "datasets", "make", "communities"]
    for ranks, name in ((1, "one"), (2, "two")):
        done = run_job([*words, str(tmp_path / name), "--nodes", "5000"], ranks, timeout_s=120)
        assert done.code == 0, done.output
        assert done.output.count("wrote the graph to") == 1
    assert content(tmp_path / "one") == content(tmp_path / "two")
    done = run_job([*words, str(tmp_path / "two")], 2, timeout_s=120)
    assert done.code == 2
    assert done.output.count("error: ") == 1


@pytest.mark.spawn
def test_killed_run_leaves_no_graph(tmp_path: Path) -> None:
    out = tmp_path / "g"
    words = ["-m", "graphtheta", "datasets", "make", "rmat", str(out), "--scale", "26"]
    with running([sys.executable, *words]) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".g.partial/new/edges/*.parquet")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not out.exists()
    assert not out.exists()


# -- rmat -----------------------------------------------------------------------------------------


def test_alias_table_holds_the_probabilities() -> None:
    for quadrants in (
        GRAPH500,
        (0.25, 0.25, 0.25, 0.25),
        (1.0, 0.0, 0.0, 0.0),
        (0.1, 0.7, 0.2, 0.0),
    ):
        table = _alias_table(quadrants).astype(np.int64)
        threshold, other = table >> 12, table & 0xFFF
        weight = threshold + np.bincount(other, (1 << 20) - threshold, 4096).astype(np.int64)
        assert weight.sum() == 1 << 32
        chance = np.ones(4096)
        for level in range(6):
            src, dst = np.arange(4096) >> (6 + level) & 1, np.arange(4096) >> level & 1
            chance *= np.asarray(quadrants)[2 * src + dst]
        assert np.abs(weight - chance * 2.0**32).max() <= 1


@pytest.mark.parametrize("scale", [1, 5, 6, 7, 24, 25, 40])
def test_every_level_has_the_quadrants(scale: int) -> None:
    edges = 200_000
    src, dst = rmat_edges(0, edges, scale=scale, scramble=False)
    assert min(src.min(), dst.min()) >= 0
    assert max(src.max(), dst.max()) < 1 << scale
    expected = edges * np.asarray(GRAPH500)
    previous = None
    for level in range(scale):
        quadrant = 2 * (src >> level & 1) + (dst >> level & 1)
        chi2 = ((np.bincount(quadrant, minlength=4) - expected) ** 2 / expected).sum()
        assert chi2 < 30, level  # 3 degrees of freedom
        if previous is not None:  # neighbouring levels are independent: 15 degrees of freedom
            pairs = np.outer(GRAPH500, GRAPH500).reshape(-1) * edges
            found = np.bincount(4 * previous + quadrant, minlength=16)
            assert ((found - pairs) ** 2 / pairs).sum() < 60, level
        previous = quadrant


def test_rmat_is_skewed_and_scrambling_only_renames() -> None:
    scale, edges = 14, 16 << 14
    plain = rmat_edges(0, edges, scale=scale, scramble=False)
    mixed = rmat_edges(0, edges, scale=scale)
    for end, other in zip(plain, mixed, strict=True):
        degrees, scrambled = (np.bincount(x, minlength=1 << scale) for x in (end, other))
        assert degrees.argmax() == 0
        assert scrambled[:4].max() < degrees.max() / 4
        assert np.array_equal(np.sort(degrees), np.sort(scrambled))
        top = np.sort(degrees)[::-1]
        assert top[0] > 100 * degrees.mean()
        assert top[: len(top) // 100].sum() > 0.25 * edges
        assert (degrees == 0).mean() > 0.1
    parts = [rmat_edges(a, b, scale=scale) for a, b in ((0, 7), (7, 1000), (1000, edges))]
    for end in (0, 1):
        assert np.array_equal(np.concatenate([part[end] for part in parts]), mixed[end])


def test_ids_name_the_same_graph(tmp_path: Path) -> None:
    options = {"scale": 10, "edge_factor": 8}
    dense, shuffled, text = (
        pq.read_table(rmat(tmp_path / ids, **options, ids=ids) / "edges")
        for ids in ("dense", "int64", "string")
    )
    src, dst = rmat_edges(0, 8 << 10, scale=10)
    assert dense["src"].to_numpy().tolist() == src.tolist()
    assert dense["dst"].to_numpy().tolist() == dst.tolist()
    assert dense.schema.types == shuffled.schema.types == [pa.int64()] * 2
    assert text.schema.types == [pa.string()] * 2
    for end in ("src", "dst"):
        numbers = shuffled[end].to_pylist()
        assert [f"{number:016x}" for number in numbers] == text[end].to_pylist()
        assert len(set(zip(dense[end].to_pylist(), numbers, strict=True))) == len(set(numbers))
    assert 0 <= min(numbers) < 2**56
    assert max(numbers) > 2**62


def test_rmat_has_a_node_table_on_request(tmp_path: Path) -> None:
    alone = datasets.read(str(rmat(tmp_path / "a", scale=6, edge_factor=1)))
    assert alone.num_nodes is None
    with pytest.raises(ConfigError, match="expected a node table with labels, got none"):
        datasets.read(str(tmp_path / "a"), labels="y")
    for ids in ("dense", "string"):
        whole = graph(rmat(tmp_path / ids, scale=6, edge_factor=1, with_nodes=True, ids=ids))
        assert whole.num_nodes == 64
    assert graph(tmp_path / "dense").ids.tolist() == list(range(64))
    assert graph(rmat(tmp_path / "none", scale=3, edge_factor=0, with_nodes=True)).num_edges == 0


# -- communities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", ["power-law", "uniform"])
def test_edges_stay_inside_groups_as_often_as_said(degrees: str, tmp_path: Path) -> None:
    nodes, size = 20_000, 64
    groups = -(-nodes // size)
    made = communities(
        tmp_path / "g", nodes=nodes, group_size=size, inside=0.7, degrees=degrees, features=1
    )
    edges = pq.read_table(made / "edges")
    src, dst = edges["src"].to_numpy(), edges["dst"].to_numpy()
    places = Permutation(nodes, 0, Purpose.GENERATE)
    group = places.inverse(np.arange(nodes)) % groups
    assert set(np.bincount(group)) <= {size - 1, size}
    inside = (group[src] == group[dst]).mean()
    assert inside == pytest.approx(0.7 + 0.3 / groups, abs=0.005)
    assert (src != dst).all()
    # Node keys carry no information: consecutive ones are in one group as often as any two.
    assert (group[1:] == group[:-1]).mean() < 4 / groups
    most = np.bincount(src, minlength=nodes).max()
    assert most > 1000 if degrees == "power-law" else most < 60


def test_labels_of_communities_can_be_learned(tmp_path: Path) -> None:
    whole = graph(communities(tmp_path / "g", nodes=8000, classes=4))
    x, y, split = whole.features.astype(np.float64), whole.label(), whole.split()
    assert np.bincount(split)[1:] / 8000 == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    assert split.tolist() == node_splits(0, 8000, 0).tolist()

    def accuracy(values: np.ndarray) -> float:
        """Of the nearest centroid of the training nodes."""
        centres = np.stack([values[(split == 1) & (y == c)].mean(axis=0) for c in range(4)])
        distance = (centres**2).sum(axis=1) - 2 * values @ centres.T
        return float((distance.argmin(axis=1) == y)[split == 3].mean())

    total = x.copy()
    np.add.at(total, whole.dst, x[whole.src])
    mean = total / (1 + np.bincount(whole.dst, minlength=8000))[:, None]
    assert 0.6 < accuracy(x) < 0.85
    assert accuracy(mean) > accuracy(x) + 0.05


# -- attributed -----------------------------------------------------------------------------------


def test_labels_of_attributed_are_of_neighbours_and_edges(tmp_path: Path) -> None:
    nodes = 20_000
    whole = graph(attributed(tmp_path / "g", nodes=nodes, node_attributes=16, edge_attributes=2))
    x, attr, y = whole.features, whole.column("attr"), whole.label()
    assert (x.shape, attr.shape) == ((nodes, 16), (3 * nodes, 2))
    for values in (x, attr):
        assert np.abs(values.mean(axis=0)).max() < 0.05
        assert values.var(axis=0) == pytest.approx(1, abs=0.05)
    in_degree = np.bincount(whole.dst, minlength=nodes)
    assert (whole.src != whole.dst).all()
    assert in_degree.max() == pytest.approx(3 * nodes / np.sqrt(nodes), rel=0.02)
    own = (x[:, :8] * np.tile([1, -1], 4)).sum(axis=1) / np.sqrt(8)

    def agreement(gate: np.ndarray) -> float:
        heard = np.bincount(whole.dst, gate * own[whole.src], nodes)
        return float(((own / 2 + heard / np.sqrt(np.maximum(in_degree, 1)) > 0) == y).mean())

    assert agreement(attr[:, 0] > 0) == pytest.approx(0.95, abs=0.01)
    assert agreement(np.ones(len(attr))) < 0.85
    assert agreement(np.zeros(len(attr))) < 0.80
    assert 0.45 < y.mean() < 0.55
