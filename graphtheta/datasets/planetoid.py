"""Reader of Planetoid folders: Cora, CiteSeer and Pubmed, in files `ind.<name>.<key>`.

The graph is the same as PyTorch Geometric's: node order, edges and public split (20 training nodes
per class, 500 for validation, 1,000 for test).

Source: Yang, Cohen, Salakhutdinov, "Revisiting semi-supervised learning with graph embeddings",
ICML 2016.
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from graphtheta.data.convert import one_split
from graphtheta.data.graph import Graph
from graphtheta.data.schema import node_table, refuse
from graphtheta.data.tables import as_matrix
from graphtheta.datasets.safe_pickle import sparse_matrix, unpickle
from graphtheta.errors import GraphFormatError

__all__ = ["read", "recognises", "row_normalize"]

_KEYS = ("tx", "allx", "y", "ty", "ally", "graph", "test.index")
_T = TypeVar("_T")


def recognises(path: str) -> bool:
    """Return whether `path` is a Planetoid folder."""
    return Path(path).is_dir() and any(Path(path).glob("ind.*.test.index"))


def read(path: str, *, normalize: bool = True) -> Graph:
    """Read a Planetoid folder.

    Args:
        path: Folder of one data set.
        normalize: Whether to divide the features of each node by their sum, as the examples of
            PyTorch Geometric do (NormalizeFeatures).

    Returns:
        The graph, with label `y` and split `split`. The id of a node is its row. Nodes that are
        missing from the test files of CiteSeer have features of 0, class 0 and no split.

    Raises:
        GraphFormatError: If a file is missing or damaged.
    """
    folder = Path(path)
    names = [file.name.split(".")[1] for file in folder.glob("ind.*.test.index")]
    if len(names) != 1:
        raise GraphFormatError(
            f"{folder}: expected one ind.<name>.test.index, got {len(names)}. "
            f"Put each data set into a folder of its own."
        )
    part = {key: folder / f"ind.{names[0]}.{key}" for key in _KEYS}
    test = _load_index(part["test.index"])
    train_y, test_y, all_y = (_load_classes(part[key]) for key in ("y", "ty", "ally"))
    known, unknown = (
        sparse_matrix(_load(part[key], csr_matrix), str(part[key])) for key in ("allx", "tx")
    )
    neighbours = _load(part["graph"], dict)
    # The rows of tx belong to the positions in the test index, which may skip some.
    num_nodes = int(test.max()) + 1
    if known.shape[1] != unknown.shape[1]:
        expected = f"features of {known.shape[1]:,} columns"
        raise refuse(str(part["tx"]), expected, f"{unknown.shape[1]:,}", _FETCH)
    num_known, num_test = known.shape[0], len(test)
    for key, rows, expected_rows in (
        ("ally", len(all_y), num_known),
        ("tx", unknown.shape[0], num_test),
        ("ty", len(test_y), num_test),
    ):
        if rows != expected_rows:
            raise refuse(str(part[key]), f"{expected_rows:,} rows", f"{rows:,}", _FETCH)
    if not len(train_y) <= num_known <= num_nodes <= num_known + num_test + len(neighbours):
        given = f"{len(train_y):,}, {num_known:,} and up to {num_nodes:,}"
        raise refuse(
            str(folder), "training nodes, known nodes and all nodes in this order", given, _FETCH
        )
    labels = np.zeros(num_nodes, np.int64)
    labels[:num_known] = all_y
    labels[test] = test_y
    src, dst = _edges(neighbours, num_nodes, part["graph"])
    keys = np.arange(num_nodes)
    train, val = keys < len(train_y), (keys >= len(train_y)) & (keys < len(train_y) + 500)
    split = one_split(train, val, np.isin(keys, test), str(folder))
    features = _joined(known.tocoo(), unknown.tocoo(), test, num_nodes)
    if normalize:
        features = row_normalize(features)
    column = as_matrix(features, f"{folder}: features")
    return Graph(node_table(keys, column, labels, split), pa.table({"src": src, "dst": dst}))


def _joined(known: Any, unknown: Any, test: NDArray[np.int64], num_nodes: int) -> csr_matrix:
    """Return the features of all nodes: those of `tx` take the place of rows of `allx`."""
    kept = ~np.isin(known.row, test)
    rows = np.concatenate([known.row[kept], test[unknown.row]])
    columns = np.concatenate([known.col[kept], unknown.col])
    values = np.concatenate([known.data[kept], unknown.data]).astype(np.float32)
    return csr_matrix((values, (rows, columns)), (num_nodes, known.shape[1]))


def row_normalize(features: csr_matrix) -> csr_matrix:
    """Return features divided by the sum of their row, or by 1 if the sum is less.

    Args:
        features: (N, F) non-negative float32.
    """
    matrix = features.tocsr()
    sums = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), np.float32(1))
    matrix.data = matrix.data / np.repeat(sums, np.diff(matrix.indptr)).astype(np.float32)
    return matrix


def _edges(
    neighbours: dict[int, list[int]], num_nodes: int, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Only Python can iterate over a dict of lists. As in PyTorch Geometric, duplicates and
    # self-loops are removed, and edges are sorted by destination.
    if not all(type(ends) is list for ends in neighbours.values()):
        raise refuse(str(path), "a list of neighbours for each node", "other values", _FETCH)
    counts = np.fromiter(map(len, neighbours.values()), np.int64, len(neighbours))
    if counts.sum() > path.stat().st_size:  # a neighbour takes at least a byte
        raise refuse(str(path), "lists that fit the file", "lists that repeat", _FETCH)
    try:
        src = np.repeat(np.fromiter(neighbours, np.int64, len(neighbours)), counts)
        dst = np.fromiter(itertools.chain.from_iterable(neighbours.values()), np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise refuse(str(path), "numbers of nodes", _one_line(error), _FETCH) from None
    for ends in (src, dst):
        if len(ends) and not 0 <= ends.min() <= ends.max() < num_nodes:
            got = f"{ends.min()} to {ends.max()}"
            raise refuse(str(path), f"nodes in [0, {num_nodes:,})", got, _FETCH)
    pairs = np.unique((dst * num_nodes + src)[src != dst])
    return pairs % num_nodes, pairs // num_nodes


def _load(path: Path, kind: type[_T]) -> _T:
    with _found(path).open("rb") as file:
        value = unpickle(file, str(path))
    if not isinstance(value, kind):
        raise refuse(str(path), f"a pickled {kind.__name__}", type(value).__name__, _FETCH)
    return value


def _load_classes(path: Path) -> NDArray[np.int64]:
    """Return the class of each row of a matrix with a column for each class."""
    values = _load(path, np.ndarray)
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "biuf":
        got = f"{values.dtype} of shape {values.shape}"
        raise refuse(str(path), "numbers with a column for each class", got, _FETCH)
    return np.asarray(values.argmax(axis=1), np.int64)


def _load_index(path: Path) -> NDArray[np.int64]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file
            index = np.loadtxt(_found(path), np.int64, ndmin=1)
    except (ValueError, OverflowError) as error:
        raise refuse(str(path), "one integer a line", _one_line(error), _FETCH) from None
    if index.ndim != 1 or not len(index) or index.min() < 0 or len(np.unique(index)) < len(index):
        raise refuse(str(path), "the distinct numbers of the test nodes", "others", _FETCH)
    return index


def _found(path: Path) -> Path:
    if not path.is_file():
        raise refuse(str(path), "a file of the data set", "none", _FETCH)
    return path


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


_FETCH = "Fetch the data set again."
