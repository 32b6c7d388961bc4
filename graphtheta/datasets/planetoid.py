"""Reader of Planetoid folders: Cora, CiteSeer and Pubmed, in files `ind.<name>.<key>`.

The graph is the same as PyTorch Geometric's: node order, edges and public split (20 training nodes
per class, 500 for validation, 1,000 for test).

Source: Yang, Cohen, Salakhutdinov, "Revisiting semi-supervised learning with graph embeddings",
ICML 2016.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from graphtheta.data.graph import Graph
from graphtheta.data.schema import node_table, one_split, refuse
from graphtheta.datasets.safe_pickle import sparse_matrix, unpickle
from graphtheta.errors import GraphFormatError

__all__ = ["read", "recognises", "row_normalized"]

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
    train_y, test_y, all_y = (_load(part[key], np.ndarray) for key in ("y", "ty", "ally"))
    known, unknown = (
        sparse_matrix(_load(part[key], csr_matrix), str(part[key])) for key in ("allx", "tx")
    )
    # The rows of tx belong to the positions in the test index, which may skip some.
    num_nodes = int(test.max()) + 1
    features = np.zeros((num_nodes, known.shape[1]), np.float32)
    labels = np.zeros(num_nodes, np.int64)
    features[: known.shape[0]] = known.toarray()
    labels[: known.shape[0]] = all_y.argmax(axis=1)
    features[test] = unknown.toarray()
    labels[test] = test_y.argmax(axis=1)
    src, dst = _edges(_load(part["graph"], dict), num_nodes)
    keys = np.arange(num_nodes)
    train, val = keys < len(train_y), (keys >= len(train_y)) & (keys < len(train_y) + 500)
    split = one_split(train, val, np.isin(keys, test), str(folder))
    features = row_normalized(features) if normalize else features
    return Graph(node_table(keys, features, labels, split), pa.table({"src": src, "dst": dst}))


def row_normalized(values_NF: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features divided by the sum of their row, or by 1 if the sum is less.

    Shape:
        values_NF: (N, F) non-negative float32. Returns the same shape and type.
    """
    total = np.maximum(values_NF.sum(axis=1, keepdims=True), np.float32(1))
    return np.asarray(values_NF / total, np.float32)


def _edges(
    neighbours: dict[int, list[int]], num_nodes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Only Python can iterate over a dict of lists. As in PyTorch Geometric, duplicates and
    # self-loops are removed, and edges are sorted by destination.
    counts = np.fromiter(map(len, neighbours.values()), np.int64)
    src = np.repeat(np.fromiter(neighbours, np.int64), counts)
    dst = np.fromiter(itertools.chain.from_iterable(neighbours.values()), np.int64)
    pairs = np.unique((dst * num_nodes + src)[src != dst])
    return pairs % num_nodes, pairs // num_nodes


def _load(path: Path, kind: type[_T]) -> _T:
    with _found(path).open("rb") as file:
        value = unpickle(file, str(path))
    if not isinstance(value, kind):
        raise refuse(str(path), f"a pickled {kind.__name__}", type(value).__name__, _FETCH)
    return value


def _load_index(path: Path) -> NDArray[np.int64]:
    try:
        return np.loadtxt(_found(path), np.int64, ndmin=1)
    except ValueError as error:
        raise refuse(str(path), "one integer a line", f"{error}", _FETCH) from None


def _found(path: Path) -> Path:
    if not path.is_file():
        raise refuse(str(path), "a file of the data set", "none", _FETCH)
    return path


_FETCH = "Fetch the data set again."
