"""Crafted npz files and Planetoid folders: refused in one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from graphtheta import datasets
from graphtheta.data.graph import Graph
from graphtheta.errors import GraphFormatError

NODES, COLUMNS = 12, 4
KNOWN, ALL = 510, 514  # of Planetoid
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.random((NODES, COLUMNS)).astype(np.float32)
LABELS = np.arange(NODES) % 3
ENDS = RANDOM.integers(0, NODES, (30, 2))
ADJACENCY = scipy.sparse.csr_matrix(np.eye(NODES, k=1))
Change = Callable[[dict[str, Any]], object]


def boxed(matrix: scipy.sparse.csr_matrix) -> np.ndarray:
    return np.array(matrix, object)


def arrays() -> dict[str, Any]:
    masks = [np.eye(NODES, dtype=np.bool_)[row : row + 2] for row in (0, 2, 4)]
    named = dict(zip(("train_masks", "val_masks", "test_masks"), masks, strict=True))
    return {"node_features": FEATURES, "node_labels": LABELS, "edges": ENDS, **named}


def matrices() -> dict[str, Any]:
    features = boxed(scipy.sparse.csr_matrix(FEATURES))
    return {"adj_matrix": boxed(ADJACENCY), "node_attr": features, "node_label": LABELS}


def wide() -> scipy.sparse.csr_matrix:
    """A matrix that claims more columns than fit any memory."""
    return scipy.sparse.csr_matrix((NODES, 10**13))


NPZ: dict[str, tuple[Callable[[], dict[str, Any]], Change]] = {
    "short_labels": (arrays, lambda f: f.update(node_labels=LABELS[:-1])),
    "labels_of_two_dimensions": (arrays, lambda f: f.update(node_labels=LABELS[:, None])),
    "labels_that_are_fractions": (arrays, lambda f: f.update(node_labels=LABELS + 0.5)),
    "features_of_one_dimension": (arrays, lambda f: f.update(node_features=FEATURES[:, 0])),
    "string_features": (arrays, lambda f: f.update(node_features=FEATURES.astype(str))),
    "edge_beyond_the_nodes": (arrays, lambda f: f.update(edges=ENDS + NODES)),
    "negative_edge": (arrays, lambda f: f.update(edges=ENDS - NODES)),
    "edges_of_three_columns": (arrays, lambda f: f.update(edges=ENDS.reshape(20, 3))),
    "edges_of_fractions": (arrays, lambda f: f.update(edges=ENDS * 0.5)),
    "short_masks": (arrays, lambda f: f.update(val_masks=f["val_masks"][:, :-1])),
    "other_number_of_masks": (arrays, lambda f: f.update(val_masks=f["val_masks"][:1])),
    "string_masks": (arrays, lambda f: f.update(val_masks=f["val_masks"].astype(str))),
    "masks_of_two": (arrays, lambda f: f.update(val_masks=f["val_masks"] * 2)),
    "dict_in_place_of_an_array": (arrays, lambda f: f.update(edges=np.array({}, object))),
    "short_labels_of_matrices": (matrices, lambda f: f.update(node_label=LABELS[:-1])),
    "few_features": (matrices, lambda f: f.update(node_attr=boxed(ADJACENCY[:3]))),
    "wide_features": (matrices, lambda f: f.update(node_attr=boxed(wide()))),
    "larger_adjacency": (
        matrices,
        lambda f: f.update(adj_matrix=boxed(scipy.sparse.csr_matrix(np.ones((20, 20))))),
    ),
    "array_in_place_of_a_matrix": (matrices, lambda f: f.update(adj_matrix=ENDS)),
    "string_labels": (matrices, lambda f: f.update(node_label=np.array(["a"] * NODES))),
}


def assert_one_line(path: Path) -> None:
    with pytest.raises(GraphFormatError, match=f"{path}.*: expected") as caught:
        datasets.read(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [arrays, matrices])
def test_npz_is_read(content: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", **content())
    graph = datasets.read(str(tmp_path / "g.npz"))
    assert isinstance(graph, Graph)
    np.testing.assert_array_equal(graph.features, FEATURES)


@pytest.mark.parametrize("name", NPZ)
def test_crafted_npz_is_refused(name: str, tmp_path: Path) -> None:
    content, change = NPZ[name]
    fields = content()
    change(fields)
    np.savez(tmp_path / "g.npz", **fields)
    assert_one_line(tmp_path / "g.npz")


@pytest.mark.parametrize("kind", ["complex64", "datetime64[s]"])
def test_npz_of_types_that_are_no_numbers_is_to_be_converted(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", **{**arrays(), "node_features": np.ones((NODES, 2)).astype(kind)})
    with pytest.raises(GraphFormatError, match=r"features: .*, got the type .*\. Convert it\."):
        datasets.read(str(tmp_path / "g.npz"))


def test_pickled_matrix_of_complex_numbers_is_to_be_converted(tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", **{**matrices(), "node_attr": boxed(ADJACENCY * 1j)})
    with pytest.raises(GraphFormatError, match=r"node_attr: .*, got the type c16\. Convert it\."):
        datasets.read(str(tmp_path / "g.npz"))


def planetoid() -> dict[str, Any]:
    """510 known nodes, of which two are for training and 500 for validation; four test nodes."""
    known = np.resize(LABELS, KNOWN)
    one_hot = np.eye(3, dtype=np.int32)
    return {
        "allx": scipy.sparse.csr_matrix(np.resize(FEATURES, (KNOWN, COLUMNS))),
        "tx": scipy.sparse.csr_matrix(FEATURES[:4]),
        "y": one_hot[known[:2]],
        "ally": one_hot[known],
        "ty": one_hot[LABELS[:4]],
        "graph": {node: [(node + 1) % ALL] for node in range(ALL)},
        "test.index": "513\n510\n511\n512\n",
    }


PLANETOID: dict[str, Change] = {
    "short_labels": lambda f: f.update(ally=f["ally"][:5]),
    "long_labels": lambda f: f.update(ally=np.ones((ALL, 3), np.int32)),
    "labels_of_one_dimension": lambda f: f.update(ty=LABELS[:4]),
    "labels_without_columns": lambda f: f.update(y=f["y"][:, :0]),
    "string_labels": lambda f: f.update(ty=f["ty"].astype(object)),
    "short_test_features": lambda f: f.update(tx=f["tx"][:2]),
    "other_width": lambda f: f.update(tx=f["tx"][:, :2]),
    "wide": lambda f: f.update(allx=scipy.sparse.csr_matrix((KNOWN, 10**13))),
    "dense": lambda f: f.update(allx=f["allx"].toarray()),
    "huge_index": lambda f: f.update({"test.index": "513\n510\n511\n10000000000000\n"}),
    "negative_index": lambda f: f.update({"test.index": "513\n510\n511\n-1\n"}),
    "repeated_index": lambda f: f.update({"test.index": "513\n510\n511\n511\n"}),
    "two_columns": lambda f: f.update({"test.index": "513 1\n510 2\n511 3\n512 4\n"}),
    "empty_index": lambda f: f.update({"test.index": ""}),
    "text_index": lambda f: f.update({"test.index": "eight\n"}),
    "neighbour_beyond": lambda f: f["graph"].update({0: [ALL]}),
    "negative_neighbour": lambda f: f["graph"].update({0: [-1]}),
    "node_beyond": lambda f: f["graph"].update({ALL: [0]}),
    "text_neighbour": lambda f: f["graph"].update({0: ["one"]}),
    "huge_neighbour": lambda f: f["graph"].update({0: [10**30]}),
    "number_for_a_list": lambda f: f["graph"].update({0: 1}),
    "text_node": lambda f: f["graph"].update({"zero": [1]}),
    "list_for_a_dict": lambda f: f.update(graph=[[1]]),
    "many_training_nodes": lambda f: f.update(y=np.ones((ALL, 3), np.int32)),
}


def write_planetoid(folder: Path, fields: dict[str, Any]) -> Path:
    folder.mkdir()
    for key, value in fields.items():
        content = value.encode() if isinstance(value, str) else pickle.dumps(value, 2)
        (folder / f"ind.g.{key}").write_bytes(content)
    return folder


def test_planetoid_is_read(tmp_path: Path) -> None:
    graph = datasets.read(str(write_planetoid(tmp_path / "g", planetoid())), normalize=False)
    assert isinstance(graph, Graph)
    assert graph.num_edges == ALL
    np.testing.assert_array_equal(graph.features[513], FEATURES[0])


@pytest.mark.parametrize("name", PLANETOID)
def test_crafted_planetoid_is_refused(name: str, tmp_path: Path) -> None:
    fields = planetoid()
    PLANETOID[name](fields)
    assert_one_line(write_planetoid(tmp_path / "g", fields))


def test_lists_that_repeat_beyond_the_file_are_refused(tmp_path: Path) -> None:
    ends = list(range(ALL))
    fields = planetoid() | {"graph": dict.fromkeys(range(ALL), ends)}  # pickled once
    with pytest.raises(GraphFormatError, match="lists that fit the file"):
        datasets.read(str(write_planetoid(tmp_path / "g", fields)))
