"""Export to DGL's chunked graph format, the input of its `tools/dispatch_data.py`, with parts.

```
metadata.json                        counts, and the files of edges, node_data and edge_data
edges/part-00000.csv                 lines of "src dst", as node ids
node_data/feat/part-00000.npy        a column of nodes; also edge_data
node_columns/part-00000.parquet      columns that cannot be arrays, by node_key; also edge_columns
partition/_N.txt                     the part of the master of each node, one per line
partition/partition_meta.json        number of parts
graphtheta.json                      manifest of the store, and the names of all columns
```
There is a chunk for each part, which is empty if the part has no edges. The id of a node is its new
id, so that no ids are looked up. DGL puts every edge into the part of its destination, so that only
the parts of the nodes of a vertex-cut are kept. Needs neither dgl nor torch.

In a typed graph, the id of a node counts the nodes of its type, part by part. Each node type or
relation has its own files: edges/author-writes-paper/part-00000.csv,
node_data/author/feat/part-00000.npy, node_columns/author/part-00000.parquet, partition/author.txt.

Memory: one part.

Source: DGL user guide, 7.1.2 "Distributed Graph Partitioning Pipeline", and `tools/` of DGL. Up to
1.0 it reads `num_nodes_per_chunk` and `num_edges_per_chunk`, later `..._per_type`; both are there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from graphtheta.export.checks import refuse_names
from graphtheta.export.columns import (
    Columns,
    folder_names,
    survey,
    write_record,
    write_rest,
)
from graphtheta.export.ids import Ids, destinations, number_ids
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["EDGE_NAMES", "NODE_NAMES", "REFUSED", "type_names", "write"]

NODE_TYPE = "_N"  # DGL's names of the only node type and the only edge type
EDGE_TYPE = "_N:_E:_N"
REFUSED = (":", "/")  # DGL separates types by the first, and columns from types by the second
NODE_NAMES = {"features": "feat", "label": "label"}
EDGE_NAMES = {"attr": "feat", "type": "etype", "label": "label"}
_LINES = csv.WriteOptions(include_header=False, delimiter=" ")
_MAX_LINES = 1 << 20  # lines that are written at a time


def write(store: Store, folder: Path, name: str) -> None:
    """Write the folder; `name` is the name of the graph.

    Raises:
        ConfigError: If two columns would get the same name, or DGL cannot represent the name of a
            type.
    """
    refuse_names(store, "dgl-chunked", REFUSED)
    found, ids = survey(store, NODE_NAMES, EDGE_NAMES), number_ids(store)
    for sub in ("edges", "node_data", "edge_data", "partition"):
        (folder / sub).mkdir()
    for index in range(store.num_parts):
        part = store.part(index)
        _write_edges(store, part, ids.of_replicas(part).within_type, folder / "edges")
        types, relations = folder_names(store)
        for i, (of_type, columns) in enumerate(zip(types, found.nodes, strict=True)):
            _write_columns(columns, part.masters_of(i), "node", of_type, index, folder)
        for i, (relation, columns) in enumerate(zip(relations, found.edges, strict=True)):
            _write_columns(columns, part.in_edges_of(i), "edge", relation, index, folder)
    _write_assignment(store, ids, folder / "partition")
    metadata = _metadata(store, ids, name, folder)
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")
    write_record(store, found, folder)


def type_names(store: Store) -> tuple[list[str], list[str]]:
    """Return DGL's names of the node types and of the relations of a store."""
    if not store.manifest.is_typed:
        return [NODE_TYPE], [EDGE_TYPE]
    types, _ = folder_names(store)
    return types, [":".join(spec.relation) for spec in store.manifest.relations]


def _write_edges(store: Store, part: PartTables, ids_L: NDArray[np.int64], folder: Path) -> None:
    src, dst = ids_L[column_numpy(part.in_edges, "src")], ids_L[destinations(part)]
    for i, relation in enumerate(folder_names(store)[1]):
        (folder / relation).mkdir(exist_ok=True)
        rows = part.rows_of_relation(i)
        ends = pa.table({"src": src[rows], "dst": dst[rows]})
        csv.write_csv(ends, folder / relation / f"part-{part.part:05d}.csv", _LINES)


def _write_columns(
    columns: Columns, table: pa.Table, kind: str, owner: str, index: int, folder: Path
) -> None:
    (folder / f"{kind}_data" / owner).mkdir(exist_ok=True)
    for name, array in columns.arrays(table):
        of_column = folder / f"{kind}_data" / owner / name
        of_column.mkdir(exist_ok=True)
        np.save(of_column / f"part-{index:05d}.npy", array)
    rest = folder / f"{kind}_columns" / owner / f"part-{index:05d}.parquet"
    write_rest(columns, table, f"{kind}_key", rest)


def _write_assignment(store: Store, ids: Ids, folder: Path) -> None:
    for of_type, counts in zip(type_names(store)[0], ids.nodes.T.tolist(), strict=True):
        with (folder / f"{of_type}.txt").open("w") as file:
            for part, count in enumerate(counts):
                for start in range(0, count, _MAX_LINES):
                    file.write(f"{part}\n" * min(_MAX_LINES, count - start))
    # DGL accepts only these two names of an algorithm, and does not use them.
    algorithm = "metis" if store.manifest.method == "metis" else "random"
    meta = {"version": "1.0.0", "num_parts": store.num_parts, "algo_name": algorithm}
    (folder / "partition_meta.json").write_text(json.dumps(meta, indent=4) + "\n")


def _metadata(store: Store, ids: Ids, name: str, folder: Path) -> dict[str, Any]:
    types, relations = type_names(store)
    type_folders, relation_folders = folder_names(store)

    def files(of: Path, suffix: str) -> list[str]:
        return [f"{of.as_posix()}/part-{part:05d}.{suffix}" for part in range(store.num_parts)]

    def data(sub: str, owner: str) -> dict[str, Any]:
        at = Path(sub, owner)
        return {
            column.name: {"format": {"name": "numpy"}, "data": files(at / column.name, "npy")}
            for column in sorted((folder / at).iterdir())
        }

    return {
        "graph_name": name,
        "node_type": types,
        "num_nodes_per_type": ids.nodes.sum(axis=0).tolist(),
        "num_nodes_per_chunk": ids.nodes.T.tolist(),
        "edge_type": relations,
        "num_edges_per_type": ids.edges.sum(axis=0).tolist(),
        "num_edges_per_chunk": ids.edges.T.tolist(),
        "edges": {
            relation: {
                "format": {"name": "csv", "delimiter": " "},
                "data": files(Path("edges", owner), "csv"),
            }
            for relation, owner in zip(relations, relation_folders, strict=True)
        },
        "node_data": {
            of_type: data("node_data", owner)
            for of_type, owner in zip(types, type_folders, strict=True)
        },
        "edge_data": {
            relation: data("edge_data", owner)
            for relation, owner in zip(relations, relation_folders, strict=True)
        },
    }
