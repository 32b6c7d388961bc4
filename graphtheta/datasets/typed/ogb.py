"""Reader of OGB's raw folders of heterogeneous graphs, such as ogbn-mag.

`raw/num-node-dict.csv.gz` has the number of nodes of each type, `raw/triplet-type-list.csv.gz` the
relations, and `raw/relations/<source>___<name>___<destination>/` the edges of each one, as pairs of
rows of node types. Features of nodes, labels and splits exist for some of the types. The id of a
node is its row.

Source: Hu, Fey, Zitnik, Dong, Ren, Liu, Catasta, Leskovec, "Open Graph Benchmark: Datasets for
Machine Learning on Graphs", NeurIPS 2020.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from graphtheta.data.graph import Graph
from graphtheta.data.mapping import ColumnOptions, Kinds
from graphtheta.data.schema import as_numpy, matrix_column, refuse, whole
from graphtheta.data.types import Relation
from graphtheta.datasets.safe_pickle import check_fits_memory
from graphtheta.datasets.splits import split_of_rows
from graphtheta.datasets.typed.options import options_by_type
from graphtheta.wording import counted

__all__ = ["read", "recognises"]

_END = ".csv.gz"
_TRIPLES = f"raw/triplet-type-list{_END}"
_COUNTS = f"raw/num-node-dict{_END}"
_FEATURES = {"node-feat": "features", "edge-feat": "attr"}
_FETCH = "Correct the file, or fetch it again."


def recognises(path: str) -> bool:
    """Return whether `path` is a folder with the node counts and triples of a typed graph."""
    return all((Path(path) / name).is_file() for name in (_TRIPLES, _COUNTS))


def read(path: str, *, label_kinds: Kinds | None = None) -> Graph:
    """Read an OGB folder with one graph of several node types and relations into memory.

    Node types and relations are sorted by name, as OGB does. `node-feat` becomes `features`,
    `edge-feat` becomes `attr`, `node-label` the label `y`, and the split the split `split`; if
    there are several splits, each has the name of its folder. Other files with a row for each node
    or edge, such as `node_year`, become columns of their names.

    Args:
        path: Folder of the data set, with `raw` and `split`.
        label_kinds: As in `graphtheta.data.mapping.ColumnOptions`.

    Raises:
        ConfigError: If the name of a type contains `-`.
        GraphFormatError: If a file is missing or damaged, has another number of rows than there are
            nodes or edges, or there are several graphs.
    """
    folder = Path(path)
    counts = _by_type(folder / _COUNTS)
    labelled = _by_type(folder / f"raw/nodetype-has-label{_END}")
    nodes = {}
    for name in sorted(counts):
        count = _count(counts[name], folder / _COUNTS)
        columns = {
            "id": pa.array(np.arange(count)),
            **_rows(folder / "raw/node-feat" / name, count),
        }
        if labelled.get(name):
            file = folder / "raw/node-label" / name / f"node-label{_END}"
            columns["label:y"] = _column(_table(file, count), None)
        nodes[name] = pa.table(columns | _splits(folder / "split", name, count))
    edges = {}
    triples = _table(folder / _TRIPLES)
    if triples.num_columns != 3:
        raise refuse(str(folder / _TRIPLES), "3 names in a line", triples.num_columns, _FETCH)
    for triple in sorted(zip(*(column.to_pylist() for column in triples.columns), strict=True)):
        relation = Relation.of([str(name) for name in triple])
        files = folder / "raw/relations" / "___".join(relation)
        number = files / f"num-edge-list{_END}"
        count = _count(_table(number, 1)[0][0].as_py(), number)
        ends = _table(files / f"edge{_END}", count, 2)
        columns = {"src": ends[0], "dst": ends[1], **_rows(files, count)}
        edges[relation] = pa.table(columns)
    kinds = ColumnOptions() if label_kinds is None else ColumnOptions(label_kinds=label_kinds)
    names = {name: table.column_names for name, table in nodes.items()}
    options: dict[Any, Any] = options_by_type(kinds, names, {})
    return Graph.from_arrow(nodes, edges, columns=options)


def _by_type(path: Path) -> dict[str, Any]:
    """Return the values of a file with a header line of node types and one line of values."""
    table = _read(path, pyarrow.csv.ReadOptions())
    if table.num_rows != 1:
        got = counted(table.num_rows, "line")
        raise refuse(str(path), "one line of values, for one graph", got, "Split the graphs.")
    return dict(table.to_pylist()[0])


def _count(value: Any, path: Path) -> int:
    if not isinstance(value, int) or value < 0:
        raise refuse(str(path), "a number of rows", repr(value), _FETCH)
    check_fits_memory((value,), str(path))
    return value


def _rows(folder: Path, count: int) -> dict[str, pa.Array]:
    """Return the columns in a folder of a node type or a relation, except its edges."""
    columns = {}
    for file in sorted(folder.glob(f"*{_END}")):
        name = file.name.removesuffix(_END)
        if name in _FEATURES:
            columns[_FEATURES[name]] = _column(_table(file, count, kind=pa.float32()), pa.float32())
        elif name not in ("edge", "num-edge-list"):
            columns[name] = _column(_table(file, count), None)
    return columns


def _splits(folder: Path, name: str, count: int) -> dict[str, pa.Array]:
    """Return the splits of a node type."""
    found = {}
    runs = sorted(file.parent for file in folder.glob(f"*/nodetype-has-split{_END}"))
    for run in runs:
        if _by_type(run / f"nodetype-has-split{_END}").get(name):
            files = [run / name / f"{part}{_END}" for part in ("train", "valid", "test")]
            rows = [as_numpy(_table(file, columns=1)[0]) for file in files]
            title = "split" if len(runs) == 1 else run.name
            found[f"split:{title}"] = pa.array(split_of_rows(rows, count, str(run / name)))
    return found


def _column(table: pa.Table, kind: pa.DataType | None) -> pa.Array:
    """Return a column of the values of each line, lists if there are several or `kind` is given."""
    if kind is None and table.num_columns == 1:
        return whole(table[0])
    values = [
        as_numpy(c.cast(kind or pa.float64()).fill_null(np.nan) if c.null_count else c)
        for c in table.columns
    ]
    return matrix_column(np.stack(values, axis=1))


def _table(
    path: Path,
    count: int | None = None,
    columns: int | None = None,
    kind: pa.DataType | None = None,
) -> pa.Table:
    """Return a file without a header line.

    Args:
        path: The file.
        count: Number of its lines, if it is known.
        columns: Number of its columns, if it is known.
        kind: Type of its columns. If None, that of the values.
    """
    options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
    if count == 0:
        return pa.table({f"f{i}": pa.array([], kind or pa.int64()) for i in range(columns or 1)})
    table = _read(path, options, kind)
    for what, expected, got in (
        ("line", count, table.num_rows),
        ("column", columns, table.num_columns),
    ):
        if expected is not None and got != expected:
            raise refuse(str(path), counted(expected, what), f"{got:,}", _FETCH)
    return table


def _read(
    path: Path, options: pyarrow.csv.ReadOptions, kind: pa.DataType | None = None
) -> pa.Table:
    try:
        names = []
        if kind is not None:
            with pyarrow.csv.open_csv(path, read_options=options) as reader:
                names = reader.schema.names
        types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, kind))
        return pyarrow.csv.read_csv(path, read_options=options, convert_options=types)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise refuse(str(path), "a CSV file", reason, _FETCH) from None
