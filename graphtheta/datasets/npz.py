"""Reader of graphs in an `npz` file, in the three forms in common use.

- Sparse matrices in arrays (`adj_data`, `adj_indices`, `adj_indptr`, `adj_shape`, the same of
  `attr_`, or `attr_matrix`, and `labels`): the data sets of Shchur et al. and of CitationFull. The
  graph is that of PyTorch Geometric's `read_npz`: features that are counts become 0 and 1. Other
  features are kept, which PyTorch Geometric also makes 0 and 1.
- Sparse matrices (`adj_matrix`, `node_attr`, `node_label`; pickled SciPy): the same data sets in
  other collections.
- Arrays (`node_features`, `node_labels`, `edges`, and masks of several splits): Tolokers and others
  by Platonov et al. A row of `edges` is an undirected edge, which becomes two directed ones.

Edges of sparse matrices are symmetrised, duplicates and self-loops are removed, and weights are not
read; a warning reports what changed. These data sets
have no public split, so one is drawn: 20 training and 30 validation nodes per class, others for
test.
Sources: Shchur, Mumme, Bojchevski, Gunnemann, "Pitfalls of graph neural network evaluation", 2018.
Platonov, Kuznedelev, Diskin, Babenko, Prokhorenkova, "A critical look at the evaluation of GNNs
under heterophily", ICLR 2023.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse
from numpy.typing import NDArray

from graphtheta.data.convert import split_columns
from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column, refuse
from graphtheta.data.tables import as_matrix
from graphtheta.datasets.safe_pickle import (
    MATRIX,
    matrix_of,
    read_npz,
    sparse_matrix,
)
from graphtheta.datasets.splits import random_split
from graphtheta.errors import ConfigError
from graphtheta.wording import counted

__all__ = ["both_ways", "feature_type", "read", "recognises"]

_log = logging.getLogger(__name__)

_SPARSE = ("adj_matrix", "node_attr", "node_label")
_ARRAYS = ("node_features", "node_labels", "edges")
_PACKED = (*(f"adj_{piece}" for piece in MATRIX), "labels")
_ATTRIBUTES = tuple(f"attr_{piece}" for piece in MATRIX)
_FLOAT32_INTEGERS, _FLOAT64_INTEGERS = 1 << 24, 1 << 53  # all up to these ones are exact
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
    masks = {
        name: _array(found[name], f"{path}: {name}", "biu", (1, 2)).T if name in found else None
        for name in _MASKS
    }
    given = [mask for mask in masks.values() if mask is not None]
    if given:
        num_splits = given[0].shape[1] if given[0].ndim == 2 else 1
        if not 0 <= seed < num_splits:
            raise ConfigError(
                f"{path}: expected the number of one of its {num_splits} splits, from 0, got "
                f"{seed}. Choose another."
            )
        nodes |= split_columns(masks, num_nodes, path)
        nodes["split:split"] = nodes.get(f"split:{seed}", nodes["split:split"])
    else:
        classes = nodes["label:y"].cast(pa.int64()).to_numpy()
        split = random_split(num_nodes, classes, train=20, val=30, seed=seed, per_class=True)
        nodes["split:split"] = pa.array(split)
    return Graph(pa.table(nodes), pa.table(edges))


_Columns = dict[str, Any]


def _of_packed(path: str, found: dict[str, Any]) -> tuple[_Columns, _Columns]:
    adjacency = matrix_of(found, "adj_", f"{path}: adj")
    features: pa.Array | None = None
    notes: list[str] = []
    if found.keys() >= set(_ATTRIBUTES):
        where = f"{path}: attr"
        matrix = matrix_of(found, "attr_", where)
        matrix.sum_duplicates()
        matrix.data = _counts_as_sets(matrix.data, notes)
        features = _features(matrix, where)
    elif "attr_matrix" in found:
        where = f"{path}: attr_matrix"
        given = _array(found["attr_matrix"], where, "biuf", (2,))
        values = _counts_as_sets(given.astype(feature_type(given, where)), notes)
        features = matrix_column(values)
    nodes = _nodes(path, features, found["labels"], num_nodes=adjacency.shape[0])
    return nodes, _symmetrised(path, adjacency, len(nodes["id"]), notes)


def _of_matrices(
    path: str, adjacency: Any, features: Any, labels: Any
) -> tuple[_Columns, _Columns]:
    matrix = sparse_matrix(adjacency, f"{path}: adj_matrix")
    where = f"{path}: node_attr"
    nodes = _nodes(path, _features(sparse_matrix(features, where), where), labels)
    return nodes, _symmetrised(path, matrix, len(nodes["id"]), [])


def _counts_as_sets(values: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """Return 0 and 1 for counts, which the published files contain, and other numbers unchanged."""
    if not ((values >= 0) & (values < np.inf) & (values == np.floor(values))).all():
        return values
    if values.max(initial=0) > 1:
        notes.append("features are counts, which became 0 and 1")
    return np.asarray(values > 0, np.float32)


def _symmetrised(
    path: str, adjacency: scipy.sparse.csr_matrix, num_nodes: int, notes: list[str]
) -> _Columns:
    pairs = adjacency.tocoo()
    kept = pairs.row != pairs.col
    edges = both_ways(path, pairs.row[kept], pairs.col[kept], num_nodes)
    if (pairs.data != 1).any():
        notes.append("edge weights are not read (to keep them, convert the file to Arrow tables)")
    if len(edges["src"]) != pairs.nnz:
        notes.append(
            f"{counted(pairs.nnz, 'edge')} became {len(edges['src']):,}, as reverses were added, "
            "and self-loops and duplicates removed"
        )
    if notes:
        _log.warning("%s: %s.", path, "; ".join(notes))
    return edges


def _features(matrix: scipy.sparse.csr_matrix, where: str) -> pa.Array:
    return as_matrix(matrix.astype(feature_type(matrix.data, where)), where)


def feature_type(values: NDArray[Any], where: str) -> np.dtype[Any]:
    """Return the type of features: float32, or float64 if there are numbers above 2^24.

    Raises:
        GraphFormatError: If float64 does not hold the integers exactly.
    """
    largest = max(abs(values.min(initial=0).item()), values.max(initial=0).item())
    if values.dtype.kind in "iu" and largest > _FLOAT64_INTEGERS:
        expected = f"integers up to {_FLOAT64_INTEGERS:,}, which float64 holds exactly"
        raise refuse(where, expected, f"{largest:,}", "Scale the features, or leave them out.")
    return np.dtype(np.float64 if largest > _FLOAT32_INTEGERS else np.float32)


def _of_arrays(path: str, features: Any, labels: Any, ends: Any) -> tuple[_Columns, _Columns]:
    values = _array(features, f"{path}: node_features", "biuf", (2,))
    kind = feature_type(values, f"{path}: node_features")
    nodes = _nodes(path, matrix_column(values.astype(kind, copy=False)), labels)
    ends_E2 = _array(ends, f"{path}: edges", "iu", (2,))
    if ends_E2.shape[1] != 2:
        raise refuse(f"{path}: edges", "two columns", f"shape {ends_E2.shape}", _CORRECT)
    return nodes, both_ways(path, ends_E2[:, 0], ends_E2[:, 1], len(nodes["id"]))


def _nodes(
    path: str, features: pa.Array | None, given: Any, num_nodes: int | None = None
) -> _Columns:
    labels = _array(given, f"{path}: labels", "biuf", (1,))
    num_nodes = num_nodes if features is None else len(features)
    if len(labels) != num_nodes:
        raise refuse(f"{path}: labels", f"{num_nodes:,}", f"{len(labels):,}", _CORRECT)
    if labels.dtype.kind == "f" and not (labels % 1 == 0).all():
        raise refuse(f"{path}: labels", "whole numbers", "others", "Number the classes from 0.")
    binary = labels.dtype.kind in "iu" and len(labels) > 0 and labels.max() == 1
    return {
        "id": pa.array(np.arange(num_nodes)),
        **({} if features is None else {"features": features}),
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
