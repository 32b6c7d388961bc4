"""Reader of MUSAE's folders: GitHub, Facebook, Twitch, Wikipedia, and others of the same layout.

`<name>_edges.csv` has pairs of nodes, `<name>_features.json` a list of feature numbers for each
node, and `<name>_target.csv` the nodes with what is to be predicted. A row of edges is an
undirected edge, which becomes two directed ones; repeats are removed. There is no public split, so
one is drawn: 60 % of each class for training, 20 % for validation, 20 % for test.

Source: Rozemberczki, Allen, Sarkar, "Multi-scale attributed node embedding", Journal of Complex
Networks 9(2), 2021. Deezer Europe and LastFM Asia of the same authors have the same layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from graphtheta.data.graph import Graph
from graphtheta.data.mapping import Kinds, Names
from graphtheta.data.schema import matrix_column, need_column, refuse, whole
from graphtheta.data.sparse import MAX_WIDTH, SparseMatrix, pays, sparse_column
from graphtheta.datasets.graphsaint import read_json
from graphtheta.datasets.npz import both_ways
from graphtheta.datasets.safe_pickle import check_fits_memory
from graphtheta.datasets.splits import random_split
from graphtheta.errors import ConfigError

__all__ = ["read", "recognises"]

_EDGES, _FEATURES, _TARGET = "_edges.csv", "_features.json", "_target.csv"
_LABELS = ("target", "ml_target", "page_type", "mature")
_CORRECT = "Correct the file, or fetch it again."


def recognises(path: str) -> bool:
    """Return whether `path` is a folder with the three files of one data set."""
    return len(_stems(path)) == 1


def _stems(path: str) -> list[str]:
    folder = Path(path)
    stems = [file.name.removesuffix(_EDGES) for file in folder.glob(f"*{_EDGES}")]
    return [s for s in stems if all((folder / f"{s}{e}").is_file() for e in (_FEATURES, _TARGET))]


def read(
    path: str, *, labels: Names | None = None, label_kinds: Kinds | None = None, seed: int = 0
) -> Graph:
    """Read a folder of MUSAE.

    Args:
        path: Folder of one data set.
        labels: Label columns of the target file, or a mapping of label names to them. If None, the
            label `y` is `target`, `ml_target`, `page_type` or `mature`, or the last column.
        label_kinds: As in `graphtheta.data.mapping.ColumnOptions`. If None, 0 and 1 are binary.
        seed: Random seed of the split.

    Returns:
        The graph, with features of 0 and 1, the label `y` and the split `split`.

    Raises:
        ConfigError: If there is no such column or kind.
        GraphFormatError: If a file is damaged, or a node is not in the target file.
    """
    (stem,) = _stems(path)
    edges, features, target = (Path(path) / f"{stem}{end}" for end in (_EDGES, _FEATURES, _TARGET))
    table = _table(target)
    names = table.column_names
    ids = _ids(table, "new_id" if "new_id" in names else "id", target)
    if labels is None:
        labels = {"y": next((name for name in _LABELS if name in names), names[-1])}
    elif not isinstance(labels, Mapping):
        labels = {name: name for name in ([labels] if isinstance(labels, str) else labels)}
    columns = {name: _label(table, column, target) for name, column in labels.items()}
    if label_kinds is None:
        label_kinds = {name: "binary" for name, column in columns.items() if _is_binary(column)}
    nodes = {
        "id": ids,
        "features": _members(features, ids),
        **{f"label:{name}": column for name, column in columns.items()},
        "split:split": _split(next(iter(columns.values())), seed),
    }
    pairs = _table(edges)
    if pairs.num_columns < 2:
        raise refuse(str(edges), "two columns of nodes", f"{pairs.num_columns}", _CORRECT)
    src, dst = (_keys(_ids(pairs, name, edges), ids, str(edges)) for name in pairs.column_names[:2])
    keys = both_ways(str(edges), src, dst, len(ids))
    ends = {name: ids.take(pa.array(values)) for name, values in keys.items()}
    return Graph.from_arrow(pa.table(nodes), pa.table(ends), label_kinds=label_kinds)


def _label(table: pa.Table, column: object, target: Path) -> pa.Array:
    if not isinstance(column, str):
        raise ConfigError(f"{target}: expected one column for a label, got {column}. Name one.")
    return whole(table[need_column(column, table.column_names, str(target), "--label")])


def _is_binary(label: pa.Array) -> bool:
    bounds = pc.min_max(label) if pa.types.is_integer(label.type) else {}
    return [value.as_py() for value in bounds.values()] == [0, 1]


def _split(label: pa.Array, seed: int) -> NDArray[np.int8]:
    classes = None
    if not pa.types.is_floating(label.type):
        indices = label.dictionary_encode().indices
        classes = indices.fill_null(-1).to_numpy().astype(np.int64)
    return random_split(len(label), classes, train=0.6, val=0.2, seed=seed, per_class=True)


def _members(path: Path, ids: pa.Array) -> pa.Array:
    """Return a column of N rows and F columns: 1 where a node has a feature, else 0."""
    found = read_json(path)
    # Only Python can iterate over a dict of lists.
    lists = list(found.values())
    if not set(map(type, lists)) <= {list} or not all(map(str.isdecimal, found)):
        raise refuse(str(path), "a list of features for each node", "other values", _CORRECT)
    if not set(map(type, itertools.chain.from_iterable(lists))) <= {int}:
        raise refuse(str(path), "numbers of features", "other values", _CORRECT)
    try:
        nodes = pa.array(map(int, found), pa.int64())
        features = np.fromiter(itertools.chain.from_iterable(lists), np.int64)
    except (OverflowError, pa.ArrowException):
        raise refuse(str(path), "integers that fit int64", "larger ones", _CORRECT) from None
    if len(features) and features.min() < 0:
        raise refuse(str(path), "features from 0", f"{features.min()}", _CORRECT)
    shape = (len(ids), int(features.max(initial=-1)) + 1)
    if shape[1] > MAX_WIDTH:
        raise refuse(str(path), f"features below {MAX_WIDTH:,}", f"{shape[1] - 1:,}", _CORRECT)
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    rows = np.repeat(_keys(nodes, ids, str(path)), counts)
    column = sparse_column(rows, features, None, shape)
    matrix = SparseMatrix.of(column)
    if pays(len(ids), len(matrix.indices), column.type):
        return column
    check_fits_memory(shape, str(path))
    return matrix_column(matrix.dense())


def _table(path: Path) -> pa.Table:
    try:
        options = pyarrow.csv.ParseOptions(newlines_in_values=True)
        return pyarrow.csv.read_csv(path, parse_options=options)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise refuse(str(path), "a CSV file with a header line", reason, _CORRECT) from None


def _ids(table: pa.Table, name: str, path: Path) -> pa.Array:
    column = table[need_column(name, table.column_names, str(path))].combine_chunks()
    if not pa.types.is_integer(column.type) or column.null_count:
        got = "missing values" if column.null_count else column.type
        raise refuse(f"{path}: {name}", "integers", got, _CORRECT)
    return column.cast(pa.int64())


def _keys(nodes: pa.Array, ids: pa.Array, where: str) -> NDArray[np.int64]:
    keys = pc.index_in(nodes, ids)
    if keys.null_count:
        odd = nodes.filter(keys.is_null())[0]
        raise refuse(where, "nodes of the target file", f"{odd}", _CORRECT)
    return np.asarray(keys.cast(pa.int64()))
