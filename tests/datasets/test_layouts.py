"""Layouts in which others publish graphs: small files of each one, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from graphtheta import datasets
from graphtheta.data.graph import Graph
from graphtheta.data.schema import classes_of
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.partition import Plan, build
from tests.datasets.test_published import folder

NODES = 8
ADJACENCY = scipy.sparse.csr_matrix(
    (np.ones(5, np.float32), ([0, 1, 2, 2, 7], [1, 0, 2, 3, 0])), (NODES, NODES)
)
COUNTS = scipy.sparse.csr_matrix(np.arange(NODES * 3).reshape(NODES, 3) % 4)
LABELS = np.arange(NODES) % 3


def read(path: Path, **options: Any) -> Graph:
    graph = datasets.read(str(path), **options)
    assert isinstance(graph, Graph)
    return graph


def edges_of(graph: Graph) -> list[tuple[Any, Any]]:
    return list(zip(graph.ids[graph.src].tolist(), graph.ids[graph.dst].tolist(), strict=True))


def pieces(matrix: scipy.sparse.csr_matrix, prefix: str) -> dict[str, Any]:
    names = ("data", "indices", "indptr", "shape")
    return {prefix + name: np.array(getattr(matrix, name)) for name in names}


def packed() -> dict[str, Any]:
    names = np.array([f"paper {i}" for i in range(NODES)], object)  # pickled, and not read
    fields = {**pieces(ADJACENCY, "adj_"), **pieces(COUNTS, "attr_"), "labels": LABELS}
    return {**fields, "node_names": names}


def write_packed(path: Path) -> Path:
    np.savez(path / "g.npz", **packed())
    return path / "g.npz"


def write_openke(path: Path) -> Path:
    texts = {
        "entity2id.txt": "4\n/m/1\t2\nNew York\t0\n/m/3\t3\nÉvian\t1\n",
        "relation2id.txt": "3\nlies in\t1\nborders\t0\nunused\t2\n",
        "train2id.txt": "3\n0 1 1\n2 3 0\n0 3 1\n",
        "valid2id.txt": "1\n1 2 1\n",
        "test2id.txt": "1\r\n3\t0\t0\r\n",
        "type_constrain.txt": "0\n",
    }
    for name, text in texts.items():
        (path / name).write_text(text, encoding="utf-8", newline="")
    return path


def write_graphsaint(path: Path) -> Path:
    for name in ("adj_full", "adj_train"):
        scipy.sparse.save_npz(path / f"{name}.npz", ADJACENCY)
    np.save(path / "feats.npy", COUNTS.toarray().astype(np.float64))
    write_json(path / "class_map.json", {str(i): int(LABELS[i]) for i in range(NODES - 1)})
    write_json(path / "role.json", {"tr": [0, 1, 2], "va": [4], "te": [7, 5]})
    return path


def write_musae(path: Path) -> Path:
    path.joinpath("musae_git_edges.csv").write_text("id_1,id_2\n0,3\n1,2\n3,0\n2,2\n")
    features = {"0": [5, 1], "2": [], "3": [0], "1": [1, 2, 3]}
    write_json(path / "musae_git_features.json", features)
    target = 'id,name,ml_target\n0,"Ann, B",0\n1,b,1\n2,c,0\n3,d,1\n'
    path.joinpath("musae_git_target.csv").write_text(target)
    path.joinpath("README.txt").write_text("citing\n")
    return path


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


WRITERS = {
    "npz": write_packed,
    "openke": write_openke,
    "graphsaint": write_graphsaint,
    "musae": write_musae,
}

# -- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_the_right_reader_recognises_it(name: str, tmp_path: Path) -> None:
    path = str(WRITERS[name](tmp_path))
    found = [other for other, reader in datasets.READERS.items() if reader.recognises(path)]
    assert found[0] == name
    built = build(read(Path(path)), Plan(2))
    assert built.manifest.num_nodes == read(Path(path)).num_nodes


def test_packed_npz_equals_pytorch_geometric(tmp_path: Path) -> None:
    io = pytest.importorskip("torch_geometric.io")
    path = write_packed(tmp_path)
    expected, graph = io.read_npz(str(path)), read(path)
    found = graph.to_pyg()
    for name in ("x", "edge_index", "y"):
        assert np.array_equal(found[name].numpy(), expected[name].numpy()), name


def test_packed_npz_without_sparse_attributes(tmp_path: Path) -> None:
    fields = {**pieces(ADJACENCY, "adj_"), "labels": LABELS}
    np.savez(tmp_path / "a.npz", **fields)
    assert read(tmp_path / "a.npz").num_features == 0
    np.savez(tmp_path / "b.npz", **fields, attr_matrix=COUNTS.toarray())
    assert read(tmp_path / "b.npz").features.tolist() == (COUNTS.toarray() > 0).tolist()


@pytest.mark.parametrize("name", ["attr_", "attr_matrix"])
def test_packed_npz_keeps_measurements_and_reports_what_changes(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read_with(matrix: Any, weight: float) -> tuple[Any, str]:
        fields = {**pieces(ADJACENCY * weight, "adj_"), "labels": LABELS}
        sparse = scipy.sparse.csr_matrix(matrix)
        fields |= pieces(sparse, "attr_") if name == "attr_" else {name: matrix}
        np.savez(tmp_path / "g.npz", **fields)
        caplog.clear()
        return read(tmp_path / "g.npz").features, caplog.text

    counts = COUNTS.toarray()
    for values in (counts / 2, counts - 1.0):
        features, text = read_with(values, 1)
        assert features.tolist() == values.tolist()
        assert "5 edges became 6, as reverses were added" in text
        assert "features" not in text
    features, text = read_with(counts, 0.5)
    assert features.tolist() == (counts > 0).tolist()
    assert "features are counts, which became 0 and 1; edge weights are not read" in text


def test_openke_keeps_names(tmp_path: Path) -> None:
    graph = read(write_openke(tmp_path))
    assert graph.ids.tolist() == ["New York", "Évian", "/m/1", "/m/3"]
    assert classes_of(graph.edges.schema.field("type")) == ("borders", "lies in", "unused")
    assert edges_of(graph)[:2] == [("New York", "Évian"), ("/m/1", "/m/3")]
    assert graph.column("type").tolist() == [1, 0, 1, 1, 0]
    assert graph.column("split:split").tolist() == [1, 1, 1, 2, 3]
    manifest = build(graph, Plan(1)).manifest
    assert (manifest.num_edge_types, manifest.edge_types[1]) == (3, "lies in")


def test_openke_as_published() -> None:
    graph = read(Path(folder("fb15k237")))
    assert (graph.num_nodes, graph.num_edges) == (14541, 310116)
    assert np.bincount(graph.column("split:split")).tolist() == [0, 272115, 17535, 20466]
    assert graph.ids[:2].tolist() == ["/m/027rn", "/m/06cx9"]
    assert len(classes_of(graph.edges.schema.field("type"))) == 237


def test_graphsaint_equals_its_files(tmp_path: Path) -> None:
    graph = read(write_graphsaint(tmp_path))
    assert edges_of(graph) == [(0, 1), (1, 0), (2, 2), (2, 3), (7, 0)]
    assert graph.features.dtype == np.float32
    assert graph.features.tolist() == COUNTS.toarray().tolist()
    assert graph.label()[:7].tolist() == LABELS[:7].tolist()
    assert graph.labelled().tolist() == [True] * 7 + [False]
    assert graph.split().tolist() == [1, 1, 1, 0, 2, 3, 0, 3]


def test_graphsaint_with_multi_labels(tmp_path: Path) -> None:
    write_graphsaint(tmp_path)
    write_json(tmp_path / "class_map.json", {str(i): [i % 2, 1] for i in range(1, NODES)})
    graph = read(tmp_path)
    assert graph.label()[1:3].tolist() == [[True, True], [False, True]]
    assert graph.labelled().tolist() == [False] + [True] * 7
    assert build(graph, Plan(1)).manifest.labels["y"].task == "multilabel"


def test_musae_has_sets_of_features(tmp_path: Path) -> None:
    graph = read(write_musae(tmp_path))
    assert graph.features.tolist() == [
        [0, 1, 0, 0, 0, 1],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
    ]
    assert graph.label().tolist() == [False, True, False, True]
    assert edges_of(graph) == [(0, 3), (1, 2), (2, 1), (2, 2), (3, 0)]
    assert graph.nodes.column_names == ["id", "features", "label:y", "split:split"]


@pytest.mark.parametrize(
    ("text", "options", "names", "task"),
    [
        ("id,page_type\n0,tv\n1,tv\n2,shop\n3,firm\n", {}, {"y"}, "multiclass"),
        ("id,target\n0,17\n1,2\n2,5\n3,90\n", {"label_kinds": "regression"}, {"y"}, "regression"),
        ("id,days,mature,new_id\n9,1,True,3\n8,2,False,1\n7,1,False,0\n6,5,True,2\n", {}, {"y"},
         "binary"),
        ("id,a,b\n0,1.5,x\n1,2,y\n2,5,x\n3,1,y\n", {"labels": ["a", "b"]}, {"a", "b"},
         "regression"),
    ],
    ids=["facebook", "wikipedia", "twitch", "two_labels"],
)  # fmt: skip
def test_musae_targets(
    text: str, options: dict[str, Any], names: set[str], task: str, tmp_path: Path
) -> None:
    write_musae(tmp_path).joinpath("musae_git_target.csv").write_text(text)
    graph = read(tmp_path, **options)
    manifest = build(graph, Plan(1)).manifest
    assert set(manifest.labels) == names
    assert manifest.labels[min(names)].task == task
    assert sorted(graph.ids.tolist()) == [0, 1, 2, 3]


# -- which split ----------------------------------------------------------------------------------


def test_a_seed_draws_another_split(tmp_path: Path) -> None:
    fields = packed()
    size = 400
    adjacency = scipy.sparse.csr_matrix(np.eye(size, k=1))
    fields |= pieces(adjacency, "adj_") | {"labels": np.arange(size) % 4}
    fields |= pieces(scipy.sparse.csr_matrix(np.ones((size, 1))), "attr_")
    np.savez(tmp_path / "g.npz", **fields)
    splits = [read(tmp_path, seed=seed).split() for seed in (0, 0, 1)]
    assert np.array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[0], splits[2])
    assert np.bincount(splits[2]).tolist() == [0, 80, 120, 200]


def test_a_number_chooses_among_several_splits(tmp_path: Path) -> None:
    masks = [np.eye(NODES, dtype=np.bool_)[row : row + 2] for row in (0, 2, 4)]
    names = ("train_masks", "val_masks", "test_masks")
    arrays = {"node_features": np.ones((NODES, 1)), "node_labels": LABELS, "edges": [[0, 1]]}
    np.savez(tmp_path / "g.npz", **arrays, **dict(zip(names, masks, strict=True)))
    graph = read(tmp_path / "g.npz", seed=1)
    assert graph.split().tolist() == graph.split("1").tolist() == [0, 1, 0, 2, 0, 3, 0, 0]
    assert read(tmp_path / "g.npz").split().tolist() == graph.split("0").tolist()
    for seed in (2, -1):
        with pytest.raises(ConfigError, match=rf"one of its 2 splits, from 0, got {seed}\."):
            read(tmp_path / "g.npz", seed=seed)


@pytest.mark.parametrize("missing", ["val_masks", "train_masks"])
def test_a_missing_mask_is_empty(missing: str, tmp_path: Path) -> None:
    names = ("train_masks", "val_masks", "test_masks")
    fields = {name: np.eye(NODES, dtype=np.int8)[i] for i, name in enumerate(names)}
    del fields[missing]
    arrays = {"node_features": np.ones((NODES, 1)), "node_labels": LABELS, "edges": [[0, 1]]}
    np.savez(tmp_path / "g.npz", **arrays, **fields)
    expected = [0 if name == missing else value for value, name in enumerate(names, start=1)]
    assert read(tmp_path / "g.npz").split().tolist() == expected + [0] * (NODES - 3)


@pytest.mark.parametrize(
    ("value", "dtype"), [(2**24 + 1, np.float64), (2**53 + 1, None), (3, np.float32)]
)
def test_features_of_npz_are_exact(value: int, dtype: type | None, tmp_path: Path) -> None:
    features = np.full((NODES, 1), value)
    np.savez(tmp_path / "g.npz", node_features=features, node_labels=LABELS, edges=[[0, 1]])
    if dtype is None:
        with pytest.raises(GraphFormatError, match=r"expected integers up to 9,.* got 9,"):
            read(tmp_path / "g.npz")
    else:
        found = read(tmp_path / "g.npz").features
        assert (found.dtype, found[0, 0]) == (dtype, value)


# -- damaged files --------------------------------------------------------------------------------


def npz_fields(**changes: Any) -> Callable[[Path], object]:
    return lambda path: np.savez(path / "g.npz", **{**packed(), **changes})


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    content = content.encode() if isinstance(content, str) else content
    return lambda path: (path / name).write_bytes(content)


def array(name: str, value: Any) -> Callable[[Path], object]:
    return lambda path: np.save(path / name, value, allow_pickle=True)


HUGE = {**pieces(COUNTS, "attr_"), "attr_shape": np.array([NODES, 10**13])}
TWICE = json.dumps({"tr": [0, 1], "va": [1], "te": []})
DAMAGED: dict[str, dict[str, Callable[[Path], object]]] = {
    "npz": {
        "short_labels": npz_fields(labels=LABELS[:-1]),
        "index_beyond": npz_fields(adj_indices=ADJACENCY.indices + NODES),
        "negative_index": npz_fields(adj_indices=ADJACENCY.indices - 3),
        "decreasing_indptr": npz_fields(adj_indptr=ADJACENCY.indptr[::-1].copy()),
        "shape_of_three": npz_fields(adj_shape=np.array([NODES, NODES, 1])),
        "huge_shape": npz_fields(**HUGE),
        "string_data": npz_fields(adj_data=np.array(["a"] * 5)),
        "object_data": npz_fields(adj_data=np.array([{}] * 5, object)),
        "few_features": npz_fields(**pieces(COUNTS[:3], "attr_")),
    },
    "openke": {
        "count_too_large": text("train2id.txt", "4\n0 1 1\n2 3 0\n0 3 1\n"),
        "no_count": text("train2id.txt", "0 1 1\n2 3 0\n"),
        "entity_beyond": text("valid2id.txt", "1\n1 4 0\n"),
        "relation_beyond": text("test2id.txt", "1\n1 2 3\n"),
        "negative": text("train2id.txt", "1\n0 -1 0\n"),
        "two_columns": text("train2id.txt", "1\n0 1\n"),
        "word": text("train2id.txt", "1\n0 x 1\n"),
        "empty": text("train2id.txt", ""),
        "number_twice": text("entity2id.txt", "2\na 0\nb 0\n"),
        "name_twice": text("relation2id.txt", "2\na 0\na 1\n"),
        "no_number": text("entity2id.txt", "2\na 0\nb\n"),
        "no_text": text("entity2id.txt", b"2\n\xff\xfe 0\nb 1\n"),
    },
    "graphsaint": {
        "no_json": text("role.json", '{"tr": [0'),
        "deep_json": text("role.json", "[" * 100_000),
        "list_of_roles": text("role.json", "[1, 2]"),
        "no_test_nodes": text("role.json", '{"tr": [0], "va": [1]}'),
        "node_twice": text("role.json", TWICE),
        "node_beyond": text("role.json", '{"tr": [8], "va": [], "te": []}'),
        "fraction": text("role.json", '{"tr": [1.5], "va": [], "te": []}'),
        "class_beyond": text("class_map.json", '{"8": 1, "0": 0}'),
        "mixed_classes": text("class_map.json", '{"1": 1, "0": [0]}'),
        "ragged_classes": text("class_map.json", '{"1": [1], "0": [0, 1]}'),
        "label_of_two": text("class_map.json", '{"1": [2], "0": [0]}'),
        "negative_class": text("class_map.json", '{"1": -2, "0": 0}'),
        "word_as_node": text("class_map.json", '{"a": 1, "0": 0}'),
        "large_class": text("class_map.json", f'{{"1": {10**30}, "0": 0}}'),
        "few_rows": array("feats.npy", np.ones((3, 2))),
        "one_dimension": array("feats.npy", np.ones(NODES)),
        "objects": array("feats.npy", np.array([[{}]] * NODES, object)),
        "no_array": text("feats.npy", "x"),
        "not_finite": array("feats.npy", np.full((NODES, 2), np.nan)),
        "no_matrix": lambda path: np.savez(path / "adj_full.npz", x=1),
        "other_format": lambda path: scipy.sparse.save_npz(
            path / "adj_full.npz", ADJACENCY.tocsc()
        ),
        "not_square": lambda path: scipy.sparse.save_npz(path / "adj_full.npz", COUNTS),
    },
    "musae": {
        "unknown_node": text("musae_git_edges.csv", "id_1,id_2\n0,9\n"),
        "words": text("musae_git_edges.csv", "id_1,id_2\na,b\n"),
        "one_column": text("musae_git_edges.csv", "id_1\n1\n"),
        "ragged": text("musae_git_edges.csv", "id_1,id_2\n1,2\n1\n"),
        "features_of_unknown": text("musae_git_features.json", '{"9": [1]}'),
        "features_of_word": text("musae_git_features.json", '{"x": [1]}'),
        "negative_feature": text("musae_git_features.json", '{"0": [-1]}'),
        "huge_feature": text("musae_git_features.json", f'{{"0": [{10**14}]}}'),
        "larger_feature": text("musae_git_features.json", f'{{"0": [{10**30}]}}'),
        "nested": text("musae_git_features.json", '{"0": [[1]]}'),
        "no_list": text("musae_git_features.json", '{"0": 1}'),
        "empty_target": text("musae_git_target.csv", ""),
        "node_twice": text("musae_git_target.csv", "id,target\n0,1\n0,1\n1,0\n2,0\n3,0\n"),
        "missing_id": text("musae_git_target.csv", "id,target\n0,1\n,1\n1,0\n2,0\n3,0\n"),
    },
}


@pytest.mark.parametrize(("name", "case"), [(n, c) for n, cases in DAMAGED.items() for c in cases])
def test_damaged_files_are_refused_in_one_line(name: str, case: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path)
    DAMAGED[name][case](tmp_path)
    with pytest.raises(GraphFormatError, match=r"expected .*, got ") as caught:
        datasets.read(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_of_several_graphs_lists_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        np.savez(tmp_path / f"{name}.npz", **packed())
    with pytest.raises(ConfigError, match=r"a folder with 'a\.npz', 'b\.npz', 'c\.npz'\. Read one"):
        datasets.read(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="a folder with no files"):
        datasets.read(str(tmp_path / "empty"))
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(ConfigError, match="a file of another kind"):
        datasets.read(str(tmp_path / "notes.docx"))


# -- wide tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_reading_takes_time_in_proportion_to_the_columns(ending: str, tmp_path: Path) -> None:
    import pyarrow as pa

    from graphtheta.datasets.formats import Ipc, Parquet

    looked_at = 0

    class Name(str):
        def __eq__(self, other: object) -> bool:
            nonlocal looked_at
            looked_at += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [f"f_{i}" for i in range(300)]
    table = pa.table({name: [0.0, 1.0] for name in names})
    path = str(tmp_path / f"t.{ending}")
    if ending == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, path)
    made = {"arrow": Ipc, "parquet": Parquet}[ending]
    reader = made(pa.fs.LocalFileSystem(), path, [], False)
    rows = sum(b.num_rows for b in reader.stream(path, 0, 2, dict.fromkeys(map(Name, names))))
    assert rows == 2
    assert looked_at < 20 * len(names)
