"""Reader of GraphSAINT's folders: Flickr, Yelp, Amazon and others.

`adj_full.npz` has the adjacency (a CSR matrix of `scipy.sparse.save_npz`), `feats.npy` the
features, `class_map.json` the class of each node or its labels of 0 and 1, and `role.json` the
training (`tr`), validation (`va`) and test (`te`) nodes. The graph is the same as PyTorch
Geometric's: edges are those of the matrix, in its order.

Source: Zeng, Zhou, Srivastava, Kannan, Prasanna, "GraphSAINT: graph sampling based inductive
learning method", ICLR 2020.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.convert import one_split
from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column, node_table, refuse
from graphtheta.datasets.npz import feature_type
from graphtheta.datasets.safe_pickle import MATRIX, check_fits_memory, matrix_of, read_npz

__all__ = ["read", "read_json", "recognises"]

_ADJACENCY, _FEATURES = "adj_full.npz", "feats.npy"
_CLASSES, _ROLES = "class_map.json", "role.json"
_FETCH = "Fetch the data set again."


def recognises(path: str) -> bool:
    """Return whether `path` is a folder with the four files."""
    names = (_ADJACENCY, _FEATURES, _CLASSES, _ROLES)
    return all((Path(path) / name).is_file() for name in names)


def read(path: str) -> Graph:
    """Read a folder of GraphSAINT.

    Args:
        path: Folder of one data set.

    Returns:
        The graph, with label `y` (classes, or lists of 0 and 1) and split `split`. The id of a node
        is its row. Features are not normalised.

    Raises:
        GraphFormatError: If a file is missing or damaged, or they do not fit together.
    """
    folder = Path(path)
    where = str(folder / _ADJACENCY)
    found = read_npz(where, (*MATRIX, "format"))
    layout = np.asarray(found.get("format", b"csr")).astype(str)
    if layout.shape or layout.item() != "csr":
        raise refuse(where, "a matrix of format csr", repr(layout.tolist())[:60], _FETCH)
    adjacency = matrix_of(found, "", where)
    size = adjacency.shape[0]
    if adjacency.shape[1] != size:
        raise refuse(where, "a square matrix", f"shape {adjacency.shape}", _FETCH)
    features = _features(folder / _FEATURES, size)
    labels = _labels(folder / _CLASSES, size)
    split = _split(folder / _ROLES, size)
    pairs = adjacency.tocoo()
    edges = pa.table({"src": pairs.row.astype(np.int64), "dst": pairs.col.astype(np.int64)})
    return Graph(node_table(np.arange(size), features, labels, split), edges)


def read_json(path: Path, kind: type[dict[str, Any]] = dict) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        GraphFormatError: If the file cannot be read, or contains something else than an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        got = str(error).splitlines()[0][:200]
        raise refuse(str(path), "a JSON file", got, _FETCH) from None
    if not isinstance(value, kind):
        raise refuse(str(path), "a JSON object", type(value).__name__, _FETCH)
    return value


def _features(path: Path, num_nodes: int) -> NDArray[Any]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        got = str(error).splitlines()[0][:200]
        raise refuse(str(path), "an array of numbers", got, _FETCH) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim != 2:
        got = f"{values.dtype} of shape {values.shape}" if hasattr(values, "dtype") else "others"
        raise refuse(str(path), "numbers with a row for each node", got, _FETCH)
    if len(values) != num_nodes:
        raise refuse(str(path), f"{num_nodes:,} rows", f"{len(values):,}", _FETCH)
    check_fits_memory(values.shape, str(path))
    return np.array(values, feature_type(values, str(path)))


def _labels(path: Path, num_nodes: int) -> pa.Array:
    """Return classes, or lists of 0 and 1; null for nodes without an entry."""
    found = read_json(path)
    rows = _nodes(path, found, num_nodes)
    unknown = np.ones(num_nodes, np.bool_)
    unknown[rows] = False
    kinds = set(map(type, found.values()))
    if kinds == {int}:
        classes = np.zeros(num_nodes, np.int64)
        classes[rows] = _integers(path, found.values())
        return pa.array(classes, mask=unknown)
    widths = set(map(len, found.values())) if kinds == {list} else set()
    if len(widths) != 1:
        raise refuse(str(path), "an integer, or lists of one length", "other values", _FETCH)
    values = _integers(path, itertools.chain.from_iterable(found.values()))
    if len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise refuse(str(path), "labels of 0 and 1", f"{values.min()} to {values.max()}", _FETCH)
    labels = np.zeros((num_nodes, widths.pop()), np.bool_)
    labels[rows] = values.reshape(len(rows), -1)
    column = matrix_column(labels)
    mask = pa.array(unknown)
    return pa.FixedSizeListArray.from_arrays(column.values, column.type.list_size, mask=mask)


def _split(path: Path, num_nodes: int) -> NDArray[np.int8]:
    found = read_json(path)
    masks_3N = np.zeros((3, num_nodes), np.bool_)
    for mask, name in zip(masks_3N, ("tr", "va", "te"), strict=True):
        if not isinstance(found.get(name), list):
            raise refuse(f"{path}: {name}", "a list of nodes", "none", _FETCH)
        rows = _integers(path, found[name])
        _check_range(path, rows, num_nodes)
        mask[rows] = True
    train, val, test = masks_3N
    return one_split(train, val, test, str(path))


def _nodes(path: Path, found: dict[str, Any], num_nodes: int) -> NDArray[np.int64]:
    """Return the numbers of nodes that are the keys of an object."""
    if not all(map(str.isdecimal, found)):
        raise refuse(str(path), "numbers of nodes as keys", "other texts", _FETCH)
    rows = _integers(path, map(int, found))
    _check_range(path, rows, num_nodes)
    return rows


def _check_range(path: Path, rows: NDArray[np.int64], num_nodes: int) -> None:
    if len(rows) and not 0 <= rows.min() <= rows.max() < num_nodes:
        got = f"{rows.min()} to {rows.max()}"
        raise refuse(str(path), f"nodes from 0 to {num_nodes - 1:,}", got, _FETCH)


def _integers(path: Path, values: Any) -> NDArray[np.int64]:
    listed = list(values)
    if not set(map(type, listed)) <= {int}:
        raise refuse(str(path), "integers", "other values", _FETCH)
    try:
        return np.array(listed, np.int64)
    except OverflowError:
        raise refuse(str(path), "integers that fit int64", "larger ones", _FETCH) from None
