"""Reader of graphs in an `npz` file, in the three forms in common use.

- Sparse matrices in arrays (`adj_data`, `adj_indices`, `adj_indptr`, `adj_shape`, the same of
  `attr_`, or `attr_matrix`, and `labels`): the data sets of Shchur et al. and of CitationFull. The
  graph is that of PyTorch Geometric's `read_npz`: features above 0 become 1.
- Sparse matrices (`adj_matrix`, `node_attr`, `node_label`; pickled SciPy): the same data sets in
  other collections.
- Arrays (`node_features`, `node_labels`, `edges`, and masks of several splits): Tolokers and others
  by Platonov et al. A row of `edges` is an undirected edge, which becomes two directed ones.

Edges of sparse matrices are symmetrised, and duplicates and self-loops are removed. These data sets
have no public split, so one is drawn: 20 training and 30 validation nodes per class, others for
test.
Sources: Shchur, Mumme, Bojchevski, Gunnemann, "Pitfalls of graph neural network evaluation", 2018.
Platonov, Kuznedelev, Diskin, Babenko, Prokhorenkova, "A critical look at the evaluation of GNNs
under heterophily", ICLR 2023.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column, refuse, split_columns
from graphtheta.datasets.safe_pickle import MATRIX, dense_rows, matrix_of, read_npz, sparse_matrix
from graphtheta.datasets.splits import random_split
from graphtheta.errors import ConfigError

__all__ = ["both_ways", "read", "recognises"]

_SPARSE = ("adj_matrix", "node_attr", "node_label")
_ARRAYS = ("node_features", "node_labels", "edges")
_PACKED = (*(f"adj_{piece}" for piece in MATRIX), "labels")
_ATTRIBUTES = tuple(f"attr_{piece}" for piece in MATRIX)
_MASKS = ("train_masks", "val_masks", "test_masks")


def recognises(path: str) -> bool:
    """Return whether `path` is an npz file, or a folder with one."""
    return _file(path) is not None


def _file(path: str) -> Path | None:
    here = Path(path)
    found = list(here.glob("*.npz")) if here.is_dir() else [here]
    single = found[0] if len(found) == 1 else None
    return single if single and single.suffix == ".npz" and single.is_file() else None


def read(path: str, *, seed: int = 0) -> Graph:
    """Read a graph from an npz file.

    Args:
        path: The file, or a folder with no other npz file.
        seed: Random seed of the split, if the file has none; the number of the split that becomes
            `split`, if the file has several.

    Returns:
        The graph, with label `y` (bool if there are two classes) and split `split`. If the file has
        several splits, they are `0`, `1`, ..., and `split` is one of them. The id of a node is its
        row.

    Raises:
        ConfigError: If the file has splits, but none of this number.
        GraphFormatError: If the file is damaged, has another form, or contains a pickle of other
            objects than arrays and sparse matrices.
    """
    path = str(_file(path) or path)
    known = (*_PACKED, *_ATTRIBUTES, "attr_matrix", *_SPARSE, *_ARRAYS, *_MASKS)
    found = read_npz(path, known)
    if found.keys() >= set(_PACKED):
        nodes, edges = _of_packed(path, found)
    elif found.keys() >= set(_SPARSE):
        nodes, edges = _of_matrices(path, *(found[name] for name in _SPARSE))
    elif found.keys() >= set(_ARRAYS):
        nodes, edges = _of_arrays(path, *(found.pop(name) for name in _ARRAYS))
    else:
        raise refuse(
            path,
            f"members {', '.join(_PACKED)} or {', '.join(_SPARSE)} or {', '.join(_ARRAYS)}",
            ", ".join(found) or "none of them",
            "Convert it to Arrow tables.",
        )
    num_nodes = len(nodes["id"])
    if found.keys() >= set(_MASKS):
        train, val, test = (
            _array(found[name], f"{path}: {name}", "biu", (1, 2)).T.astype(np.bool_)
            for name in _MASKS
        )
        if not train.shape == val.shape == test.shape or len(train) != num_nodes:
            shapes = f"shapes {train.shape}, {val.shape} and {test.shape}"
            raise refuse(path, f"masks of {num_nodes:,} nodes", shapes, _CORRECT)
        if not 0 <= seed < (train.shape[1] if train.ndim == 2 else 1):
            raise ConfigError(
                f"{path}: expected the number of one of its {train[:1].size} splits, from 0, got "
                f"{seed}. Choose another."
            )
        nodes |= split_columns(train, val, test, path)
        nodes["split:split"] = nodes.get(f"split:{seed}", nodes["split:split"])
    else:
        classes = nodes["label:y"].cast(pa.int64()).to_numpy()
        split = random_split(num_nodes, classes, train=20, val=30, seed=seed, per_class=True)
        nodes["split:split"] = pa.array(split)
    return Graph(pa.table(nodes), pa.table(edges))


_Columns = dict[str, Any]


def _of_packed(path: str, found: dict[str, Any]) -> tuple[_Columns, _Columns]:
    pairs = matrix_of(found, "adj_", f"{path}: adj").tocoo()
    features: NDArray[np.float32] | None = None
    if found.keys() >= set(_ATTRIBUTES):
        where = f"{path}: attr"
        features = dense_rows(matrix_of(found, "attr_", where), where)
    elif "attr_matrix" in found:
        given = _array(found["attr_matrix"], f"{path}: attr_matrix", "biuf", (2,))
        features = given.astype(np.float32)
    if features is not None:
        features[features > 0] = 1
    nodes = _nodes(path, features, found["labels"], num_nodes=pairs.shape[0])
    kept = pairs.row != pairs.col
    return nodes, both_ways(path, pairs.row[kept], pairs.col[kept], len(nodes["id"]))


def _of_matrices(
    path: str, adjacency: Any, features: Any, labels: Any
) -> tuple[_Columns, _Columns]:
    pairs = sparse_matrix(adjacency, f"{path}: adj_matrix").tocoo()
    where = f"{path}: node_attr"
    nodes = _nodes(path, dense_rows(sparse_matrix(features, where), where), labels)
    kept = pairs.row != pairs.col
    return nodes, both_ways(path, pairs.row[kept], pairs.col[kept], len(nodes["id"]))


def _of_arrays(path: str, features: Any, labels: Any, ends: Any) -> tuple[_Columns, _Columns]:
    values = _array(features, f"{path}: node_features", "biuf", (2,))
    nodes = _nodes(path, values.astype(np.float32, copy=False), labels)
    ends_E2 = _array(ends, f"{path}: edges", "iu", (2,))
    if ends_E2.shape[1] != 2:
        raise refuse(f"{path}: edges", "two columns", f"shape {ends_E2.shape}", _CORRECT)
    return nodes, both_ways(path, ends_E2[:, 0], ends_E2[:, 1], len(nodes["id"]))


def _nodes(
    path: str, features_NF: NDArray[np.float32] | None, given: Any, num_nodes: int | None = None
) -> _Columns:
    labels = _array(given, f"{path}: labels", "biuf", (1,))
    num_nodes = num_nodes if features_NF is None else len(features_NF)
    if len(labels) != num_nodes:
        raise refuse(f"{path}: labels", f"{num_nodes:,}", f"{len(labels):,}", _CORRECT)
    if labels.dtype.kind == "f" and not (labels % 1 == 0).all():
        raise refuse(f"{path}: labels", "whole numbers", "others", "Number the classes from 0.")
    binary = labels.dtype.kind in "iu" and len(labels) > 0 and labels.max() == 1
    features = {} if features_NF is None else {"features": matrix_column(features_NF)}
    return {
        "id": pa.array(np.arange(num_nodes)),
        **features,
        "label:y": pa.array(labels.astype(np.bool_ if binary else np.int64)),
    }


def both_ways(
    path: str, src: NDArray[Any], dst: NDArray[Any], num_nodes: int
) -> dict[str, NDArray[Any]]:
    """Return the edges of an undirected graph in both directions, each of them once.

    They are sorted by source and destination, as by PyTorch Geometric's `to_undirected`.

    Raises:
        GraphFormatError: If an end is not a node.
    """
    for ends in (src, dst):
        outside = (ends < 0) | (ends >= num_nodes)
        if outside.any():
            expected = f"edges between the {num_nodes:,} nodes"
            raise refuse(path, expected, f"a node {ends[outside][0]}", _CORRECT)
    forward, back = src.astype(np.int64), dst.astype(np.int64)
    pairs = np.unique(np.concatenate([forward * num_nodes + back, back * num_nodes + forward]))
    return {"src": pairs // num_nodes, "dst": pairs % num_nodes}


def _array(value: Any, where: str, kinds: str, dimensions: tuple[int, ...]) -> NDArray[Any]:
    """Return an array after checking the kind of its values and its number of dimensions."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
        got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise refuse(where, f"an array of {_KINDS[kinds]}", got, "Convert it.")
    if value.ndim not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise refuse(where, f"{expected} dimensions", f"shape {value.shape}", _CORRECT)
    return value


_CORRECT = "Correct it."
_KINDS = {"biu": "booleans", "iu": "integers", "biuf": "numbers"}
