"""Reader of graphs in an `npz` file, in the two forms in common use.

- Sparse matrices (`adj_matrix`, `node_attr`, `node_label`; pickled SciPy): Amazon Computers and
  others by Shchur et al. Edges are symmetrised, and duplicates and self-loops are removed. There is
  no public split, so one is drawn: 20 training and 30 validation nodes per class, others for test.
- Arrays (`node_features`, `node_labels`, `edges`, and masks of several splits): Tolokers and others
  by Platonov et al. A row of `edges` is an undirected edge, which becomes two directed ones.

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
from graphtheta.datasets.safe_pickle import read_npz, sparse_matrix
from graphtheta.datasets.splits import random_split

__all__ = ["read", "recognises"]

_SPARSE = ("adj_matrix", "node_attr", "node_label")
_ARRAYS = ("node_features", "node_labels", "edges")
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
        seed: Random seed of the split, if the file has none.

    Returns:
        The graph, with label `y` (bool if there are two classes) and split `split`. If the file has
        several splits, they are `0`, `1`, ..., and `split` is the first of them. The id of a node
        is its row.

    Raises:
        GraphFormatError: If the file is damaged, has another form, or contains a pickle of other
            objects than arrays and sparse matrices.
    """
    path = str(_file(path) or path)
    found = read_npz(path, (*_SPARSE, *_ARRAYS, *_MASKS))
    if found.keys() >= set(_SPARSE):
        nodes, edges = _of_matrices(path, *(found[name] for name in _SPARSE))
    elif found.keys() >= set(_ARRAYS):
        nodes, edges = _of_arrays(path, *(found[name] for name in _ARRAYS))
    else:
        raise refuse(
            path,
            f"members {', '.join(_SPARSE)} or {', '.join(_ARRAYS)}",
            ", ".join(found) or "none of them",
            "Convert it to Arrow tables.",
        )
    if found.keys() >= set(_MASKS):
        train, val, test = (np.asarray(found[name]).T for name in _MASKS)
        nodes |= split_columns(train, val, test, path)
    else:
        classes = nodes["label:y"].cast(pa.int64()).to_numpy()
        split = random_split(len(classes), classes, train=20, val=30, seed=seed, per_class=True)
        nodes["split:split"] = pa.array(split)
    return Graph(pa.table(nodes), pa.table(edges))


_Columns = dict[str, Any]


def _of_matrices(
    path: str, adjacency: Any, features: Any, labels: NDArray[Any]
) -> tuple[_Columns, _Columns]:
    pairs = sparse_matrix(adjacency, f"{path}: adj_matrix").tocoo()
    values = sparse_matrix(features, f"{path}: node_attr").toarray().astype(np.float32)
    kept = pairs.row != pairs.col
    edges = _both_ways(pairs.row[kept], pairs.col[kept], len(labels))
    return _nodes(values, labels), edges


def _of_arrays(
    path: str, features: NDArray[Any], labels: NDArray[Any], ends_E2: NDArray[Any]
) -> tuple[_Columns, _Columns]:
    if ends_E2.ndim != 2 or ends_E2.shape[1] != 2:
        raise refuse(f"{path}: edges", "two columns", f"shape {ends_E2.shape}", "Correct it.")
    values = features.astype(np.float32, copy=False)
    edges = _both_ways(ends_E2[:, 0], ends_E2[:, 1], len(labels))
    return _nodes(values, labels), edges


def _nodes(features_NF: NDArray[np.float32], labels: NDArray[Any]) -> _Columns:
    binary = labels.dtype.kind in "iu" and len(labels) > 0 and labels.max() == 1
    return {
        "id": pa.array(np.arange(len(features_NF))),
        "features": matrix_column(features_NF),
        "label:y": pa.array(labels.astype(np.bool_ if binary else np.int64)),
    }


def _both_ways(src: NDArray[Any], dst: NDArray[Any], num_nodes: int) -> dict[str, NDArray[Any]]:
    # Distinct pairs sorted by source and destination, as by PyTorch Geometric's to_undirected.
    forward, back = src.astype(np.int64), dst.astype(np.int64)
    pairs = np.unique(np.concatenate([forward * num_nodes + back, back * num_nodes + forward]))
    return {"src": pairs // num_nodes, "dst": pairs % num_nodes}
